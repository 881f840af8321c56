"""Comparing a file with what a daemon has: through breaks, no longer than need be, in bounded memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from google.rpc import code_pb2
from ims_client import CallFailed, FileSource, ImsClient, delta_source, open_source
from imsctl.image_delta import find_known

from imsd.v1 import upload_pb2
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.fake_state import Refusal

MIB = 1 << 20
BLOCK = 4096
# A block of data at a time, with a hole after each: a chunk every 48 KiB.
STEP = 12 * BLOCK


def scattered(path: Path, chunks: int) -> Path:
    chance = random.Random(chunks)
    with path.open("wb") as file:
        for number in range(chunks):
            file.seek(number * STEP)
            file.write(chance.randbytes(BLOCK))
        file.truncate(chunks * STEP)
    return path


def an_upload(path: Path, committed_offset: int = 0) -> upload_pb2.Upload:
    size_bytes = path.stat().st_size
    return upload_pb2.Upload(
        id="1", size_bytes=size_bytes, proof_key=bytes(32), committed_offset=committed_offset
    )


def steps_of(source: delta_source.DeltaSource) -> list[tuple[int, int, int]]:
    """Start, end and number of chunks of each step; they follow each other and end with the file."""
    source.seek(0)
    steps: list[tuple[int, int, int]] = []
    while step := source.next_step():
        assert step.start == (steps[-1][1] if steps else 0)
        steps.append((step.start, step.end, len(step.chunks)))
    assert steps[-1][1] == source.size_bytes
    return steps


async def test_a_daemon_that_is_away_for_a_moment_is_asked_again(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    path = scattered(tmp_path / "disk", 700)
    daemon.state.refuse_next["FindUploadChunks"] = [
        Refusal(code_pb2.UNAVAILABLE, "UNAVAILABLE", "it is stopped")
    ]
    with open_source(str(path)) as file:
        assert isinstance(file, FileSource)
        source = await find_known(client, an_upload(path), file, lambda offset: None)
        assert source.known_bytes == 700 * BLOCK
        assert sum(count for _, _, count in steps_of(source)) == 700


async def test_a_refusal_is_told_before_all_is_read(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    path = scattered(tmp_path / "disk", 512 * 30)
    refusal = Refusal(code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED", "not you")
    daemon.state.refuse_next["FindUploadChunks"] = [refusal] * 30
    reached = [0]
    with open_source(str(path)) as file:
        assert isinstance(file, FileSource)
        with pytest.raises(CallFailed, match="not you"):
            await find_known(client, an_upload(path), file, reached.append)
    assert max(reached) < path.stat().st_size // 2


async def test_nothing_is_asked_of_what_the_upload_has(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    path = scattered(tmp_path / "disk", 100)
    with open_source(str(path)) as file:
        assert isinstance(file, FileSource)
        upload = an_upload(path, committed_offset=60 * STEP + 100)
        source = await find_known(client, upload, file, lambda offset: None)
        whole = await find_known(client, an_upload(path), file, lambda offset: None)
    assert len(daemon.state.asked_chunks) == 39 + 100
    assert source.known_bytes == 39 * BLOCK
    assert source.digest == whole.digest


async def test_what_is_known_beyond_the_limit_is_sent(
    client: ImsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_source, "MAX_KNOWN_CHUNKS", 1000)
    path = scattered(tmp_path / "disk", 512 * 20)
    with open_source(str(path)) as file:
        assert isinstance(file, FileSource)
        source = await find_known(client, an_upload(path), file, lambda offset: None)
        named = sum(count for _, _, count in steps_of(source))
    assert 1000 <= named <= 1000 + 4 * 512

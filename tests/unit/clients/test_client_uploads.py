"""Uploads with `ims_client`: whole, sparse, through every kind of break."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from google.rpc import code_pb2
from ims_client import (
    CallFailed,
    FileSource,
    ImsClient,
    LocalFileFailed,
    OpenedUpload,
    StreamSource,
    UploadOptions,
    UploadSender,
    open_source,
    open_upload,
    send_upload,
)

from imsd.chunks.tree_digest import TreeHasher
from imsd.v1 import upload_pb2
from tests.unit.clients.conftest import until
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.fake_state import Refusal, digest_of

MIB = 1 << 20
OPTIONS = UploadOptions(new_hasher=TreeHasher)


def random_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def sparse_file(path: Path, size: int, pieces: dict[int, bytes]) -> bytes:
    """A file with holes; returns its content."""
    with path.open("wb") as file:
        for offset, piece in pieces.items():
            file.seek(offset)
            file.write(piece)
        file.truncate(size)
    return path.read_bytes()


async def upload(client: ImsClient, path: Path | str, options: UploadOptions = OPTIONS) -> upload_pb2.Upload:
    with open_source(str(path)) as source:
        opened = await open_upload(client, source, options)
        return await send_upload(client, opened.upload, source, options)


async def test_an_upload_under_another_key_is_not_gone_on_with(client: ImsClient, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(random_bytes(MIB))
    opened: dict[str, str] = {}
    for keys in (("payroll", "web", ""), ("web", "", "payroll")):
        for key in keys:
            with open_source(str(tmp_path / "disk")) as source:
                found = await open_upload(client, source, UploadOptions(key=key))
            assert opened.setdefault(key, found.upload.id) == found.upload.id
            assert found.upload.is_encrypted == bool(key)
    assert len(set(opened.values())) == 3


async def test_a_file_arrives_whole_and_is_vouched_for(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random_bytes(5 * MIB + 4321)
    (tmp_path / "disk").write_bytes(content)
    committed = await upload(client, tmp_path / "disk")
    assert committed.state == upload_pb2.UPLOAD_STATE_COMMITTED
    assert committed.digest == digest_of(content)
    assert daemon.state.uploads[committed.id].content == content
    assert committed.file_name == "disk"


async def test_holes_and_blocks_of_zeros_travel_as_lengths(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    pieces = {0: random_bytes(MIB), 40 * MIB: bytes(3 * MIB), 50 * MIB: random_bytes(10_000)}
    content = sparse_file(tmp_path / "disk", 64 * MIB + 1, pieces)
    committed = await upload(client, tmp_path / "disk")
    assert daemon.state.uploads[committed.id].content == content
    data = [length for kind, length in daemon.state.messages if kind == "data"]
    zeros = [length for kind, length in daemon.state.messages if kind == "zero"]
    assert sum(data) <= MIB + 16 * 1024
    assert len(zeros) == 2  # the written zeros are part of the run around them
    assert sum(data) + sum(zeros) == len(content)


async def test_short_holes_do_not_make_short_messages(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    pieces = {offset: random_bytes(4096, offset) for offset in range(0, 4 * MIB, 8192)}
    content = sparse_file(tmp_path / "disk", 4 * MIB, pieces)
    committed = await upload(client, tmp_path / "disk")
    assert daemon.state.uploads[committed.id].content == content
    assert len(daemon.state.messages) <= 6


@pytest.mark.parametrize("seed", range(6))
async def test_an_upload_goes_on_after_streams_that_break_anywhere(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    pieces = {chance.randrange(0, 12 * MIB): chance.randbytes(chance.randrange(1, 3 * MIB)) for _ in range(5)}
    content = sparse_file(tmp_path / "disk", 20 * MIB + chance.randrange(5000), pieces)
    daemon.state.drop_at = sorted(chance.randrange(1, len(content)) for _ in range(4))
    committed = await upload(client, tmp_path / "disk")
    assert daemon.state.uploads[committed.id].content == content
    assert committed.digest == digest_of(content)
    assert daemon.state.calls.count("WriteUpload") >= 2


async def test_an_upload_survives_a_restart_of_the_daemon(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random_bytes(64 * MIB)
    (tmp_path / "disk").write_bytes(content)
    sending = asyncio.create_task(upload(client, tmp_path / "disk"))
    await until(lambda: any(u.message.committed_offset for u in daemon.state.uploads.values()))
    await daemon.stop()
    (held,) = daemon.state.uploads.values()
    assert held.message.committed_offset < len(content)
    await asyncio.sleep(0.3)
    await daemon.start()
    committed = await sending
    assert daemon.state.uploads[committed.id].content == content


async def test_a_daemon_that_stays_away_ends_the_upload(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(random_bytes(4 * MIB))
    daemon.state.drop_at = [MIB] * 1000
    with open_source(str(tmp_path / "disk")) as source:
        opened = await open_upload(client, source, OPTIONS)
        with pytest.raises(CallFailed) as failed:
            await UploadSender(client.uploads, source, patience_seconds=0.3).send(opened.upload)
    assert failed.value.reason == "DAEMON_UNREACHABLE"


async def test_an_interrupted_upload_of_the_same_file_is_found_again(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random_bytes(7 * MIB)
    (tmp_path / "disk").write_bytes(content)
    opened = await break_off(client, daemon, tmp_path / "disk", 5 * MIB)
    daemon.state.messages.clear()
    with open_source(str(tmp_path / "disk")) as source:
        again = await open_upload(client, source, OPTIONS)
        assert again.is_resumed
        assert again.upload.id == opened.upload.id
        committed = await send_upload(client, again.upload, source, OPTIONS)
    assert committed.digest == digest_of(content)
    assert sum(length for _, length in daemon.state.messages) <= 3 * MIB


async def test_a_resumed_file_that_was_not_the_same_is_refused_by_its_digest(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(random_bytes(7 * MIB))
    opened = await break_off(client, daemon, path, 5 * MIB)
    path.write_bytes(random_bytes(7 * MIB, seed=2))
    with open_source(str(path)) as source:
        assert not (await open_upload(client, source, OPTIONS)).is_resumed
        current = await client.uploads.get(opened.upload.id)
        with pytest.raises(CallFailed) as refused:
            await send_upload(client, current, source, OPTIONS)
    assert refused.value.reason == "DIGEST_MISMATCH"


async def break_off(client: ImsClient, daemon: FakeDaemon, path: Path, offset: int) -> OpenedUpload:
    """An upload of ``path`` that ended at ``offset`` bytes for good."""
    daemon.state.drop_at = [offset]
    with open_source(str(path)) as source:
        opened = await open_upload(client, source, OPTIONS)
        with pytest.raises(CallFailed):
            await UploadSender(client.uploads, source, patience_seconds=0).send(opened.upload)
    return opened


async def test_two_uploads_of_one_file_at_once_do_not_take_each_other_over(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random_bytes(6 * MIB)
    (tmp_path / "disk").write_bytes(content)
    first, second = await asyncio.gather(*(upload(client, tmp_path / "disk") for _ in range(2)))
    assert first.id != second.id
    assert first.digest == second.digest == digest_of(content)


async def test_a_newer_writer_ends_the_older_one(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    refusal = Refusal(code_pb2.ABORTED, "UPLOAD_TAKEN_OVER", "a newer writer took over", "only one can send")
    daemon.state.refuse_next["WriteUpload"] = [refusal]
    (tmp_path / "disk").write_bytes(random_bytes(MIB))
    with pytest.raises(CallFailed) as refused:
        await upload(client, tmp_path / "disk")
    assert refused.value.reason == "UPLOAD_TAKEN_OVER"
    assert refused.value.hint == "only one can send"
    assert daemon.state.calls.count("WriteUpload") == 1


async def test_a_stale_offset_is_asked_for_again(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    refusal = Refusal(code_pb2.ABORTED, "UPLOAD_OFFSET_MISMATCH", "goes on elsewhere")
    daemon.state.refuse_next["WriteUpload"] = [refusal]
    (tmp_path / "disk").write_bytes(random_bytes(MIB))
    committed = await upload(client, tmp_path / "disk")
    assert committed.state == upload_pb2.UPLOAD_STATE_COMMITTED


async def test_a_pipe_is_sent_again_from_what_was_kept(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    content = random_bytes(9 * MIB + 5) + bytes(4 * MIB) + random_bytes(100)
    daemon.state.drop_at = [MIB, 3 * MIB + 7, 10 * MIB]
    read_fd, write_fd = os.pipe()
    feeding = asyncio.create_task(asyncio.to_thread(feed, write_fd, content))
    source = StreamSource(read_fd, "a pipe")
    try:
        opened = await open_upload(client, source, OPTIONS)
        committed = await send_upload(client, opened.upload, source, OPTIONS)
    finally:
        source.close()
        await feeding
        os.close(read_fd)
    assert opened.upload.size_bytes == 0
    assert committed.size_bytes == len(content)
    assert daemon.state.uploads[committed.id].content == content
    assert committed.digest == digest_of(content)


async def test_a_silent_pipe_can_be_given_up_on(client: ImsClient, daemon: FakeDaemon) -> None:
    read_fd, write_fd = os.pipe()
    source = StreamSource(read_fd, "a pipe")
    try:
        opened = await open_upload(client, source, OPTIONS)
        sending = asyncio.create_task(send_upload(client, opened.upload, source, OPTIONS))
        await until(lambda: "WriteUpload" in daemon.state.calls)
        sending.cancel()
        done, _ = await asyncio.wait([sending], timeout=5)
        assert done
    finally:
        source.close()
        os.close(read_fd)
        os.close(write_fd)


def feed(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(content)


async def test_a_file_that_changes_while_it_is_sent_is_not_committed(
    client: ImsClient, daemon: FakeDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(random_bytes(3 * MIB))
    with open_source(str(path)) as source:
        opened = await open_upload(client, source, OPTIONS)
        os.utime(path, ns=(1, 1))
        with pytest.raises(LocalFileFailed, match="changed"):
            await send_upload(client, opened.upload, source, OPTIONS)
    assert "CommitUpload" not in daemon.state.calls


async def test_a_file_that_shrinks_is_named(client: ImsClient, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(random_bytes(3 * MIB))
    with open_source(str(path)) as source:
        opened = await open_upload(client, source, OPTIONS)
        os.truncate(path, MIB)
        with pytest.raises(LocalFileFailed):
            await send_upload(client, opened.upload, source, OPTIONS)


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(LocalFileFailed, match=str(tmp_path)), open_source(str(tmp_path / name)):
        pass


def test_steps_cover_a_file_whatever_its_holes(tmp_path: Path) -> None:
    for seed in range(20):
        chance = random.Random(seed)
        size = chance.randrange(1, 6 * MIB)
        pieces = {
            chance.randrange(size): chance.randbytes(chance.randrange(1, 300_000))
            for _ in range(chance.randrange(6))
        }
        path = tmp_path / f"disk{seed}"
        content = sparse_file(path, size, pieces)
        begin = chance.randrange(size)
        with open_source(str(path)) as source:
            assert isinstance(source, FileSource)
            source.seek(begin)
            position = begin
            while step := source.next_step():
                assert step.start == position
                assert (step.data or bytes(step.length)) == content[step.start : step.end]
                position = step.end
        assert position == size

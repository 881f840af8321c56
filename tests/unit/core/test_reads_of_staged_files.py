"""How often a job reads what was staged: once to prove it, once to store what is in it."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.staged_source import STAGING_PREFIX
from imsd.contract import BlobId, ByteRange
from imsd.formats.raw import RawBlocks
from imsd.formats.registry import open_writer
from imsd.formats.source import MemorySource
from imsd.metadata import uploads as upload_rows
from imsd.metadata.database import Database
from imsd.metadata.records import JobState, PartRecord
from tests.packages import ova
from tests.unit.core.core_world import STORE
from tests.unit.core.import_world import MIB, ImportService, ImportWorld, failed
from tests.unit.formats.disk_files import write_file

DISK = random.Random(1).randbytes(12 * MIB)
# The head and the tail of a file, its tables, and the few places that two windows share.
LOOKS_BYTES = 2 * MIB


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


@pytest.fixture(scope="module")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("disk") / "disk.qcow2"
    return write_file(open_writer("qcow2", RawBlocks(MemorySource(DISK))), path).read_bytes()


def staged_reads(service: ImportService, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all that is read of staged files from now on."""
    lengths: list[int] = []
    store = service.runtime.stores.get(STORE)
    read = store.read

    async def counted(blob_id: BlobId, ranges: Sequence[ByteRange]) -> Sequence[bytes]:
        if blob_id.startswith(STAGING_PREFIX):
            lengths.extend(each.length for each in ranges)
        return await read(blob_id, ranges)

    monkeypatch.setattr(store, "read", counted)
    return lengths


PACK: dict[str, Callable[[bytes], bytes]] = {
    "a disk": lambda file: file,
    "packed": lambda file: gzip.compress(file, 1),
    "a package": lambda file: ova({"disk.qcow2": file}),
}


@pytest.mark.parametrize("kind", PACK)
async def test_a_file_is_read_once_to_be_proved_and_once_to_be_stored(
    world: ImportWorld, qcow2: bytes, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file = PACK[kind](qcow2)
    expected = hashlib.sha256(file).hexdigest()
    async with world.serving(upload_part_bytes=4 * MIB) as service:
        upload = await service.send(file, expected_sha256=expected)
        lengths = staged_reads(service, monkeypatch)
        done = await service.end_of(await service.start(upload_id=upload))
        assert done.record.state is JobState.SUCCESS, done
    unpacked_bytes = 2 * len(qcow2) if kind == "packed" else 0
    assert sum(lengths) <= 2 * len(file) + unpacked_bytes + LOOKS_BYTES


async def test_the_sha256_of_a_file_that_became_chunks_is_compared(world: ImportWorld) -> None:
    file = DISK[:-100]
    async with world.serving() as service:
        wrong = await service.import_file(file, expected_sha256=hashlib.sha256(DISK).hexdigest())
        assert failed(wrong) == "DIGEST_MISMATCH"
        right = await service.import_file(file, expected_sha256=hashlib.sha256(file).hexdigest())
        assert right.record.state is JobState.SUCCESS, right


@pytest.mark.parametrize("kind", PACK)
async def test_the_parts_of_a_file_are_asked_for_once(
    world: ImportWorld, qcow2: bytes, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[str] = []
    upload_parts = upload_rows.upload_parts

    async def counted(c: AsyncConnection, upload_id: str) -> list[PartRecord]:
        asked.append(upload_id)
        return await upload_parts(c, upload_id)

    async with world.serving() as service:
        upload = await service.send(PACK[kind](qcow2))
        monkeypatch.setattr(upload_rows, "upload_parts", counted)
        done = await service.end_of(await service.start(upload_id=upload))
        assert done.record.state is JobState.SUCCESS, done
    assert len(asked) == len(set(asked))

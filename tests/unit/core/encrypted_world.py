"""Images that are encrypted: their keys, their data keys, and a look at everything that is kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from imsd.contract import BlobStore, ByteRange, run_blocking
from imsd.core.keys.project_keys import NewKey, ProjectKeys
from imsd.core.requests import RequestKey
from imsd.formats.raw import RawBlocks
from imsd.formats.registry import open_writer
from imsd.formats.source import MemorySource
from imsd.metadata import keys as key_rows
from imsd.metadata.keys import DataKeyRecord, KeyRecord
from tests.unit.core.core_world import new_id
from tests.unit.core.import_world import MIB, PROJECT, ImportService
from tests.unit.formats.disk_files import write_file

# Each piece of it is in the store as it is, or in no form: it does not shrink.
DISK = random.Random(7).randbytes(5 * MIB) + bytes(2 * MIB) + random.Random(8).randbytes(MIB)

MARK_BYTES = 48


def marks(content: bytes) -> list[bytes]:
    """Pieces of ``content`` that stand nowhere by chance, one of each 16 KiB."""
    found = [content[start : start + MARK_BYTES] for start in range(0, len(content) - MARK_BYTES, 16 << 10)]
    return [mark for mark in found if len(set(mark)) > MARK_BYTES // 2]


def as_format(name: str, folder: Path, disk: bytes = DISK) -> bytes:
    writer = open_writer(name, RawBlocks(MemorySource(disk)))
    return write_file(writer, folder / f"disk.{name}").read_bytes()


async def new_key(service: ImportService, name: str = "payroll") -> KeyRecord:
    keys = ProjectKeys(service.runtime)
    return await keys.create(RequestKey(PROJECT, "", new_id()), NewKey(name=name))


async def data_keys(service: ImportService) -> Sequence[DataKeyRecord]:
    """Those of all keys."""
    found = []
    async with service.runtime.database.reading() as c:
        for key in await key_rows.list_keys(c, PROJECT, (), 100, None):
            found += await key_rows.older_data_keys(c, key.id, 1 << 30, 1000, "")
    return found


async def kept_bytes(service: ImportService, folder: Path) -> bytes:
    """All that is kept: the blobs of every store, and the files of the database in ``folder``."""
    pieces = await run_blocking(_files, folder)
    for name in service.runtime.stores.ready_names():
        pieces += await blobs_of(service.runtime.stores.get(name))
    return b"\0".join(pieces)


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.glob("db.sqlite3*")]


async def blobs_of(store: BlobStore) -> list[bytes]:
    pieces = []
    async for blob in store.list():
        if blob.size_bytes:
            pieces.append(bytes((await store.read(blob.id, [ByteRange(0, blob.size_bytes)]))[0]))
    return pieces


async def require_secret(service: ImportService, folder: Path, plain: bytes) -> None:
    """Nothing that is kept has a piece of ``plain``, or a data key."""
    kept = await kept_bytes(service, folder)
    assert [mark.hex() for mark in marks(plain) if mark in kept] == []
    for record in await data_keys(service):
        assert await service.runtime.data_keys.unwrapped(record.image_id) not in kept

"""Store a disk without a daemon and without a socket: what the ingest itself takes.

    python -m tests.benchmark.ingest_file FOLDER         makes an empty store, as a daemon has one
    python -m tests.benchmark.ingest_file FOLDER DISK    stores a disk in it

The same parts as in the daemon: database, local store, decode pool, pipeline, manifest; each durable when
the command ends.
"""

from __future__ import annotations

from imsd.allocator import keep_freed_memory, start_no_blas_threads

keep_freed_memory()
start_no_blas_threads()

# ruff: noqa: E402  # the allocator comes before everything that allocates
import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from imsd_localfs.options import LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.pack_writer import IngestTarget
from imsd.contract import BlobStore
from imsd.formats.detect import open_image
from imsd.formats.source import FileSource
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import Database, open_database


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Database, BlobStore]]:
    async with (
        open_database(f"sqlite+aiosqlite:///{folder / 'imsd.sqlite3'}") as database,
        open_local_store(LocalStoreOptions(path=folder / "store")) as store,
    ):
        yield database, store


async def prepare(folder: Path) -> None:
    async with opened(folder):
        pass


async def ingest(disk: Path, folder: Path) -> int:
    """Returns the bytes that were stored."""
    pool = DecodePool()
    fd = os.open(disk, os.O_RDONLY)
    holder = Holder(HolderKind.READER, str(uuid.uuid4()))
    async with opened(folder) as (database, store):
        index = SqlChunkIndex(database, lambda: datetime.now(UTC))
        target = IngestTarget(store, "main", index, "default", holder)
        blocks = open_image(FileSource(fd), None, 1 << 60).blocks
        async with ManifestWriter(target) as manifest, DiskIngest(pool, target, manifest) as running:
            await running.copy_from(blocks)
            result = await running.finish(blocks.size_bytes)
            written = await manifest.commit(result.size_bytes, result.digest)
    os.close(fd)
    pool.close()
    return written.stored_size


if __name__ == "__main__":
    place, *disks = map(Path, sys.argv[1:])
    for each in disks:
        print(asyncio.run(ingest(each, place)))
    if not disks:
        place.mkdir(parents=True)
        asyncio.run(prepare(place))

"""Store a disk without a daemon and without a socket: what the ingest itself takes.

    python -m tests.benchmark.ingest_file DISK FOLDER

The same parts as in the daemon: database, local store, decode pool, pipeline, manifest; each durable when
the command ends.
"""

from __future__ import annotations

from imsd.allocator import keep_freed_memory

keep_freed_memory()

# ruff: noqa: E402  # the allocator comes before everything that allocates
import asyncio
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

from imsd_localfs.options import LocalStoreOptions
from imsd_localfs.store import open_local_store

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.pack_writer import IngestTarget
from imsd.formats.detect import open_image
from imsd.formats.source import FileSource
from imsd.metadata.chunk_index import SqlChunkIndex
from imsd.metadata.database import open_database


async def ingest(disk: Path, folder: Path) -> int:
    """Returns the bytes that were stored."""
    pool = DecodePool()
    fd = os.open(disk, os.O_RDONLY)
    holder = Holder(HolderKind.READER, str(uuid.uuid4()))
    async with (
        open_database(f"sqlite+aiosqlite:///{folder / 'imsd.sqlite3'}") as database,
        open_local_store(LocalStoreOptions(path=folder / "store")) as store,
    ):
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
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    print(asyncio.run(ingest(Path(sys.argv[1]), Path(sys.argv[2]))))

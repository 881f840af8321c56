"""An ingest into a directory: a file without a blob's name until `commit` gives it one.

`commit` syncs the bytes, links the name, then syncs the folder: a name never points at a partial
blob, even after a power cut. Linking fails when the name is taken, so the first commit wins.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from imsd.contract import (
    WRITING,
    BlobId,
    Buffer,
    FailedPrecondition,
    Ingest,
    StoredBlob,
    run_in_pool,
    translate_os_errors,
)

from .folders import Folders
from .ingest_file import IngestFile, IngestFiles

# The kernel takes this many buffers in one call (UIO_MAXIOV).
MAX_BUFFERS = 1024


class LocalIngest(Ingest):
    """Writes to a file of ``files`` in threads of ``pool``; `open` and `close` frame its life."""

    def __init__(self, blob: BlobId, files: IngestFiles, folders: Folders, pool: ThreadPoolExecutor) -> None:
        self._blob = blob
        self._files = files
        self._folders = folders
        self._pool = pool
        self._file: IngestFile | None = None
        self._is_whole = True  # every write so far was appended in full

    async def open(self) -> None:
        with translate_os_errors(f"blob {self._blob}", WRITING):
            await run_in_pool(self._pool, self._open)

    async def write(self, buffers: Sequence[Buffer]) -> None:
        with translate_os_errors(f"blob {self._blob}", WRITING):
            await run_in_pool(self._pool, self._append, buffers)

    async def commit(self) -> StoredBlob:
        with translate_os_errors(f"blob {self._blob}", WRITING):
            return await run_in_pool(self._pool, self._publish)

    async def close(self) -> None:
        """Free the file. Happens even when the caller is cancelled while it waits here."""
        if self._file is not None:
            closed = self._pool.submit(self._file.close)
            self._file = None
            await asyncio.shield(asyncio.wrap_future(closed))

    # What follows runs in threads, one call at a time.

    def _open(self) -> None:
        # Kept here, not returned: a cancelled caller would lose it, and with it the descriptor.
        self._file = self._files.create()

    def _append(self, buffers: Sequence[Buffer]) -> None:
        fd = self._opened().fd
        # A cancelled or failed call may have appended a part: such a file must never become a blob.
        self._is_whole = False
        rest = [view for view in (memoryview(buffer).cast("B") for buffer in buffers) if view.nbytes]
        while rest:
            rest = _skip(rest, os.writev(fd, rest[:MAX_BUFFERS]))
        self._is_whole = True

    def _publish(self) -> StoredBlob:
        file = self._opened()
        if not self._is_whole:
            raise FailedPrecondition(f"blob {self._blob}: a write failed, so there is nothing to commit")
        os.utime(file.fd)  # the time of the commit, not of the last write
        self._folders.prepare_file(file.fd)
        self._folders.link(file.path, self._blob, file.folder_fd)
        return stored_blob(self._blob, os.fstat(file.fd))

    def _opened(self) -> IngestFile:
        if self._file is None:
            raise FailedPrecondition(f"blob {self._blob}: the ingest was left already")
        return self._file


def stored_blob(blob: BlobId, status: os.stat_result) -> StoredBlob:
    """What the file system knows of a blob."""
    version = f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return StoredBlob(blob, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), version)


def _skip(views: list[memoryview], written: int) -> list[memoryview]:
    """What is left of ``views`` after ``written`` bytes: a write may be short."""
    for index, view in enumerate(views):
        if written < view.nbytes:
            return [view[written:], *views[index + 1 :]]
        written -= view.nbytes
    return []

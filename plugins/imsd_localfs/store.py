"""A blob store in a directory: the blob ``packs/0a/0a11`` is the file of that name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

from imsd.contract import (
    READING,
    WRITING,
    BlobId,
    BlobStore,
    ByteRange,
    DataLoss,
    Ingest,
    InvalidRequest,
    StoreCapabilities,
    StoredBlob,
    StoreUsage,
    run_blocking,
    run_in_pool,
    translate_os_errors,
)

from .folders import Folders, make_folder
from .ingest import LocalIngest
from .ingest_file import IngestFiles, offers_unnamed_files, remove_stale_files
from .listing import Entry, Tree, Wanted, stat_one
from .open_blobs import OpenBlob, OpenBlobs
from .options import LocalStoreOptions

# Blobs whose size and time are looked up in one go.
STAT_BATCH = 512


@asynccontextmanager
async def open_local_store(options: LocalStoreOptions) -> AsyncIterator[BlobStore]:
    """Open the directory, made if need be, and clean up after ingests that died.

    Raises InvalidRequest (INVALID_CONFIGURATION), FailedPrecondition (STORE_READ_ONLY),
    Unavailable (STORE_UNAVAILABLE).
    """
    async with AsyncExitStack() as stack:
        with translate_os_errors(f"the directory {options.path}", WRITING):
            root_fd = _open_directory(options)
            stack.callback(os.close, root_fd)
            files = IngestFiles(root_fd, unnamed=offers_unnamed_files(root_fd))
            stack.callback(files.close)
        pool = ThreadPoolExecutor(options.threads, "localfs")
        store = LocalStore(root_fd, files, pool, options)
        stack.callback(store.close_blobs)
        # Threads end before what they use is closed.
        stack.push_async_callback(run_blocking, pool.shutdown)
        await run_in_pool(pool, remove_stale_files, root_fd)
        yield store


class LocalStore(BlobStore):
    """Every call to the file system runs in a thread of ``pool``."""

    capabilities = StoreCapabilities(put_if_absent=True)

    def __init__(
        self, root_fd: int, files: IngestFiles, pool: ThreadPoolExecutor, options: LocalStoreOptions
    ) -> None:
        self._root_fd = root_fd
        self._tree = Tree(root_fd, options.is_shared)
        self._files = files
        self._pool = pool
        self._folders = Folders(root_fd, file_mode=options.mode, fsync=options.fsync)
        self._open_blobs = OpenBlobs(root_fd, options.open_files)

    def close_blobs(self) -> None:
        self._open_blobs.close()

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        ingest = LocalIngest(blob, self._files, self._folders, self._pool)
        try:
            await ingest.open()
            yield ingest
        finally:
            await ingest.close()

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        with translate_os_errors(f"blob {blob}", READING):
            return await run_in_pool(self._pool, _read, self._open_blobs, blob, ranges)

    async def stat(self, blob: BlobId) -> StoredBlob:
        with translate_os_errors(f"blob {blob}", READING):
            return await run_in_pool(self._pool, stat_one, self._root_fd, blob)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        wanted = Wanted(prefix, after)
        with translate_os_errors("the list of blobs", READING):
            ahead = await run_in_pool(self._pool, self._tree.scan_behind, None, wanted)
        while ahead:
            if not ahead[-1].is_blob:
                entry = ahead.pop()
                with translate_os_errors(f"the list of blobs in {entry.id}", READING):
                    ahead += await run_in_pool(self._pool, self._tree.scan_behind, entry, wanted)
                continue
            batch = _take_blobs(ahead)
            with translate_os_errors("the list of blobs", READING):
                found = await run_in_pool(self._pool, self._tree.stat_all, batch)
            for stored in found:
                yield stored

    async def delete(self, blob: BlobId) -> None:
        # Not synced: a deletion that a power cut undoes leaves a blob that the sweep finds again.
        with translate_os_errors(f"blob {blob}", WRITING):
            await run_in_pool(self._pool, self._delete, blob)

    async def usage(self) -> StoreUsage:
        """Counts the blobs: a second or so for 100,000 of them."""
        used_bytes = 0
        async for stored in self.list():
            used_bytes += stored.size_bytes
        with translate_os_errors("the file system of the store", READING):
            room = await run_in_pool(self._pool, os.statvfs, self._root_fd)
        return StoreUsage(used_bytes, room.f_bavail * room.f_frsize)

    def _delete(self, blob: BlobId) -> None:
        try:
            self._folders.unlink(blob)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        finally:
            self._open_blobs.drop(blob)


def _open_directory(options: LocalStoreOptions) -> int:
    """The descriptor of the store's directory. Blocks, once, when the daemon starts."""
    try:
        make_folder(options.path, options.mode)
    except FileExistsError:
        pass
    except OSError as error:
        if not options.path.is_dir():  # on a read-only disk, say, it may well exist
            raise InvalidRequest(
                f"the directory {options.path} cannot be made: {error.strerror}",
                reason="INVALID_CONFIGURATION",
                hint=f"make {options.path.parent} first; if it is a mount point, mount it",
            ) from error
    try:
        return os.open(options.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise InvalidRequest(
            f"{options.path} is no directory", reason="INVALID_CONFIGURATION", field="path"
        ) from error


def _take_blobs(ahead: list[Entry]) -> list[str]:
    """Take the next blobs, up to what has to be looked into first, off the end of ``ahead``."""
    batch: list[str] = []
    while ahead and ahead[-1].is_blob and len(batch) < STAT_BATCH:
        batch.append(ahead.pop().id)
    return batch


def _read(open_blobs: OpenBlobs, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
    with open_blobs.reading(blob) as opened:
        for wanted in ranges:
            if wanted.end > opened.size_bytes:
                raise DataLoss(
                    f"blob {blob} has {opened.size_bytes} bytes, {wanted.end} were expected",
                    hint="the file was cut short by something else than this store",
                )
        return [_read_range(blob, opened, wanted) for wanted in ranges]


def _read_range(blob: BlobId, opened: OpenBlob, wanted: ByteRange) -> bytes:
    pieces = []
    offset = wanted.offset
    while offset < wanted.end:  # one call reads 2 GiB at most
        piece = os.pread(opened.fd, wanted.end - offset, offset)
        if not piece:
            raise DataLoss(f"blob {blob} became shorter while it was read")
        pieces.append(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

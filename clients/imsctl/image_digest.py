"""`imsctl image digest`: the tree digest of a disk, of a local file or of an image."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from ims_client import ClientError, LocalFileFailed, cannot_read

from imsd.v1 import image_pb2

from . import choice
from .json_fields import disk_format
from .output import print_json
from .progress import TransferMeter
from .session import Session


@dataclass(frozen=True, slots=True)
class DiskDigest:
    """``virtual_size`` in bytes."""

    digest: str
    virtual_size: int
    disk_format: str


async def print_digest(session: Session, what: str, format_name: str) -> None:
    """``what`` is a file if there is one of that name, else an image."""
    choice.choose(image_pb2.DiskFormat, format_name, "--format")
    if what == "-":
        raise typer.BadParameter(
            "standard input has no digest, a disk is read in any order: name a file", param_hint="FILE|IMAGE"
        )
    if _names_a_file(what):
        found = await _watched_digest(session, Path(what), format_name)
    else:
        async with session.connect() as client:
            image = await client.images.resolve(what)
        found = DiskDigest(image.digest, image.virtual_size_bytes, disk_format(image.disk_format))
    if session.is_json:
        print_json(
            {
                "source": what,
                "digest": found.digest,
                "virtual_size": found.virtual_size,
                "disk_format": found.disk_format,
            }
        )
    else:
        print(f"{found.digest}  {what}")


async def _watched_digest(session: Session, path: Path, format_name: str) -> DiskDigest:
    """`digest_of_file` in a thread, with progress; broken off, it stops at the next piece."""
    is_stopping = threading.Event()
    with session.progress() as view:
        row, meter = view.row(), TransferMeter("digest", 0)

        def advance(done: int, total: int) -> None:
            if is_stopping.is_set():
                raise _Stopped
            row.show(meter.at(done, total))

        reading = asyncio.ensure_future(asyncio.to_thread(digest_of_file, path, format_name, advance))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            is_stopping.set()
            await asyncio.wait([reading])  # it draws on the view, and Python's exit would wait for it as well
            if not reading.cancelled():
                reading.exception()  # fetched, so that nobody complains of it
            raise


def digest_of_file(
    path: Path, format_name: str, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> DiskDigest:
    """Read a disk in any format without the daemon. Raises `ClientError`, and what ``on_progress`` raises."""
    # Loaded here: numpy and the readers of all formats take longer than most commands.
    from imsd.chunks.disk_digest import digest_blocks
    from imsd.contract import ImsError
    from imsd.formats.detect import open_image
    from imsd.formats.reader import MAX_VIRTUAL_SIZE_BYTES
    from imsd.formats.source import FileSource

    try:
        with _opened(path) as fd:
            opened = open_image(FileSource(fd), format_name or None, MAX_VIRTUAL_SIZE_BYTES)
            total = opened.blocks.size_bytes
            digest = digest_blocks(opened.blocks, on_progress=lambda done: on_progress(done, total))
    except OSError as error:
        raise cannot_read(path, error) from error
    except ImsError as error:
        raise ClientError(error.reason, error.message, error.hint) from error
    return DiskDigest(digest, opened.blocks.size_bytes, opened.format_name)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of what can be read in any order. Raises `LocalFileFailed`, OSError."""
    # Not to wait for somebody to write when it is a named pipe.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a stream"
            raise LocalFileFailed(f"{path} is {kind}, which has no digest", "name the file of a disk image")
        yield fd
    finally:
        os.close(fd)


def _names_a_file(what: str) -> bool:
    return os.sep in what or os.path.exists(what)


class _Stopped(Exception):
    """The digest is no longer wanted."""

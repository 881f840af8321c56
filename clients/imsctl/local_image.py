"""A disk image on this machine, read here without the daemon."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ims_client import ClientError, LocalFileFailed, cannot_read

from . import wording

# numpy and the readers of all formats take longer to load than most commands: functions load them.
if TYPE_CHECKING:
    from imsd.formats.reader import OpenedImage
    from imsd.formats.source import ByteSource

# Called with a phase, the bytes done and those of all, 0 when unknown.
OnPhase = Callable[[str, int, int], None]

READ_BYTES = 1 << 20
# Zeros are left out of a file that is unpacked, so that it takes no more room than its data.
_ZEROS = bytes(READ_BYTES)


class Stopped(Exception):
    """What was asked for is no longer wanted."""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An opened disk. ``file_size`` in bytes; ``wrapper``: what its file was packed with, or empty."""

    image: OpenedImage
    file_size: int
    wrapper: str = ""


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """A disk in a file. ``member``: the name it has in a package; empty when it is all of the file."""

    member: str
    open: Callable[[], AbstractContextManager[LocalImage]]


@contextmanager
def open_local_image(
    path: Path, format_name: str = "", on_phase: OnPhase = lambda phase, done, total: None, disk: int = 0
) -> Iterator[LocalImage]:
    """Open the disk in a file; ``disk``: which one of a package, 1 for the first, 0 for the only one.

    Arguments and errors are else those of `open_local_disks`.
    """
    with open_local_disks(path, format_name, on_phase) as disks:
        if not 1 <= (number := disk or (1 if len(disks) == 1 else 0)) <= len(disks):
            raise _no_such_disk(path, disks)
        with disks[number - 1].open() as image:
            yield image


@contextmanager
def open_local_disks(
    path: Path, format_name: str = "", on_phase: OnPhase = lambda phase, done, total: None
) -> Iterator[Sequence[LocalDisk]]:
    """What a file holds: one disk, or those of a package. What was compressed whole is unpacked first.

    ``format_name``: what the disks must be; empty: any. Raises `ClientError`, and what ``on_phase`` raises.
    """
    from imsd.contract import ImsError
    from imsd.formats.source import FileSource

    try:
        with _opened(path) as fd, _unpacked(FileSource(fd), format_name, on_phase) as (file, wrapper):
            file_size = os.lseek(fd, 0, os.SEEK_END)
            disks = _packaged_disks(file, format_name, on_phase)
            yield disks or [LocalDisk("", partial(_open, file, format_name, file_size, wrapper))]
    except BrokenPipeError:  # of the output
        raise
    except OSError as error:
        raise cannot_read(path, error) from error
    except ImsError as error:
        raise ClientError(error.reason, error.message, error.hint) from error


def _packaged_disks(file: ByteSource, format_name: str, on_phase: OnPhase) -> list[LocalDisk]:
    """The disks of a package; none of any other file. Raises InvalidRequest (DIGEST_MISMATCH)."""
    from imsd.formats.detect import PACKAGES, detect
    from imsd.formats.ova import member_source, open_package

    from .package_check import check_descriptor, check_member

    if format_name == "raw" or detect(file) not in PACKAGES:
        return []
    package = open_package(file)
    check_descriptor(file, package, on_phase)
    return [
        LocalDisk(
            disk.member.name,
            partial(
                _open_member,
                partial(check_member, file, package, disk.member, on_phase),
                member_source(file, disk.member),
                disk.wrapper,
                format_name,
                on_phase,
            ),
        )
        for disk in package.disks
    ]


@contextmanager
def _open_member(
    check: Callable[[], None], member: ByteSource, wrapper: str, format_name: str, on_phase: OnPhase
) -> Iterator[LocalImage]:
    check()
    with (
        _unpacked(member, format_name, on_phase, wrapper) as (file, wrapper),
        _open(file, format_name, member.size_bytes, wrapper) as image,
    ):
        yield image


@contextmanager
def _open(file: ByteSource, format_name: str, file_size: int, wrapper: str) -> Iterator[LocalImage]:
    from imsd.formats.detect import open_image
    from imsd.formats.reader import MAX_VIRTUAL_SIZE_BYTES

    yield LocalImage(open_image(file, format_name or None, MAX_VIRTUAL_SIZE_BYTES), file_size, wrapper)


def _no_such_disk(path: Path, disks: Sequence[LocalDisk]) -> ClientError:
    if not disks[0].member:
        return LocalFileFailed(f"{path} holds one disk", "leave --disk out")
    names = ", ".join(f"{number} {disk.member!r}" for number, disk in enumerate(disks, 1))
    return LocalFileFailed(
        f"{path} is a package of {wording.disks(len(disks))}: {names}",
        f"choose one with --disk N, 1 to {len(disks)}" if len(disks) > 1 else "leave --disk out",
    )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of what can be read in any order. Raises `LocalFileFailed`, OSError."""
    # Not to wait for somebody to write when it is a named pipe.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a stream"
            raise LocalFileFailed(f"{path} is {kind}, not a disk image", "name the file of a disk image")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _unpacked(
    source: ByteSource, format_name: str, on_phase: OnPhase, known_wrapper: str = ""
) -> Iterator[tuple[ByteSource, str]]:
    """The file itself, or what it unpacks to in a file of no name; and what it was packed with."""
    from imsd.formats.detect import find_wrapper
    from imsd.formats.source import FileSource

    wrapper = known_wrapper or find_wrapper(source, format_name)
    if not wrapper:
        yield source, ""
        return
    with _nameless_file() as unpacked:
        _unpack(source, wrapper, unpacked.fileno(), on_phase)
        yield FileSource(unpacked.fileno()), wrapper


def _nameless_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="imsctl-")
    except OSError as error:
        raise LocalFileFailed(
            f"there is no place to unpack the file: {error.strerror}", "name a directory for it in TMPDIR"
        ) from error


def _unpack(source: ByteSource, wrapper: str, fd: int, on_phase: OnPhase) -> None:
    from imsd.formats.reader import MAX_VIRTUAL_SIZE_BYTES
    from imsd.formats.unwrap import Unwrapper

    unwrapper = Unwrapper(wrapper, MAX_VIRTUAL_SIZE_BYTES)
    position = 0
    for start in range(0, source.size_bytes, READ_BYTES):
        on_phase("unpack", start, source.size_bytes)
        for piece in unwrapper.feed(source.read(start, min(READ_BYTES, source.size_bytes - start))):
            if piece != _ZEROS[: len(piece)]:
                _write(fd, memoryview(piece), position)
            position += len(piece)
    unwrapper.finish()
    os.ftruncate(fd, position)


def _write(fd: int, content: memoryview, position: int) -> None:
    try:
        while content:  # pwrite(2) may be short
            written = os.pwrite(fd, content, position)
            content, position = content[written:], position + written
    except OSError as error:
        raise LocalFileFailed(
            f"cannot unpack into {tempfile.gettempdir()}: {error.strerror}",
            "make room there, or name another directory in TMPDIR",
        ) from error

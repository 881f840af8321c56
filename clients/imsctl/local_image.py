"""A disk image on this machine, read here without the daemon."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from ims_client import ClientError, LocalFileFailed, cannot_read

# numpy and the readers of all formats take longer to load than most commands: functions load them.
if TYPE_CHECKING:
    from imsd.formats.reader import OpenedImage
    from imsd.formats.source import FileSource

# Called with a phase, the bytes done and those of all, 0 when unknown.
OnPhase = Callable[[str, int, int], None]

READ_BYTES = 1 << 20
# Zeros are left out of a file that is unpacked, so that it takes no more room than its data.
_ZEROS = bytes(READ_BYTES)


class Stopped(Exception):
    """What was asked for is no longer wanted."""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An opened file. ``file_size`` in bytes; ``wrapper``: what it was packed with, or empty."""

    image: OpenedImage
    file_size: int
    wrapper: str = ""


def names_a_file(what: str) -> bool:
    """Whether ``what`` is meant as a file and not as an image."""
    return os.sep in what or os.path.exists(what)


def refuse_standard_input(what: str, param_hint: str) -> None:
    """Raises typer.BadParameter."""
    if what == "-":
        raise typer.BadParameter(
            "standard input cannot be read in any order, as a disk is: name a file", param_hint=param_hint
        )


@contextmanager
def open_local_image(
    path: Path, format_name: str = "", on_phase: OnPhase = lambda phase, done, total: None
) -> Iterator[LocalImage]:
    """Open the disk in a file, unpacking the file first when it was compressed whole.

    ``format_name``: what the file must be; empty: any. Raises `ClientError`, and what ``on_phase`` raises.
    """
    from imsd.contract import ImsError
    from imsd.formats.detect import open_image
    from imsd.formats.reader import MAX_VIRTUAL_SIZE_BYTES
    from imsd.formats.source import FileSource

    try:
        with _opened(path) as fd, _unpacked(FileSource(fd), format_name, on_phase) as (file, wrapper):
            image = open_image(file, format_name or None, MAX_VIRTUAL_SIZE_BYTES)
            yield LocalImage(image, os.lseek(fd, 0, os.SEEK_END), wrapper)
    except BrokenPipeError:  # of the output
        raise
    except OSError as error:
        raise cannot_read(path, error) from error
    except ImsError as error:
        raise ClientError(error.reason, error.message, error.hint) from error


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
def _unpacked(source: FileSource, format_name: str, on_phase: OnPhase) -> Iterator[tuple[FileSource, str]]:
    """The file itself, or what it unpacks to in a file of no name; and what it was packed with."""
    from imsd.formats.detect import find_wrapper
    from imsd.formats.source import FileSource

    wrapper = find_wrapper(source, format_name)
    if wrapper is None:
        yield source, ""
        return
    with tempfile.TemporaryFile(prefix="imsctl-") as unpacked:
        _unpack(source, wrapper, unpacked.fileno(), on_phase)
        yield FileSource(unpacked.fileno()), wrapper


def _unpack(source: FileSource, wrapper: str, fd: int, on_phase: OnPhase) -> None:
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

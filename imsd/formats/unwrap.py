"""Files that were compressed whole: gzip, xz, zstd or bzip2 around a disk image, unpacked front to back.

References: RFC 1952 (gzip), the .xz file format 1.2, RFC 8878 (zstd); members that follow one another are
one file, as the programs of these formats have it.

A small file may claim to be a huge one. So output comes in small pieces, whoever takes them can stop; it is
bounded by the largest file that is accepted, and by its ratio to the input: tightly where it is data, which
takes room, and loosely where it is zeros, of which an empty disk is made.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from isal import igzip_lib

from imsd.contract import Buffer, ImageRefused

from .wrapped_members import GZIP_MAGIC, Decompressor, GzipMember, ZstdFrame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Given out at once.
PIECE_BYTES = 1 << 20
# A member is given so much at first, then as much again as it has taken, up to so much at once: what comes
# after its end is copied, and a hostile file has an end every nine bytes.
FIRST_BYTES, MOST_BYTES = 512, 64 << 10
# The dictionary of `xz -9` takes 65 MiB; a file may ask for 4 GiB.
MAX_XZ_MEMORY_BYTES = 80 << 20
# A disk without data may shrink so far. gzip reaches 1,032.
MAX_RATIO = 4096
# Up to here the ratio does not matter: an empty disk of 16 GiB is no bomb.
FREE_BYTES = 16 << 30
# The same for output that is not zeros, in blocks of a file system. Disks of real systems shrink to a tenth,
# logs and tables of a database to a hundredth.
MAX_DATA_RATIO = 256
FREE_DATA_BYTES = 1 << 30
BLOCK_BYTES = 4 << 10


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY_BYTES)


WRAPPERS: Mapping[str, tuple[bytes, Callable[[], Decompressor]]] = {
    "gzip": (GZIP_MAGIC, GzipMember),
    "xz": (b"\xfd7zXZ\x00", _xz),
    "zstd": (b"\x28\xb5\x2f\xfd", ZstdFrame),
    "bzip2": (b"BZh", bz2.BZ2Decompressor),
}

# zstd also begins with frames to be skipped: 0x184D2A50 to 0x184D2A5F.
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
# What follows `BZh` and a digit: a block, or the end of an empty file.
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
HEAD_BYTES = 10

# Not Exception: what goes wrong in our own code must not look like a damaged file.
# The stubs of isal take its class for an instance.
_FAULTS: tuple[type[Exception], ...] = (OSError, lzma.LZMAError, EOFError, ValueError, zstd.ZstdError)
_FAULTS += (igzip_lib.IsalError,)  # type: ignore[operator]


def wrapper_of(head: bytes | memoryview) -> str | None:
    """The program that wrapped the file which starts with ``head``, `HEAD_BYTES` of it; None for no one."""
    start = bytes(head[:HEAD_BYTES])
    if start[:3] == b"BZh":
        is_bzip2 = start[3:4] in b"123456789" and start[4:10] in _BZIP2_BLOCKS
        return "bzip2" if is_bzip2 else None
    if start[1:4] == _ZSTD_SKIPPABLE and start[0] & 0xF0 == 0x50:
        return "zstd"
    return next((name for name, (magic, _) in WRAPPERS.items() if start.startswith(magic)), None)


class Unwrapper:
    """Unpacks one file.

    ``taken_bytes`` and ``given_bytes``: of input and output so far; ``data_bytes``: of output, not zeros.
    """

    def __init__(self, wrapper: str, max_file_size_bytes: int) -> None:
        """``wrapper``: one of `WRAPPERS`."""
        magic, self._new = WRAPPERS[wrapper]
        self._wrapper = wrapper
        self._starts = magic[:2]
        self._max_bytes = max_file_size_bytes
        self._member: Decompressor | None = None
        self._member_bytes = 0
        self._has_member = False
        self._head = b""  # of the output
        self.taken_bytes = 0
        self.given_bytes = 0
        self.data_bytes = 0

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Unpack the next bytes of the file, in pieces of at most `PIECE_BYTES`.

        Raises `ImageRefused` (IMAGE_MALFORMED, IMAGE_TOO_LARGE, IMAGE_EXPANDS_TOO_MUCH, FORMAT_UNSUPPORTED).
        """
        file, position = memoryview(data), 0
        while position < len(file) or (self._member and not self._member.needs_input):
            if self._member is None:
                position += self._begin_member(bytes(file[position : position + FIRST_BYTES]))
                continue
            piece, taken = self._unpack(self._member, file[position:])
            position += taken
            if piece:
                self._check(piece)
                yield piece

    def finish(self) -> None:
        """All of the file came. Raises `ImageRefused` (IMAGE_TRUNCATED, IMAGE_EMPTY)."""
        if self._member is not None or not self._has_member:
            raise ImageRefused(
                f"the {self._wrapper} file is cut short after {self.taken_bytes} bytes",
                reason="IMAGE_TRUNCATED",
                hint="copy the file again from its origin",
            )
        if not self.given_bytes:
            raise ImageRefused(
                f"the {self._wrapper} file holds nothing",
                reason="IMAGE_EMPTY",
                hint="send a file that holds a disk",
            )

    def _begin_member(self, start: bytes) -> int:
        """Begin the member in ``start``, if there is one; how many bytes of zeros come before it."""
        rest = start.lstrip(b"\0") if self._has_member else start
        if rest:
            self._require_member(rest)
            self._member, self._member_bytes = self._new(), 0
        zeros = len(start) - len(rest)
        self.taken_bytes += zeros
        return zeros

    def _require_member(self, rest: bytes) -> None:
        """What follows a member is another one; zeros may fill up the end of a file."""
        is_skippable = self._wrapper == "zstd" and rest[0] & 0xF0 == 0x50
        if self._has_member and not is_skippable and not rest.startswith(self._starts[: len(rest)]):
            raise ImageRefused(
                f"other bytes follow the end of the {self._wrapper} file",
                reason="IMAGE_MALFORMED",
                hint="copy the file again from its origin, or unpack it yourself and send the disk image",
            )

    def _unpack(self, member: Decompressor, rest: memoryview) -> tuple[bytes, int]:
        """What comes out next, and how much of ``rest`` that took: negative if too much had been given."""
        share = min(max(FIRST_BYTES, self._member_bytes), MOST_BYTES) if member.needs_input else 0
        given = bytes(rest[:share])
        piece = self._decompress(member, given)
        taken = len(given) - len(member.unused_data)
        self._member_bytes += taken
        self.taken_bytes += taken
        if member.eof:
            self._member, self._has_member = None, True
        return piece, taken

    def _decompress(self, member: Decompressor, data: bytes) -> bytes:
        try:
            return member.decompress(data, PIECE_BYTES)
        except _FAULTS as error:
            raise ImageRefused(
                f"the {self._wrapper} file cannot be unpacked: {error}",
                reason="IMAGE_MALFORMED",
                hint="copy the file again from its origin, or unpack it yourself and send the disk image",
            ) from None

    def _check(self, piece: bytes) -> None:
        """Look at what came out before anybody gets it."""
        if len(self._head) < HEAD_BYTES:
            self._head += piece[:HEAD_BYTES]
            self._refuse_another_wrapper()
        self.given_bytes += len(piece)
        self.data_bytes += _data_bytes(piece)
        if self.given_bytes > self._max_bytes:
            raise ImageRefused(
                f"the {self._wrapper} file unpacks to more than the {self._max_bytes} bytes accepted",
                reason="IMAGE_TOO_LARGE",
                hint="ask the operator to raise max_upload_size_bytes",
            )
        if self.given_bytes > max(FREE_BYTES, self.taken_bytes * MAX_RATIO):
            raise self._expands_too_much(f"more than {MAX_RATIO} times its size")
        if self.data_bytes > max(FREE_DATA_BYTES, self.taken_bytes * MAX_DATA_RATIO):
            raise self._expands_too_much(f"data of more than {MAX_DATA_RATIO} times its size")

    def _expands_too_much(self, what: str) -> ImageRefused:
        return ImageRefused(
            f"the {self._wrapper} file unpacks to {what}",
            reason="IMAGE_EXPANDS_TOO_MUCH",
            hint="unpack it yourself and send the disk image, as qcow2 for example",
        )

    def _refuse_another_wrapper(self) -> None:
        if another := wrapper_of(self._head):
            raise ImageRefused(
                f"the {self._wrapper} file holds a {another} file, not a disk image",
                reason="FORMAT_UNSUPPORTED",
                hint="unpack it once and send what is inside",
            )


def _data_bytes(piece: bytes) -> int:
    """How much of ``piece`` is in blocks that hold something."""
    whole = len(piece) - len(piece) % BLOCK_BYTES
    words = np.frombuffer(piece, "<u8", whole // 8).reshape(-1, BLOCK_BYTES // 8)
    rest = len(piece) - whole if any(piece[whole:]) else 0
    return int(np.count_nonzero(words.any(axis=1))) * BLOCK_BYTES + rest

"""One member of a gzip or zstd file, unpacked whatever pieces it comes in.

Both libraries judge a member by how much of it they are given at once: isal loses its place in a gzip
header that has more than its ten bytes and comes in pieces, and libzstd does not compare the size in
the header with what came out, if the frame came in pieces and its last block is empty.

References: RFC 1952 (gzip), RFC 8878 (zstd).
"""

from __future__ import annotations

import struct
import sys
from typing import Protocol
from zlib import crc32

from isal import igzip_lib

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Names, comments and extra fields of a gzip header; the latter alone may take 64 KiB.
MAX_GZIP_HEADER_BYTES = 72 << 10
GZIP_MAGIC = b"\x1f\x8b\x08"  # and the only method there is
# Magic, method, flags, time, hints.
GZIP_HEADER_BYTES = 10
FLAG_CHECKSUM, FLAG_EXTRA, FLAG_NAME, FLAG_COMMENT = 2, 4, 8, 16
FLAGS_RESERVED = 0xE0
PLAIN_GZIP_HEADER = GZIP_MAGIC + bytes(GZIP_HEADER_BYTES - len(GZIP_MAGIC))
SHORT = struct.Struct("<H")

# As for the clusters of a qcow2, but `zstd --ultra -22` and `--long` take windows of 128 MiB.
MAX_ZSTD_WINDOW_LOG = 27
MAX_ZSTD_HEADER_BYTES = 18


class Decompressor(Protocol):
    """What those of bz2, lzma and this module have in common. `decompress` raises an error of its library."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class GzipMember:
    """The header is read here, and isal gets one without anything in it."""

    def __init__(self) -> None:
        self._inner: Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._header: bytearray | None = bytearray()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._header is not None or self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most ``max_length`` bytes. Raises ValueError, `igzip_lib.IsalError`."""
        if self._header is not None:
            self._header += data
            end = gzip_header_end(bytes(self._header[:MAX_GZIP_HEADER_BYTES]))
            if end is None:
                if len(self._header) >= MAX_GZIP_HEADER_BYTES:
                    raise ValueError("a header of gzip that is too long")
                return b""
            data, self._header = PLAIN_GZIP_HEADER + self._header[end:], None
        return self._inner.decompress(data, max_length)


def gzip_header_end(head: bytes) -> int | None:
    """Where the compressed bytes of a member begin that starts with ``head``; None if that is too short.

    Raises ValueError when it is no header of gzip.
    """
    if head[: len(GZIP_MAGIC)] != GZIP_MAGIC[: len(head)]:
        raise ValueError("no header of gzip")
    if len(head) < GZIP_HEADER_BYTES:
        return None
    flags, end = head[3], GZIP_HEADER_BYTES
    if flags & FLAGS_RESERVED:
        raise ValueError("a header of gzip with unknown flags")
    if flags & FLAG_EXTRA:
        if end + SHORT.size > len(head):
            return None
        end += SHORT.size + SHORT.unpack_from(head, end)[0]
    for flag in (FLAG_NAME, FLAG_COMMENT):
        if flags & flag:
            end = head.find(b"\0", end) + 1
            if not end:
                return None
    if flags & FLAG_CHECKSUM:
        checksum = crc32(head[:end]) & 0xFFFF
        end += SHORT.size
        if end <= len(head) and SHORT.unpack_from(head, end - SHORT.size)[0] != checksum:
            raise ValueError("a header of gzip with a wrong checksum")
    return end if end <= len(head) else None


class ZstdFrame:
    """One frame; its output is as long as its header says."""

    def __init__(self) -> None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG}
        self._inner = zstd.ZstdDecompressor(options=options)
        self._header = b""
        self._given_bytes = 0

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most ``max_length`` bytes. Raises ValueError, `zstd.ZstdError`."""
        self._header += data[: MAX_ZSTD_HEADER_BYTES - len(self._header)]
        content = self._inner.decompress(data, max_length)
        self._given_bytes += len(content)
        if self._inner.eof:
            claimed = zstd.get_frame_info(self._header).decompressed_size
            if claimed not in (None, self._given_bytes):
                raise ValueError(f"a frame of zstd of {self._given_bytes} bytes that claims {claimed}")
        return content

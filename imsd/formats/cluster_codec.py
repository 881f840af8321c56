"""Compressed clusters: deflate (isal) and zstd (zstandard), never more output than a cluster.

A codec context is used by one thread at a time, so each thread has its own.
"""

from __future__ import annotations

import threading
import zlib
from functools import lru_cache

import deflate as libdeflate
import zstandard
from isal import isal_zlib

from imsd.contract import Buffer

# Old QEMU reads back at most 4 KiB in a cluster's deflate stream; every reader takes up to 32 KiB.
WRITE_WINDOW_BITS = -12
READ_WINDOW_BITS = -15
ZLIB_WINDOW_BITS = 15  # with the frame of RFC 1950

# As fast as level 1, and 1 % smaller.
DEFLATE_LEVEL = 2
# Seen were 1 and 2 bytes; see `deflate`.
DEFLATE_SPARE_BYTES = 32
# About as small as level 6 of zlib, which QEMU uses, in a quarter of the time.
LIBDEFLATE_LEVEL = 3
# 30 % faster than level 3 and 3 % larger.
ZSTD_LEVEL = 1

# More than any frame of a 2 MiB cluster needs; a hostile one may claim gigabytes.
MAX_ZSTD_WINDOW_BYTES = 8 << 20

# A zstd block holds at most this; see RFC 8878, 3.1.1.2.
ZSTD_BLOCK_BYTES = 128 << 10
_STORED_FRAME_START = b"\x28\xb5\x2f\xfd\xa0"  # magic; one segment, no checksum, content size in 4 bytes
_STORED_FRAME_START_BYTES = len(_STORED_FRAME_START) + 4


# The library's stubs take the class for an instance.
DeflateError: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]


class _Contexts(threading.local):
    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=ZSTD_LEVEL, write_checksum=True, write_content_size=True
        )
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)


_contexts = _Contexts()


def zstd_decompressor() -> zstandard.ZstdDecompressor:
    """The decompressor of this thread."""
    return _contexts.decompressor


def inflate_into(data: Buffer, out: memoryview) -> bool:
    """Fill ``out`` from a raw deflate stream; False when the stream is damaged or too short.

    What the stream holds beyond, and what follows it, is ignored.
    """
    plain: Buffer
    try:
        plain = libdeflate.deflate_decompress(data, len(out))
    except libdeflate.DeflateError:
        # Damaged, or it holds more, which only isal can stop at. For all others libdeflate is faster.
        try:
            plain = isal_zlib.decompressobj(READ_WINDOW_BITS).decompress(data, len(out))
        except DeflateError:
            return False
    if len(plain) != len(out):
        return False
    out[:] = plain
    return True


def inflate_zlib_into(data: Buffer, out: memoryview) -> bool:
    """As `inflate_into`, from a zlib stream (RFC 1950) that is not cut; its checksum must be right if the
    stream ends with ``out``.
    """
    inflater = isal_zlib.decompressobj(ZLIB_WINDOW_BITS)
    try:
        plain = inflater.decompress(data, len(out))
        if len(plain) != len(out):
            return False
        if not inflater.eof and not inflater.decompress(inflater.unconsumed_tail, 1) and not inflater.eof:
            return False
    except DeflateError:
        return False
    out[:] = plain
    return True


def unzstd_into(data: Buffer, out: memoryview) -> bool:
    """Fill ``out`` from one or more zstd frames in a row; else as `inflate_into`."""
    reader = _contexts.decompressor.stream_reader(data, read_across_frames=True, closefd=False)
    try:
        return bool(reader.readinto(out) == len(out))
    except zstandard.ZstdError:
        return False


def deflate(data: Buffer) -> bytes:
    """A raw deflate stream that every QEMU reads.

    Not always the same one for the same ``data``: isal looks at memory it has not set, and about one
    stream in 3,000 comes out a byte or two longer or shorter (seen with isal 1.9.1 on two threads).
    """
    return bytes(isal_zlib.compress(data, DEFLATE_LEVEL, wbits=WRITE_WINDOW_BITS))


def deflate_smaller(data: Buffer) -> bytes:
    """As `deflate`, always the same and mostly smaller (text may be 5 % larger), at a tenth of the speed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, WRITE_WINDOW_BITS, 9)
    return packer.compress(data) + packer.flush()


def deflate_small(data: Buffer) -> bytes:
    """As `deflate`, always the same and about 9 % smaller, in three times the time.

    It looks back at up to 32 KiB: a reader must have a cluster in one buffer, as QEMU has, or such a window.
    """
    return bytes(libdeflate.deflate_compress(data, LIBDEFLATE_LEVEL))


def zlib_stream(data: Buffer) -> bytes:
    """A zlib stream (RFC 1950), made fast; not always the same, see `deflate`."""
    return bytes(isal_zlib.compress(data, DEFLATE_LEVEL, wbits=ZLIB_WINDOW_BITS))


def zlib_small_stream(data: Buffer) -> bytes:
    """As `zlib_stream`, always the same and about 7 % smaller, in three times the time."""
    return bytes(libdeflate.zlib_compress(data, LIBDEFLATE_LEVEL))


def zstd_frame(data: Buffer) -> bytes:
    """One zstd frame with content size and checksum. The same bytes for the same ``data``."""
    return bytes(_contexts.compressor.compress(data))


@lru_cache(maxsize=4096)
def zero_frame(length: int) -> bytes:
    """A frame of ``length`` zeros. Lengths are whole sectors up to 2 MiB, so that all fit the cache."""
    return zstd_frame(bytes(length))


def stored_frame_bytes(length: int) -> int:
    """Size of `stored_frame` of ``length`` bytes (1 or more)."""
    return _STORED_FRAME_START_BYTES + length + 3 * -(-length // ZSTD_BLOCK_BYTES)


def stored_frame(data: memoryview) -> bytes:
    """A zstd frame that holds ``data`` (1 byte or more) as it is: for what does not shrink."""
    pieces: list[Buffer] = [_STORED_FRAME_START, len(data).to_bytes(4, "little")]
    for start in range(0, len(data), ZSTD_BLOCK_BYTES):
        block = data[start : start + ZSTD_BLOCK_BYTES]
        is_last = start + ZSTD_BLOCK_BYTES >= len(data)
        pieces += ((len(block) << 3 | is_last).to_bytes(3, "little"), block)
    return b"".join(pieces)

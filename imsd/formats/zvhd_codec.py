"""The payloads of ZVHD and ZVHD2: one block of 2 MiB each, never more output than that.

ZVHD cuts one endless zlib stream behind a sync flush at each block, which ends at a whole byte. So a
payload is read as raw deflate, with the last 32 KiB of the block before as its history; and a payload that
can be decoded without history never looked back, whatever came before.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import zstandard
from isal import isal_zlib

from imsd.contract import Buffer

from .cluster_codec import DEFLATE_LEVEL, MAX_ZSTD_WINDOW_BYTES, DeflateError, zstd_decompressor
from .zvhd_layout import BLOCK_BYTES, Compression

HISTORY_BYTES = 32 << 10

# What a stream of the vendor starts with: deflate, a window of 32 KiB, the fastest level.
STREAM_START = b"\x78\x01"
# A block of no bytes, as a sync flush leaves it; and the last one of a stream.
EMPTY_BLOCK = b"\0\0\0\xff\xff"
_LAST_BLOCK = b"\x03\0"
_STORED_BLOCK_BYTES = 0xFFFF

# Frames of one payload, and blocks of all its frames; imsd writes a frame for a chunk of 32 KiB, zstd a
# block for 128 KiB.
MAX_FRAMES = 4096
MAX_ZSTD_BLOCKS = 65536
_FRAME_MAGIC = b"\x28\xb5\x2f\xfd"
_FRAME_HEADER_MAX_BYTES = 18
_ZSTD_RLE = 1


def starts_stream(payload: Buffer) -> bool:
    """Whether a payload starts with the header of a zlib stream without dictionary (RFC 1950)."""
    start = bytes(payload[:2])
    if len(start) < 2:
        return False
    is_deflate = start[0] & 0x0F == 8 and start[0] >> 4 <= 7
    return is_deflate and int.from_bytes(start, "big") % 31 == 0 and not start[1] & 0x20


def inflate_piece(data: Buffer, history: Buffer) -> bytes | None:
    """One block from a piece of raw deflate that ends behind a flush; None when it is anything else."""
    inflater = isal_zlib.decompressobj(-15, zdict=bytes(history)) if history else isal_zlib.decompressobj(-15)
    try:
        plain = inflater.decompress(data, BLOCK_BYTES + 1)
        if len(plain) != BLOCK_BYTES or inflater.eof or inflater.unconsumed_tail:
            return None
        # Only between two blocks of the stream these bytes are its end.
        more = inflater.decompress(_LAST_BLOCK, 1)
    except DeflateError:
        return None
    return plain if inflater.eof and not more and not inflater.unused_data else None


def expand(compression: Compression, payload: memoryview) -> bytes | None:
    """One block from a payload that stands alone; None when it cannot be decoded to just that."""
    return _inflate(payload) if compression == Compression.ZLIB else unzstd_frames(payload, BLOCK_BYTES)


def deflate_piece(data: Buffer) -> bytes:
    """A block as a piece of raw deflate that does not look back; not always the same: see `deflate`."""
    packer = isal_zlib.compressobj(DEFLATE_LEVEL, wbits=-15)
    return bytes(packer.compress(data) + packer.flush(isal_zlib.Z_SYNC_FLUSH))


def deflate_piece_smaller(data: Buffer) -> bytes:
    """As `deflate_piece`, always the same and mostly smaller, at a tenth of the speed."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def stored_piece(data: memoryview) -> bytes:
    """A block as it is, in a piece of raw deflate."""
    pieces: list[Buffer] = []
    for start in range(0, len(data), _STORED_BLOCK_BYTES):
        block = data[start : start + _STORED_BLOCK_BYTES]
        pieces += (
            b"\0",
            len(block).to_bytes(2, "little"),
            (len(block) ^ 0xFFFF).to_bytes(2, "little"),
            block,
        )
    return b"".join((*pieces, EMPTY_BLOCK))


def stored_piece_bytes(length: int) -> int:
    """Size of `stored_piece` of ``length`` bytes."""
    return length + len(EMPTY_BLOCK) * (-(-length // _STORED_BLOCK_BYTES) + 1)


def _inflate(payload: memoryview) -> bytes | None:
    """A whole zlib stream, or one that was flushed and never finished."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(payload, BLOCK_BYTES)
        if inflater.unconsumed_tail:  # at most the end of the stream
            plain += inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error:
        return None
    is_whole = len(plain) == BLOCK_BYTES and not inflater.unconsumed_tail and not inflater.unused_data
    return plain if is_whole else None


def unzstd_frames(payload: memoryview, length: int) -> bytes | None:
    """What zstd frames in a row hold, each with its content size and a small window; None unless that is
    ``length`` bytes.
    """
    try:
        frames = list(_frames(payload))
        if sum(content_bytes for _, content_bytes in frames) != length:
            return None
        decompressor = zstd_decompressor()
        pieces = [decompressor.decompress(frame) for frame, _ in frames]
    except (zstandard.ZstdError, ValueError):
        return None
    plain = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return plain if len(plain) == length else None


def _frames(payload: memoryview) -> Iterator[tuple[memoryview, int]]:
    """(frame, content bytes) one after another. Raises ValueError, ZstdError.

    Each frame tells its content size, at most a block's, before it is decoded: the decoder allocates it.
    """
    position = frames = blocks = 0
    while position < len(payload):
        start = payload[position : position + _FRAME_HEADER_MAX_BYTES]
        if start[:4] != _FRAME_MAGIC or frames == MAX_FRAMES:
            raise ValueError("not a frame")
        frame = zstandard.get_frame_parameters(start)
        if not 0 < frame.content_size <= BLOCK_BYTES:
            raise ValueError("a frame without a content size that is possible")
        if frame.window_size > MAX_ZSTD_WINDOW_BYTES or frame.dict_id:
            raise ValueError("a frame that needs a large window or a dictionary")
        end, count = _frame_end(
            payload, position + zstandard.frame_header_size(start), MAX_ZSTD_BLOCKS - blocks
        )
        end += 4 * frame.has_checksum
        if end > len(payload):
            raise ValueError("a frame that is cut")
        yield payload[position:end], frame.content_size
        position, frames, blocks = end, frames + 1, blocks + count


def _frame_end(payload: memoryview, position: int, most: int) -> tuple[int, int]:
    """(where the blocks of a frame end, how many they are), at most ``most``. Raises ValueError.

    See RFC 8878, 3.1.1.2.
    """
    for number in range(most):
        header = int.from_bytes(payload[position : position + 3], "little")
        position += 3 + (1 if header >> 1 & 3 == _ZSTD_RLE else header >> 3)
        if position > len(payload):
            break
        if header & 1:
            return position, number + 1
    raise ValueError("a frame without end")

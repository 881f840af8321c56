"""How a chunk is stored: one zstd frame or two, or as it is when that is not smaller, or as it came.

A frame carries its content size and a checksum and stands alone, so that it can travel verbatim into
a compressed cluster of a QCOW2 file; where such a cluster ends inside a chunk, a second frame begins.
What is stored has a check of its own, so that bytes that come back are proved to be those that were
written before anybody decodes them, or without decoding them at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import zstandard
from blake3 import blake3

from imsd.contract import Buffer

from .index import Codec
from .layout import CHECK_BYTES, FRAME_BORDER_BYTES

# As level 1 has it, but with a hash table for whole chunks rather than for 128 KiB: 1.3 % smaller at the
# same speed (chunks of a Debian disk, zstd 1.5.7).
PARAMETERS = zstandard.ZstdCompressionParameters(
    window_log=19,
    hash_log=16,
    chain_log=12,
    search_log=1,
    min_match=6,
    target_length=0,
    strategy=zstandard.STRATEGY_FAST,
    write_checksum=True,
    write_content_size=True,
)


# The check of what is stored.
Check = Callable[[Buffer], bytes]


class PlainChunk(NamedTuple):
    """A chunk to be stored. ``border``: where its second frame begins, 0 for one frame."""

    digest: bytes
    content: memoryview
    border: int = 0


class EncodedChunk(NamedTuple):
    """A chunk ready to be stored; ``length`` is that of its plain bytes, the rest as in `Location`."""

    digest: bytes
    length: int
    codec: Codec
    stored: Buffer
    check: bytes
    first_length: int = 0
    first_stored: int = 0


class _Contexts(threading.local):
    """One a thread: a context serves one call at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS)


_contexts = _Contexts()


def border_in(start: int, length: int) -> int:
    """Where in a chunk that lies at ``start`` of its disk a second frame begins; 0 if nowhere."""
    border = -start % FRAME_BORDER_BYTES
    return border if border < length else 0


def check_of(stored: Buffer) -> bytes:
    """The check of stored bytes."""
    return blake3(stored).digest(CHECK_BYTES)


def no_check(stored: Buffer) -> bytes:
    """For what is not stored as it is: it will be sealed."""
    return b""


def encode_chunks(chunks: Sequence[PlainChunk], check: Check = check_of) -> list[EncodedChunk]:
    """How each of ``chunks`` is to be stored: in new frames, or as it is."""
    if not chunks:
        return []
    parts: list[Buffer] = [part for chunk in chunks for part in _parts(chunk)]
    # All in one call: between calls a thread waits for the interpreter, which the event loop holds often.
    made = _contexts.compressor.multi_compress_to_buffer(parts, threads=1)
    frames = (memoryview(cast(Buffer, made[number])) for number in range(len(parts)))
    return [_encoded(chunk, next(frames), next(frames) if chunk.border else None, check) for chunk in chunks]


def keep_record(digest: bytes, content: memoryview, frames: Buffer, check: Check = check_of) -> EncodedChunk:
    """A piece of a disk as it came: ``frames`` decode to ``content``. Empty: they are made."""
    stored = frames or _contexts.compressor.compress(content)
    if len(stored) >= len(content):
        return _kept(digest, content)
    return EncodedChunk(digest, len(content), Codec.RECORD, stored, check(stored))


def _parts(chunk: PlainChunk) -> list[memoryview]:
    """What becomes a frame each."""
    content, border = chunk.content, chunk.border
    return [content[:border], content[border:]] if border else [content]


def _kept(digest: bytes, content: memoryview) -> EncodedChunk:
    # The digest is the BLAKE3 of the plain bytes, and these are stored, unless they are sealed.
    return EncodedChunk(digest, len(content), Codec.RAW, content, digest[:CHECK_BYTES])


def _encoded(chunk: PlainChunk, first: memoryview, second: memoryview | None, check: Check) -> EncodedChunk:
    digest, content, border = chunk
    stored: Buffer = first if second is None else b"".join((first, second))
    if len(stored) >= len(content):
        return _kept(digest, content)
    first_stored = len(first) if border else 0
    return EncodedChunk(digest, len(content), Codec.ZSTD, stored, check(stored), border, first_stored)

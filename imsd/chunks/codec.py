"""How a chunk is stored: one zstd frame, or as it is when that is not smaller.

A frame carries its content size and a checksum and stands alone, so that it can travel verbatim into
a compressed cluster of a QCOW2 file. What is stored has a check of its own, so that bytes that come back
are proved to be those that were written before anybody decodes them, or without decoding them at all.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple, cast

import zstandard
from blake3 import blake3

from imsd.contract import Buffer

from .index import Codec
from .layout import CHECK_BYTES

LEVEL = 1


class EncodedChunk(NamedTuple):
    """A chunk ready to be stored; ``length`` is that of its plain bytes, ``check`` that of `Location`."""

    digest: bytes
    length: int
    codec: Codec
    stored: Buffer
    check: bytes


class _Contexts(threading.local):
    """One a thread: a context serves one call at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True)


_contexts = _Contexts()


def encode_chunks(chunks: Sequence[tuple[bytes, memoryview]]) -> list[EncodedChunk]:
    """How each of ``chunks``, digests with their bytes, is to be stored: in a new frame, or as it is."""
    if not chunks:
        return []
    # All in one call: between calls a thread waits for the interpreter, which the event loop holds often.
    frames = _contexts.compressor.multi_compress_to_buffer([chunk for _, chunk in chunks], threads=1)
    return [
        _smaller(digest, chunk, memoryview(cast(Buffer, frames[number])))
        for number, (digest, chunk) in enumerate(chunks)
    ]


def check_of(stored: Buffer) -> bytes:
    """The check of stored bytes."""
    return blake3(stored).digest(CHECK_BYTES)


def _smaller(digest: bytes, chunk: memoryview, frame: memoryview) -> EncodedChunk:
    if len(frame) < len(chunk):
        return EncodedChunk(digest, len(chunk), Codec.ZSTD, frame, check_of(frame))
    # The digest is the BLAKE3 of the plain bytes, and these are stored.
    return EncodedChunk(digest, len(chunk), Codec.RAW, chunk, digest[:CHECK_BYTES])


def encode_chunk(digest: bytes, chunk: memoryview) -> EncodedChunk:
    """`encode_chunks` for one chunk."""
    return encode_chunks([(digest, chunk)])[0]

"""How a chunk is stored: one zstd frame, or as it is when that is not smaller.

A frame carries its content size and a checksum and stands alone, so that it can travel verbatim into
a compressed cluster of a QCOW2 file.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

import zstandard

from imsd.contract import Buffer

from .index import Codec

LEVEL = 1


class _Contexts(threading.local):
    """One a thread: a context serves one call at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True)


_contexts = _Contexts()


def encode_chunks(chunks: Sequence[memoryview]) -> list[tuple[Codec, memoryview]]:
    """How each of ``chunks`` is to be stored, and the bytes: a new frame, or the chunk itself."""
    if not chunks:
        return []
    # All in one call: between calls a thread waits for the interpreter, which the event loop holds often.
    frames = _contexts.compressor.multi_compress_to_buffer(list(chunks), threads=1)
    return [_smaller(chunk, memoryview(cast(Buffer, frames[number]))) for number, chunk in enumerate(chunks)]


def _smaller(chunk: memoryview, frame: memoryview) -> tuple[Codec, memoryview]:
    return (Codec.ZSTD, frame) if len(frame) < len(chunk) else (Codec.RAW, chunk)


def encode_chunk(chunk: memoryview) -> tuple[Codec, memoryview]:
    """`encode_chunks` for one chunk."""
    return encode_chunks([chunk])[0]

"""How a chunk is stored: one zstd frame, or as it is when that is not smaller.

A frame carries its content size and a checksum and stands alone, so that it can travel verbatim into
a compressed cluster of a QCOW2 file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import zstandard

from imsd.contract import Buffer

from .index import Codec

LEVEL = 1


class _Contexts(threading.local):
    """A context is 1.3 MiB of tables and serves one thread at a time; making one costs more than a chunk."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True)


_contexts = _Contexts()


def encode_chunk(chunk: memoryview) -> tuple[Codec, Buffer]:
    """How ``chunk`` is to be stored, and the bytes: a new frame, or ``chunk`` itself."""
    frame: bytes = _contexts.compressor.compress(chunk)
    return (Codec.ZSTD, frame) if len(frame) < len(chunk) else (Codec.RAW, chunk)


def encode_chunks(chunks: Iterable[memoryview]) -> list[tuple[Codec, Buffer]]:
    return [encode_chunk(chunk) for chunk in chunks]

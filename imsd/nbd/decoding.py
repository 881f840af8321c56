"""Chunks become plain bytes, a run of them at a time. Runs in the decode pool.

All frames of a run are decoded in one call: between calls a thread would wait for the interpreter, which the
event loop holds often, and each hand-over costs as much as decoding a small chunk.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

import numpy as np
import zstandard

from imsd.chunks.chunk_reader import ChunkReader
from imsd.chunks.manifest_reader import StoredChunk
from imsd.contract import Buffer, DataLoss
from imsd.formats.output import Zeros
from imsd.formats.source import Frame


class _ThreadDecoder(threading.local):
    """One decoder a thread: it may not be shared."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_decoder = _ThreadDecoder()


def decoded(reader: ChunkReader, run: Sequence[StoredChunk]) -> list[Buffer]:
    """The content of each chunk of ``run``, one or more in order. Raises `NeedBytes`, DataLoss."""
    pieces = iter(_decoded_frames(reader, reader.frames_of(run)))
    contents: list[Buffer] = []
    for chunk in run:
        content = [next(pieces)]
        missing = chunk.length - len(content[0])
        while missing > 0:
            content.append(next(pieces))
            missing -= len(content[-1])
        contents.append(content[0] if len(content) == 1 else b"".join(content))
    return contents


def _decoded_frames(reader: ChunkReader, frames: Sequence[Frame]) -> list[Buffer]:
    """What each of ``frames`` holds."""
    single = [_is_single(frame) for frame in frames]
    made = iter(_decoded_at_once([frame for frame, is_one in zip(frames, single, strict=True) if is_one]))
    found: list[Buffer] = []
    for frame, is_one in zip(frames, single, strict=True):
        plain = next(made) if is_one else None
        found.append(_read(reader, frame) if plain is None else plain)
    return found


def _is_single(frame: Frame) -> bool:
    """Whether it is one zstd frame that says how long its content is, and says so truly."""
    return frame.frame is not None and zstandard.frame_content_size(frame.frame) == frame.length


def _decoded_at_once(frames: Sequence[Frame]) -> list[Buffer | None]:
    """None for all when one of them is damaged: who reads them one by one says which."""
    if not frames:
        return []
    sizes = np.array([frame.length for frame in frames], np.uint64).tobytes()
    stored: list[bytes | bytearray | memoryview] = [each.frame for each in frames if each.frame is not None]
    try:
        made = _decoder.zstd.multi_decompress_to_buffer(stored, decompressed_sizes=sizes, threads=1)
    except zstandard.ZstdError:
        return [None] * len(frames)
    return [memoryview(cast(Buffer, made[number])) for number in range(len(frames))]


def _read(reader: ChunkReader, frame: Frame) -> Buffer:
    """The plain bytes of a piece that is no single frame, or a damaged one. Raises DataLoss."""
    pieces: list[Buffer] = []
    for piece in reader.read(frame.start, frame.length):
        if isinstance(piece, Zeros):
            raise DataLoss(f"there is no chunk at guest offset {frame.start}, where one is listed")
        # A view is of bytes as they were fetched, all of which would be kept with it.
        pieces.append(piece if isinstance(piece, bytes) else bytes(piece))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

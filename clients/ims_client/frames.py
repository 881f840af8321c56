"""The zstd frames of a download, decoded: as many bytes as were announced, or an error."""

from __future__ import annotations

import threading
from typing import IO, cast

import zstandard

from imsd.wire import Buffer

from .errors import damaged_download

# A frame of one byte, which can be read behind frames that are whole only.
MARK = b"!"
MARK_FRAME = zstandard.ZstdCompressor().compress(MARK)

# What the frames of one message may decode to; the daemon promises no more.
MAX_DECODED_BYTES = 2 << 20

# The daemon's frames need 512 KiB; a larger claim is no reason to take memory.
MAX_WINDOW_BYTES = 8 << 20


class _Decoder(threading.local):
    """One a thread, with the buffer it decodes into."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self.buffer = memoryview(bytearray(MAX_DECODED_BYTES))


_decoder = _Decoder()


class _Marked:
    """What a reader of frames reads: they, and then `MARK_FRAME`."""

    def __init__(self, frames: memoryview) -> None:
        self._pieces: list[Buffer] = [MARK_FRAME, frames]

    def read(self, _: int) -> Buffer:
        return self._pieces.pop() if self._pieces else b""


def decode(frames: memoryview, length: int) -> memoryview:
    """The ``length`` bytes that whole zstd frames hold; valid until this thread decodes again.

    Raises `CallFailed` (DATA_LOSS).
    """
    if length > MAX_DECODED_BYTES:
        raise damaged_download(f"a message claims to hold {length} bytes")
    out = _decoder.buffer[:length]
    reader = _decoder.zstd.stream_reader(
        cast(IO[bytes], _Marked(frames)), read_across_frames=True, closefd=False
    )
    try:
        is_whole = reader.readinto(out) == length and reader.read(len(MARK) + 1) == MARK
    except zstandard.ZstdError:
        is_whole = False
    if not is_whole:
        raise damaged_download("a message does not hold the bytes it announces")
    return out

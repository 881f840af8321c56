"""The zstd frames of a download, decoded: as many bytes as were announced, or an error."""

from __future__ import annotations

import threading

import zstandard

from .errors import CallFailed

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


def decode(frames: memoryview, length: int) -> memoryview:
    """The ``length`` bytes that whole zstd frames hold; valid until this thread decodes again.

    Raises `CallFailed` (DATA_LOSS).
    """
    if length > MAX_DECODED_BYTES:
        raise _damaged(f"a message claims to hold {length} bytes")
    out = _decoder.buffer[:length]
    reader = _decoder.zstd.stream_reader(frames, read_across_frames=True, closefd=False)
    try:
        is_whole = reader.readinto(out) == length and not reader.read(1)
    except zstandard.ZstdError:
        is_whole = False
    if not is_whole:
        raise _damaged("a message does not hold the bytes it announces")
    return out


def _damaged(why: str) -> CallFailed:
    return CallFailed("DATA_LOSS", f"the download was damaged on its way: {why}", "start it again")

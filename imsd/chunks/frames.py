"""The zstd frames in which chunks are stored, decoded within the bounds that are known of them."""

from __future__ import annotations

import threading

import zstandard

from imsd.contract import Buffer


class _ThreadDecoder(threading.local):
    """One decoder a thread: it may not be shared, and costs 100 KiB to make."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_decoder = _ThreadDecoder()


def check_frame_header(frame: Buffer, length: int) -> bool:
    """Whether the zstd frame carries a checksum. Raises ValueError unless its content is ``length`` bytes.

    Looked at before decoding: the decoder allocates what the header says.
    """
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError:
        raise ValueError("it is not a zstd frame") from None
    if header.content_size != length or header.dict_id:
        raise ValueError(f"its frame claims to hold {header.content_size} bytes")
    return bool(header.has_checksum)


def decode_frame(frame: Buffer, length: int) -> bytes:
    """The content of exactly one zstd frame. Raises ValueError unless it is ``length`` bytes."""
    check_frame_header(frame, length)
    try:
        plain: bytes = _decoder.zstd.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise ValueError("its zstd frame is damaged") from None
    if len(plain) != length:
        raise ValueError(f"its frame holds {len(plain)} bytes")
    return plain

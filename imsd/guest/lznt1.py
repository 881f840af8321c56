"""LZNT1, the compression of NTFS files. Source: [MS-XCA] 2.5. All numbers are little-endian."""

from __future__ import annotations

from .volume import GuestUnreadable

CHUNK_BYTES = 4096
CHUNK_COMPRESSED = 0x8000
CHUNK_SIZE_MASK = 0x0FFF
MIN_MATCH = 3


def decompress(content: bytes, most_bytes: int) -> bytes:
    """The content of one compression unit, up to ``most_bytes``. Raises `GuestUnreadable`."""
    out = bytearray()
    position = 0
    while position + 2 <= len(content) and len(out) < most_bytes:
        header = int.from_bytes(content[position : position + 2], "little")
        if header == 0:
            break
        start, position = position + 2, position + 3 + (header & CHUNK_SIZE_MASK)
        chunk = content[start:position]
        if header & CHUNK_COMPRESSED:
            chunk = _decompress_chunk(chunk)
        out += chunk[:CHUNK_BYTES].ljust(CHUNK_BYTES, b"\0")
    return bytes(out[:most_bytes])


def _decompress_chunk(chunk: bytes) -> bytes:
    out = bytearray()
    position = 0
    while position < len(chunk) and len(out) < CHUNK_BYTES:
        flags, position = chunk[position], position + 1
        if flags == 0:  # eight literal bytes, the common case
            out += chunk[position : position + 8]
            position += 8
            continue
        for bit in range(8):
            if position >= len(chunk) or len(out) >= CHUNK_BYTES:
                break
            if flags >> bit & 1:
                _copy_match(out, chunk[position : position + 2])
                position += 2
            else:
                out.append(chunk[position])
                position += 1
    return bytes(out)


def _copy_match(out: bytearray, token: bytes) -> None:
    """Append what two bytes refer to; how many of their bits are the distance grows with the output."""
    length_bits = min(12, 16 - (len(out) - 1).bit_length())
    value = int.from_bytes(token, "little")
    distance = (value >> length_bits) + 1
    length = (value & ((1 << length_bits) - 1)) + MIN_MATCH
    if distance > len(out) or len(token) < 2:
        raise GuestUnreadable("a compressed file refers to what is not there")
    start = len(out) - distance
    source = bytes(out[start : start + length])
    out += (source * (length // distance + 1))[:length] if distance < length else source

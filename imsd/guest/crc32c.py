"""CRC-32C (Castagnoli), for short texts such as names. Source: RFC 3720, appendix B.4."""

from __future__ import annotations

POLYNOMIAL = 0x82F6_3B78  # reflected


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value


TABLE = tuple(_entry(value) for value in range(256))


def crc32c(content: bytes, state: int) -> int:
    """The register after ``content``, from ``state``; neither is inverted."""
    for byte in content:
        state = state >> 8 ^ TABLE[(state ^ byte) & 0xFF]
    return state

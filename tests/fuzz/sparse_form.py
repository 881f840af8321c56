"""How fuzzers hold a file: its length, and the pages of it that are not zeros.

Disks are mostly zeros. In this form a file system of 16 MiB takes 300 KiB, and a fuzzer that changes bytes
changes structures. Any bytes are the form of some file.
"""

from __future__ import annotations

import struct

import numpy as np

PAGE_BYTES = 512
# Longer files are cut.
MAX_FILE_BYTES = 32 << 20

LENGTH = struct.Struct("<Q")
PIECE = struct.Struct("<II")  # offset, length


def expand(form: bytes) -> bytearray:
    """The file that ``form`` stands for, at most `MAX_FILE_BYTES` long."""
    if len(form) < LENGTH.size:
        return bytearray(form)
    file = bytearray(min(LENGTH.unpack_from(form)[0], MAX_FILE_BYTES))
    place = LENGTH.size
    while place + PIECE.size <= len(form):
        offset, length = PIECE.unpack_from(form, place)
        place += PIECE.size
        content = form[place : place + min(length, max(0, len(file) - offset))]
        file[offset : offset + len(content)] = content
        place += max(length, 1)
    return file


def compact(file: bytes | bytearray) -> bytes:
    """The form of ``file``."""
    parts = [LENGTH.pack(len(file))]
    for first, end in runs_of_pages(file):
        content = file[first:end]
        parts += [PIECE.pack(first, len(content)), bytes(content)]
    return b"".join(parts)


def runs_of_pages(file: bytes | bytearray) -> list[tuple[int, int]]:
    """Start and end of each run of pages that are not all zeros."""
    whole = len(file) // PAGE_BYTES
    words = np.frombuffer(file, np.uint64, whole * PAGE_BYTES // 8).reshape(whole, PAGE_BYTES // 8)
    used = np.zeros(whole + 2, np.bool_)
    used[1 : whole + 1] = words.any(axis=1)
    used = np.append(used, False)
    used[whole + 1] = any(file[whole * PAGE_BYTES :])
    edges = np.flatnonzero(used[1:] != used[:-1])
    return [
        (int(start) * PAGE_BYTES, min(int(end) * PAGE_BYTES, len(file)))
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]

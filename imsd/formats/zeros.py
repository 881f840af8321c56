"""Runs of zeros, which leave the service as numbers, among bytes that leave as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imsd.contract import Buffer

# Zeros inside data are looked for in pieces of this size.
GRANULE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Zeros:
    """A run of ``length`` zero bytes; 1 or more."""

    length: int


# The next bytes of a disk or of a file.
Output = Buffer | Zeros


def without_zeros(data: memoryview) -> Iterator[Output]:
    """``data`` with its granules of zeros as runs."""
    whole = len(data) // GRANULE_BYTES * GRANULE_BYTES
    words = np.frombuffer(data[:whole], np.uint64).reshape(-1, GRANULE_BYTES // 8)
    is_data = np.append(words.any(axis=1), True).tolist()  # what is no whole granule is not looked at
    start = 0
    for index in range(1, len(is_data)):
        if is_data[index] != is_data[index - 1]:
            yield _run(data, start, index * GRANULE_BYTES, is_data[index - 1])
            start = index * GRANULE_BYTES
    if start < len(data):
        yield _run(data, start, len(data), is_data[-1])


def _run(data: memoryview, start: int, end: int, is_data: bool) -> Output:
    return data[start:end] if is_data else Zeros(end - start)

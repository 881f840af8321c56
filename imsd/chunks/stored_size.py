"""How many bytes the distinct chunks of a disk take in the store, in bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .entry_rows import EntryRows

# 0.8 MiB for one disk; 8 GiB of distinct data are counted exactly.
MAX_SAMPLE = 1 << 16

# Sorting in costs the more the larger the sample is: so many at once.
MAX_UNSORTED = 4096


class StoredSize:
    """Adds up the stored lengths of distinct chunks.

    Exact up to ``max_sample`` distinct chunks. Beyond, only digests that begin with some zero bits are
    kept, and the sum is scaled up: digests are random, so the error is about 1 %.
    """

    def __init__(self, max_sample: int = MAX_SAMPLE) -> None:
        self._max_sample = max_sample
        self._shift = 0  # of a digest's first 64 bits, this many must be zero
        self._digests: NDArray[np.uint64] = np.empty(0, np.uint64)  # sorted, distinct
        self._sizes: NDArray[np.int64] = np.empty(0, np.int64)
        self._new: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []  # not sorted in yet
        self._new_count = 0

    def add(self, rows: EntryRows) -> None:
        self._new.append((rows.digest_heads(), rows.locations["stored_length"].astype(np.int64)))
        self._new_count += len(rows.content)
        if self._new_count >= MAX_UNSORTED:
            self._merge()

    def _merge(self) -> None:
        digests, sizes = zip((self._digests, self._sizes), *self._new, strict=True)
        self._new, self._new_count = [], 0
        self._digests, first = np.unique(np.concatenate(digests), return_index=True)
        self._sizes = np.concatenate(sizes)[first]
        self._thin_out()
        while len(self._digests) > self._max_sample:
            self._shift += 1
            self._thin_out()

    @property
    def size_bytes(self) -> int:
        self._merge()
        return int(self._sizes.sum()) << self._shift

    def _thin_out(self) -> None:
        if self._shift:
            # Sorted: those that begin with zero bits come first.
            kept = int(np.searchsorted(self._digests, np.uint64(1 << 64 - self._shift)))
            self._digests, self._sizes = self._digests[:kept], self._sizes[:kept]

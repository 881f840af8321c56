"""Whether the tables of a stream-optimized VMDK tell of the grains that came, in memory that does not grow.

A reader at random access finds grains by the tables, a reader in one pass by their markers; both must see
the same disk. What was seen and what the tables tell are added up as keyed hashes, which are equal only if
the pairs that went in are (but for one chance in 2^64 that nobody can force, the key being secret). A
table in the stream does not say which one it is. Either the first entries of the directory, mostly all,
have a table each, in order, or only those have one that hold grains, also in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .vmdk_layout import TABLE_ENTRIES, TABLE_SECTORS

Numbers = npt.NDArray[np.uint64]

# Odd numbers without pattern: the multipliers of splitmix64 (Steele, Lea, Flood 2014).
_STEP, _MIX_1, _MIX_2 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
_MASK = (1 << 64) - 1


@dataclass(slots=True)
class Tally:
    """All numbers have 64 bits. Positions of grains are index of the table * 512 + index in it."""

    key: int
    # Seen: grains by their position; the same with the tables that hold any numbered from 0; those numbers.
    grains: int = 0
    ranked_grains: int = 0
    groups: int = 0
    group_count: int = 0
    last_group: int = -1
    # Told by tables, numbered as they came: their entries, where they are, and the numbers.
    entries: int = 0
    tables: int = 0
    table_numbers: int = 0
    table_count: int = 0
    # Told by the directory, its entries that are not 0 numbered: where tables are, and whose.
    directory: int = 0
    directory_groups: int = 0
    directory_count: int = 0

    def see_grains(self, positions: Sequence[int], sectors: Sequence[int]) -> None:
        """Grains with markers, in the disk's order."""
        if not positions:
            return
        places, found = np.array(positions, np.uint64), np.array(sectors, np.uint64)
        groups, inside = np.divmod(places, np.uint64(TABLE_ENTRIES))
        is_first = np.append(int(groups[0]) != self.last_group, np.diff(groups) != 0)
        ranks = np.cumsum(is_first).astype(np.uint64) + np.uint64(self.group_count) - np.uint64(1)
        self.grains = self._add(self.grains, places, found)
        self.ranked_grains = self._add(self.ranked_grains, ranks * np.uint64(TABLE_ENTRIES) + inside, found)
        self.groups = self._add(self.groups, ranks[is_first], groups[is_first])
        self.group_count += int(is_first.sum())
        self.last_group = int(groups[-1])

    def see_tables(self, sector: int, entries: Numbers) -> None:
        """Whole tables one after another from ``sector`` on; entries of 0 tell of no grain."""
        count = len(entries) // TABLE_ENTRIES
        told = np.flatnonzero(entries)
        first = self.table_count * TABLE_ENTRIES
        self.entries = self._add(self.entries, (told + first).astype(np.uint64), entries[told])
        numbers = np.arange(self.table_count, self.table_count + count, dtype=np.uint64)
        places = np.uint64(sector) + np.arange(count, dtype=np.uint64) * np.uint64(TABLE_SECTORS)
        self.tables = self._add(self.tables, numbers, places)
        self.table_numbers = self._add(self.table_numbers, numbers, numbers)
        self.table_count += count

    def see_directory(self, first: int, entries: Numbers) -> None:
        """Entries of the directory from number ``first`` on."""
        told = np.flatnonzero(entries)
        ranks = np.arange(self.directory_count, self.directory_count + len(told), dtype=np.uint64)
        self.directory = self._add(self.directory, ranks, entries[told])
        self.directory_groups = self._add(self.directory_groups, ranks, (told + first).astype(np.uint64))
        self.directory_count += len(told)

    def agrees(self) -> bool:
        """Whether the tables tell of just the grains that were seen."""
        if (self.directory, self.directory_count) != (self.tables, self.table_count):
            return False
        if self.directory_groups == self.table_numbers and self.grains == self.entries:
            return True
        return (
            self.table_count == self.group_count
            and self.directory_groups == self.groups
            and self.ranked_grains == self.entries
        )

    def _add(self, total: int, left: Numbers, right: Numbers) -> int:
        """``total`` and the hash of each pair."""
        return (total + int(_mixed(_mixed(left + np.uint64(self.key)) + right).sum(dtype=np.uint64))) & _MASK


def _mixed(words: Numbers) -> Numbers:
    """splitmix64, a bijection of 64 bits; overflow is meant."""
    words = words + _STEP
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))

"""What was read of the database and is needed with every call, remembered for some seconds.

A change made by this daemon is seen by the next call: it makes everything forgotten, also what is being read
while it happens. A change made by another daemon is seen when the time is up.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Changes:
    """Counts the changes of what is remembered."""

    def __init__(self) -> None:
        self.count = 0

    def happened(self) -> None:
        """Call it after a change was committed, or may have been."""
        self.count += 1


class Remembered(Generic[Key, Value]):
    """At most ``limit`` values, each for ``seconds`` of ``monotonic``, or until a change."""

    def __init__(self, changes: Changes, seconds: float, limit: int, monotonic: Callable[[], float]) -> None:
        self._changes = changes
        self._seconds = seconds
        self._limit = limit
        self._monotonic = monotonic
        self._kept: dict[Key, tuple[int, float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        found = self._kept.get(key)
        if found is None:
            return None
        count, until, value = found
        if count == self._changes.count and self._monotonic() < until:
            return value
        del self._kept[key]
        return None

    def put(self, key: Key, value: Value, seen_changes: int) -> None:
        """``seen_changes``: their count before ``value`` was read."""
        self._kept.pop(key, None)
        while len(self._kept) >= self._limit:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (seen_changes, self._monotonic() + self._seconds, value)

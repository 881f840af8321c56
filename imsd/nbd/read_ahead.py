"""What will be read next: clients that read in order are recognised, and their next bytes named. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# Streams that are followed at once; a client with several connections has one on each.
MAX_STREAMS = 16

FIRST_BYTES = 512 << 10
MAX_BYTES = 4 << 20

# Requests that are under way together arrive in any order.
SLACK_BYTES = 1 << 20


@dataclass(slots=True)
class _Stream:
    """``end``: where the furthest request ended; ``told``: up to where bytes were named."""

    end: int
    told: int
    window: int


class ReadAhead:
    """The streams of one attachment. ``room_bytes``: what all windows together may be."""

    def __init__(self, size_bytes: int, room_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._room_bytes = room_bytes
        self._streams: list[_Stream] = []  # the one that went on last stands first

    def next_range(self, start: int, length: int) -> tuple[int, int] | None:
        """(start, length) of what should be loaded now that this is read; None: nothing yet."""
        end = start + length
        stream = self._continued(start)
        if stream is None:
            self._streams = [_Stream(end, end, 0), *self._streams[: MAX_STREAMS - 1]]
            return None
        stream.end = max(stream.end, end)
        limit = min(MAX_BYTES, max(FIRST_BYTES, self._room_bytes // len(self._streams)))
        told = max(stream.told, stream.end)
        if told - stream.end > stream.window // 2:
            return None
        stream.window = min(limit, max(FIRST_BYTES, 2 * stream.window))
        goal = min(stream.end + stream.window, self._size_bytes)
        stream.told = max(told, goal)
        return (told, goal - told) if goal > told else None

    def _continued(self, start: int) -> _Stream | None:
        for number, stream in enumerate(self._streams):
            if stream.end - SLACK_BYTES <= start <= stream.end + SLACK_BYTES:
                if number:
                    self._streams.insert(0, self._streams.pop(number))
                return stream
        return None

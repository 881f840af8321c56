"""How slowly a stream may be read: what is prepared for its reader takes memory from others."""

from __future__ import annotations

from collections import deque

from imsd.contract import Unavailable

# A reader that takes nothing for this long is cut off.
STALL_SECONDS = 30.0

# And so is one that waits just not so long for each message: it must take this much, over each such time.
MIN_BYTES_PER_SECOND = 64 << 10
PACE_SECONDS = 60.0

# However much of a file a message stands for, its reader comes back within this time.
LONGEST_STALL_SECONDS = 3600.0

# Sent bytes that may wait before the reader: in windows and sockets on the way, and in its own program.
IN_FLIGHT_BYTES = 8 << 20


class ReadPace:
    """The pace of one reader; the time in which nothing is ready for it does not count.

    A short message may stand for much of a file (frames, a run of zeros), and a reader that writes it to a
    slow pipe takes its time for it. So what counts is the file's bytes, and those that may still wait before
    the reader give it time.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._bytes = 0
        self._in_flight: deque[tuple[int, int]] = deque()  # of each message: bytes sent, bytes it stands for
        self._sent_bytes = 0
        self._hidden_bytes = 0  # of the file, beyond those sent

    @property
    def patience_seconds(self) -> float:
        """How long the next message may wait."""
        return min(STALL_SECONDS + self._hidden_bytes / MIN_BYTES_PER_SECOND, LONGEST_STALL_SECONDS)

    def taken(self, sent_bytes: int, file_bytes: int, seconds: float) -> None:
        """A message was taken after so long, which stands for ``file_bytes``.

        Raises Unavailable when the last minute's were too few.
        """
        self._spend(seconds)
        self._remember(sent_bytes, max(file_bytes - sent_bytes, 0))
        self._seconds += seconds
        self._bytes += max(file_bytes, sent_bytes)
        if self._seconds < PACE_SECONDS:
            return
        if self._bytes < self._seconds * MIN_BYTES_PER_SECOND:
            raise Unavailable(
                f"the reader takes less than {MIN_BYTES_PER_SECOND >> 10} KiB a second",
                hint="read faster, or try again over a better connection",
            )
        # What it has yet to read counts for the next minute.
        self._seconds, self._bytes = 0.0, self._hidden_bytes

    def stalled(self) -> Unavailable:
        """What a reader is told that let a message wait too long."""
        return Unavailable(
            f"the reader has taken nothing for {self.patience_seconds:.0f} seconds",
            hint="read faster, or try again",
        )

    def _spend(self, seconds: float) -> None:
        """What the reader had time for counts no more, the oldest first."""
        left = int(seconds * MIN_BYTES_PER_SECOND)
        while left > 0 and self._hidden_bytes and self._in_flight:
            sent, hidden = self._in_flight.popleft()
            spent = min(left, hidden)
            left -= spent
            self._hidden_bytes -= spent
            if hidden > spent:
                self._in_flight.appendleft((sent, hidden - spent))
            else:
                self._sent_bytes -= sent

    def _remember(self, sent_bytes: int, hidden_bytes: int) -> None:
        self._in_flight.append((sent_bytes, hidden_bytes))
        self._sent_bytes += sent_bytes
        self._hidden_bytes += hidden_bytes
        while self._sent_bytes > IN_FLIGHT_BYTES and len(self._in_flight) > 1:
            sent, hidden = self._in_flight.popleft()
            self._sent_bytes -= sent
            self._hidden_bytes -= hidden

"""The newest state of the jobs that run here, for those who watch and for the row in the database.

A worker only sets numbers; nothing is queued. Watchers see the newest state when they look, and one
write a second takes the progress of all jobs to their rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

RATE_SECONDS = 5.0
# A watcher is woken for every change but sees at most ten states a second.
WATCH_SECONDS = 0.1


@dataclass(slots=True)
class LiveProgress:
    """Where a running job stands. ``percent`` is of the whole job and never falls."""

    fence: int
    phase: str = "queued"
    bytes_done: int = 0
    bytes_total: int = 0
    percent: float = 0.0
    # Bytes done and in all of the last phase before this one that had any.
    _earlier: tuple[int, int] = (0, 0)
    work_ended: asyncio.Event = field(default_factory=asyncio.Event)
    _span: tuple[float, float] = (0.0, 0.0)
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def enter(self, phase: str, bytes_total: int, span: tuple[float, float], now: float) -> None:
        """Begin a phase that takes the job from ``span[0]`` to ``span[1]`` percent."""
        self._earlier = self.worked_on()
        self.phase, self.bytes_total, self._span = phase, bytes_total, span
        self.percent = max(self.percent, span[0])
        self.begin(0, now)

    def begin(self, bytes_done: int, now: float) -> None:
        """So much of the phase was done before: it counts for how far the job is, not for its rate."""
        self._samples = deque([(now, bytes_done)])
        self._reach(bytes_done)

    def _reach(self, bytes_done: int) -> None:
        # A reader may touch more than what counts: the zeros between two pieces of data.
        self.bytes_done = min(bytes_done, self.bytes_total) if self.bytes_total else bytes_done
        if self.bytes_total:
            low, high = self._span
            part = self.bytes_done / self.bytes_total
            self.percent = max(self.percent, low + (high - low) * part)

    def advance(self, bytes_done: int, now: float) -> None:
        self._reach(bytes_done)
        if not self._samples or now - self._samples[-1][0] >= WATCH_SECONDS:
            self._samples.append((now, bytes_done))
        while now - self._samples[0][0] > RATE_SECONDS and len(self._samples) > 2:
            self._samples.popleft()

    def worked_on(self) -> tuple[int, int]:
        """Bytes done and in all, of the newest phase that has any: told when the job is done."""
        return (self.bytes_done, self.bytes_total) if self.bytes_total else self._earlier

    def rate(self) -> int:
        """Bytes a second over the last seconds; 0 when unknown."""
        if len(self._samples) < 2:
            return 0
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return int((last - first) / (end - begin)) if end > begin else 0

    def eta_seconds(self) -> int:
        """Seconds until the phase is done at this rate; 0 when unknown."""
        rate = self.rate()
        return (self.bytes_total - self.bytes_done + rate - 1) // rate if rate and self.bytes_total else 0


class JobBoard:
    """Live progress by job id, and who waits for it to change."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._live: dict[str, LiveProgress] = {}
        # Only those who wait for a change keep its event.
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def open(self, job_id: str, fence: int, percent: float) -> LiveProgress:
        live = LiveProgress(fence=fence, percent=percent)
        self._live[job_id] = live
        self.changed(job_id)
        return live

    def work_ended(self, job_id: str) -> None:
        """The job's outcome is known, or about to be: no watcher shall wait any longer."""
        if live := self._live.get(job_id):
            live.work_ended.set()
            self.changed(job_id)

    def close(self, job_id: str) -> None:
        self._live.pop(job_id, None)
        self.changed(job_id)

    def find(self, job_id: str) -> LiveProgress | None:
        return self._live.get(job_id)

    def enter(
        self, job_id: str, phase: str, bytes_total: int, span: tuple[float, float], bytes_done: int = 0
    ) -> None:
        if live := self._live.get(job_id):
            now = self._monotonic()
            live.enter(phase, bytes_total, span, now)
            live.begin(bytes_done, now)
            self.changed(job_id)

    def advance(self, job_id: str, bytes_done: int) -> None:
        if live := self._live.get(job_id):
            live.advance(bytes_done, self._monotonic())
            self.changed(job_id)

    def all_live(self) -> dict[str, LiveProgress]:
        return dict(self._live)

    def changed(self, job_id: str) -> None:
        """Wake everyone who watches the job."""
        if event := self._changes.pop(job_id, None):
            event.set()

    async def pause(self, job_id: str) -> None:
        """Between two looks of a watcher: `WATCH_SECONDS`, less when the job's work ends."""
        if live := self._live.get(job_id):
            with suppress(TimeoutError):
                await asyncio.wait_for(live.work_ended.wait(), WATCH_SECONDS)

    def change_of(self, job_id: str) -> asyncio.Event:
        """An event that is set at the next change; ask for it before looking at the state."""
        return self._changes.setdefault(job_id, asyncio.Event())

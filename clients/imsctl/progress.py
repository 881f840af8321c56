"""Progress on standard error: bars on a terminal, else a line every few seconds, else nothing.

A `ProgressView` has rows, one for each thing under way; a row is told its newest `Snapshot` as often as
one likes and decides what to draw.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from imsd.v1 import job_pb2

from . import wording

LINE_SECONDS = 3.0
# What is over sooner needs no bar, and rich takes 80 ms to load.
BAR_AFTER_SECONDS = 0.4
RATE_WINDOW_SECONDS = 5.0
# A rate of less would say nothing of what comes: a header, and then the work before the first byte of data.
RATE_SECONDS, RATE_BYTES, RATE_SHARE = 1.0, 1 << 20, 0.01

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far something is.

    ``percent`` is 0..100, or None when the whole is not known; sizes in bytes, rate in bytes a second;
    0 means unknown. ``note`` replaces the numbers when there are none to show.
    """

    phase: str
    percent: float | None
    bytes_done: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    eta_seconds: float = 0.0
    note: str = ""

    def numbers(self) -> str:
        """Everything but the phase: ``42 %  512 MiB of 1.2 GiB, 430 MiB/s, 2 s left``."""
        parts = []
        if self.note:
            parts.append(self.note)
        if self.bytes_total:
            parts.append(f"{wording.size(self.bytes_done)} of {wording.size(self.bytes_total)}")
        elif self.bytes_done:
            parts.append(wording.size(self.bytes_done))
        if self.rate:
            parts.append(f"{wording.size(self.rate)}/s")
        if self.eta_seconds:
            parts.append(f"{wording.duration(max(self.eta_seconds, 1))} left")
        percent = "" if self.percent is None else f"{self.percent:3.0f} % "
        return f"{percent}{', '.join(parts)}".rstrip()


class TransferMeter:
    """Makes snapshots of a transfer from the bytes done: its rate is that of the last seconds."""

    def __init__(self, phase: str, total: int, begin: int = 0, clock: Clock = time.monotonic) -> None:
        self._phase = phase
        self._total = total
        self._clock = clock
        self._first = (clock(), begin)
        self._marks = deque([self._first])

    def at(self, done: int, total: int | None = None) -> Snapshot:
        """The state when ``done`` bytes are done; ``total`` in case it became known."""
        self._total = self._total if total is None else total
        now = self._clock()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_WINDOW_SECONDS:
            self._marks.popleft()
        begin, before = self._marks[0]
        is_known = now > begin and done > before and self._has_seen_enough(now, done)
        rate = (done - before) / (now - begin) if is_known else 0.0
        left = (self._total - done) / rate if rate and self._total else 0.0
        percent = 100 * done / self._total if self._total else None
        return Snapshot(self._phase, percent, done, self._total, rate, left)

    def _has_seen_enough(self, now: float, done: int) -> bool:
        begin, before = self._first
        enough = min(RATE_BYTES, self._total * RATE_SHARE) if self._total else RATE_BYTES
        return now - begin >= RATE_SECONDS and done - before >= enough


def job_snapshot(job: job_pb2.Job) -> Snapshot:
    """The state of a job as its progress says."""
    progress = job.progress
    note = ""
    if job.state == job_pb2.JOB_STATE_INIT and progress.queue_position:
        note = f"number {progress.queue_position} in the queue"
    elif job.state == job_pb2.JOB_STATE_CANCELLING:
        note = "cancelling"
    if job.state == job_pb2.JOB_STATE_SUCCESS:
        return Snapshot("done", 100)
    is_cancelled = job.state == job_pb2.JOB_STATE_CANCELLED
    return Snapshot(
        phase="cancelled" if is_cancelled else progress.phase or "waiting",
        percent=progress.percent,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        rate=progress.rate_bytes_per_second,
        eta_seconds=progress.eta_seconds,
        note=note,
    )


class ProgressRow(ABC):
    """One thing under way."""

    @abstractmethod
    def show(self, snapshot: Snapshot) -> None:
        """This is the newest state."""


class ProgressView(ABC):
    """Where rows are drawn."""

    @abstractmethod
    def row(self, label: str = "") -> ProgressRow:
        """A row of its own; ``label`` tells it from others."""

    @abstractmethod
    def note(self, text: str) -> None:
        """A sentence among the rows."""


@contextmanager
def open_progress(is_wanted: bool, clock: Clock = time.monotonic) -> Iterator[ProgressView]:
    """The view that fits standard error."""
    if not is_wanted:
        yield NoProgress()
    elif sys.stderr.isatty():
        bars = BarView(clock)
        try:
            yield bars
        finally:
            bars.close()
    else:
        yield LineView(clock)


class NoProgress(ProgressView, ProgressRow):
    """Shows nothing but notes."""

    def row(self, label: str = "") -> ProgressRow:
        return self

    def show(self, snapshot: Snapshot) -> None:
        return None

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class LineView(ProgressView):
    """A plain line every few seconds, for logs."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock

    def row(self, label: str = "") -> ProgressRow:
        return _LineRow(label, self._clock)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _LineRow(ProgressRow):
    def __init__(self, label: str, clock: Clock) -> None:
        self._label = f"{label}: " if label else ""
        self._clock = clock
        self._next = clock() + LINE_SECONDS

    def show(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + LINE_SECONDS
        text = f"{self._label}{snapshot.phase} {snapshot.numbers().strip()}"
        print(" ".join(text.split()), file=sys.stderr, flush=True)


class BarView(ProgressView):
    """Bars that move."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()
        self._bars: Any = None

    def row(self, label: str = "") -> ProgressRow:
        return _BarRow(self, label)

    def note(self, text: str) -> None:
        if self._bars is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the bars as they stand and give the terminal back."""
        if self._bars is not None:
            self._bars.stop()

    def bars(self) -> Any | None:
        """The rich display, once enough time has passed."""
        if self._bars is None and self._clock() - self._begin >= BAR_AFTER_SECONDS:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=Console(stderr=True),
                refresh_per_second=8,
            )
            self._bars.start()
        return self._bars


class _BarRow(ProgressRow):
    def __init__(self, view: BarView, label: str) -> None:
        self._view = view
        self._label = f"{label} " if label else ""
        self._task: Any = None

    def show(self, snapshot: Snapshot) -> None:
        bars = self._view.bars()
        if bars is None:
            return
        values = {
            "description": f"{self._label}{snapshot.phase:<8}",
            "numbers": snapshot.numbers(),
            "completed": snapshot.percent or 0,
            "total": None if snapshot.percent is None else 100,
        }
        if self._task is None:
            self._task = bars.add_task(**values)
        else:
            bars.update(self._task, **values)

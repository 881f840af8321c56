"""Timing contenders side by side.

Figures of one machine at one moment compare with each other only. So all contenders of a comparison run
in turn (A B C A B C ...), each start waits for an idle processor, and a comparison is a ratio of medians.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

IDLE_SHARE = 0.85
IDLE_PATIENCE_SECONDS = 30.0


class NotAvailable(Exception):
    """A peer is not installed here; ``str()`` says what is missing."""


def nothing() -> None:
    """Needs no preparation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to do a job. Only ``run`` is timed; ``size`` is asked after it, before ``after``."""

    label: str
    command: str  # as a reader would type it
    run: Callable[[], object]
    before: Callable[[], object] = nothing
    after: Callable[[], object] = nothing
    size: Callable[[], int] | None = None  # bytes of the result


@dataclass(slots=True)
class Times:
    """What was measured of one contender."""

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.2f} s ({min(self.seconds):.2f}–{max(self.seconds):.2f})"


def measure(contenders: Sequence[Contender], rounds: int) -> dict[str, Times]:
    """Run ``contenders`` in turn, ``rounds`` times; times by label."""
    times = {contender.label: Times(contender) for contender in contenders}
    for number in range(1, rounds + 1):
        for contender in contenders:
            took = _once(contender, times[contender.label])
            print(f"  {number}/{rounds} {contender.label:<40} {took:8.2f} s", flush=True)
    return times


def _once(contender: Contender, times: Times) -> float:
    try:
        contender.before()
        wait_until_idle()
        start = time.perf_counter()
        contender.run()
        took = time.perf_counter() - start
        if contender.size is not None:
            times.size_bytes = contender.size()
    finally:
        contender.after()
    times.seconds.append(took)
    return took


def wait_until_idle() -> None:
    """Wait until the processors are mostly idle for half a second; after 30 s go on anyway."""
    deadline = time.monotonic() + IDLE_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        before = _processor_ticks()
        time.sleep(0.5)
        idle, total = (now - then for now, then in zip(_processor_ticks(), before, strict=True))
        if total and idle / total >= IDLE_SHARE:
            return


def _processor_ticks() -> tuple[int, int]:
    """(idle, all) ticks of all processors since boot; see proc(5), /proc/stat."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def command(*arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed; shown when it fails."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        words = " ".join(str(argument) for argument in arguments)
        raise RuntimeError(f"{words} failed:\n{done.stdout.decode(errors='replace')[-2000:]}")
    return done.stdout.decode(errors="replace")


def allocated_bytes(path: Path) -> int:
    """Bytes a file, or all files of a folder, take on disk (holes take none)."""
    if path.is_file():
        return path.stat().st_blocks * 512
    return sum(entry.stat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file())

"""What a fuzz target is, and what no input may do: take long, take memory, or be answered in two ways."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from zlib import crc32

from imsd.contract import ImageRefused
from tests.fuzz.sparse_form import runs_of_pages

# Of the process, for one answer to one input; time in which other processes run does not count.
MAX_CPU_SECONDS = 2.0
# More than before the input.
MAX_MEMORY_BYTES = 256 << 20
# Every so many inputs are answered twice.
TWICE = 8

ACCEPTED = "accepted"
SEEDS = 24
# Of a sound file, without its zeros.
MAX_SEED_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    """``ending``: `ACCEPTED`, or why not. ``content``: whatever else must be the same the next time."""

    ending: str
    content: object = None


@dataclass(frozen=True, slots=True)
class Target:
    """``answer(file, chosen)`` raises whatever must not come out; what is ``chosen`` must not matter.

    ``seeds``: sound files. ``repair``: a file with right checksums, so that damage behind them is reached.
    """

    name: str
    seeds: Callable[[], Iterable[bytes]]
    answer: Callable[[bytes, random.Random], Answer]
    repair: Callable[[bytearray], bytes] | None = None


def refusable(call: Callable[[], object]) -> Answer:
    """The answer of ``call``, which may refuse, but only with a reason and words."""
    try:
        return Answer(ACCEPTED, call())
    except ImageRefused as refused:
        reason, words = refused.reason, refused.message
    assert reason, "refused without a reason"
    assert words, "refused without a word"
    return Answer(reason)


def small_ones(make: Callable[[random.Random], bytes | bytearray]) -> Iterable[bytes]:
    """`SEEDS` of the files that ``make`` makes: the smallest, and some of all sizes that are allowed."""
    files = {bytes(make(random.Random(seed))) for seed in range(4 * SEEDS)}
    by_content = sorted((sum(end - first for first, end in runs_of_pages(file)), file) for file in files)
    small = [file for size, file in by_content if size <= MAX_SEED_BYTES]
    rest = small[SEEDS // 2 :]
    return small[: SEEDS // 2] + rest[:: max(1, len(rest) // (SEEDS // 2))]


def check(target: Target, file: bytes) -> str:
    """How the target ends on ``file``. Raises AssertionError, and whatever the target raises."""
    number = crc32(file)
    first = _bounded(target, file, random.Random(number))
    if number % TWICE == 0:
        second = _bounded(target, file, random.Random(number + 1))
        assert first == second, f"two answers: {first.ending} and {second.ending}"
    return first.ending


def _bounded(target: Target, file: bytes, chosen: random.Random) -> Answer:
    before = _forget_highest()
    began = time.process_time()
    answer = target.answer(file, chosen)
    seconds = time.process_time() - began
    assert seconds <= MAX_CPU_SECONDS, f"it took {seconds:.1f} s of the processor"
    grown = _highest_bytes() - before
    assert grown <= MAX_MEMORY_BYTES, f"it took {grown >> 20} MiB"
    return answer


def _forget_highest() -> int:
    """Begin to measure the most memory anew; returns what there is now."""
    with open("/proc/self/clear_refs", "w") as clear_refs:
        clear_refs.write("5")
    return _highest_bytes()


def _highest_bytes() -> int:
    """The most memory since. Not that of getrusage, which a process inherits from the one that began it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))

"""Reading the bytes of a file that lies in runs on its volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .file_system import MAX_FILE_BYTES
from .volume import GuestUnreadable, Volume


@dataclass(frozen=True, slots=True)
class Run:
    """``length`` bytes of a file from ``start``. ``place`` is where they lie on the volume; None: zeros."""

    start: int
    length: int
    place: int | None


FindRun = Callable[[int], Run]


def read_runs(volume: Volume, find: FindRun, offset: int, length: int) -> bytes:
    """``length`` bytes of a file from ``offset``; ``find`` gives the run that holds an offset.

    Raises `GuestUnreadable`.
    """
    found: list[bytes] = []
    end = offset + length
    while offset < end:
        run = find(offset)
        inside = offset - run.start
        if not 0 <= inside < run.length:
            raise GuestUnreadable("a file whose pieces do not fit together")
        count = min(end - offset, run.length - inside)
        found.append(bytes(count) if run.place is None else volume.read(run.place + inside, count))
        offset += count
    return b"".join(found)


def part_of_file(size_bytes: int, offset: int, length: int) -> int:
    """How many of ``length`` bytes from ``offset`` a file of ``size_bytes`` has.

    Raises `GuestUnreadable` for more than `MAX_FILE_BYTES` at once.
    """
    count = max(0, min(length, size_bytes - offset))
    if offset < 0 or count > MAX_FILE_BYTES:
        raise GuestUnreadable(f"{count} bytes of a file at once")
    return count

"""How fast a store is: measured for people, and no promise."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import monotonic

from imsd.contract import BlobStore, ByteRange
from imsd.promises.promise import Place

MIB = 1 << 20

# What is written and read at a stretch, as a pack is; and how often a small thing is done.
STRETCH_MIB = 64
TIMES = 9
SMALL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRates:
    """Bytes a second of one pack, and seconds that a small thing takes, half of the times at most."""

    write_bytes_per_second: int
    read_bytes_per_second: int
    commit_seconds: float
    stat_seconds: float
    read_seconds: float


async def measure(store: BlobStore, prefix: str) -> StoreRates:
    """Below ``prefix``, where it leaves what it wrote. Raises what the store raises."""
    place = Place(store, prefix)
    small = [ByteRange(0, SMALL_BYTES)]
    written = await _timed(partial(_write, place))
    read = await _timed(partial(_read, place))
    blobs = [f"small/{number}" for number in range(TIMES)]
    commits = [await _timed(partial(place.put, blob, bytes(SMALL_BYTES))) for blob in blobs]
    stats = [await _timed(partial(place.stat, blob)) for blob in blobs]
    reads = [await _timed(partial(place.read, blob, small)) for blob in blobs]
    return StoreRates(
        write_bytes_per_second=int(STRETCH_MIB * MIB / written),
        read_bytes_per_second=int(STRETCH_MIB * MIB / read),
        commit_seconds=round(median(commits), 6),
        stat_seconds=round(median(stats), 6),
        read_seconds=round(median(reads), 6),
    )


async def _write(place: Place) -> None:
    async with place.begin("pack") as ingest:
        block = os.urandom(MIB)  # nothing that a store could make smaller
        for number in range(STRETCH_MIB):
            await ingest.write([bytes([number]), memoryview(block)[1:]])
        await ingest.commit()


async def _read(place: Place) -> None:
    for number in range(0, STRETCH_MIB, 4):
        await place.read("pack", [ByteRange(number * MIB, 4 * MIB)])


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    started = monotonic()
    await call()
    return max(monotonic() - started, 1e-6)

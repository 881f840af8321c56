"""Damages small disks at random and looks into them: only `GuestUnreadable` may come out, and soon.

    python tests/fuzz/fuzz_guest.py --seconds 60 [--seed N]

A failure prints the seed of the damaged disk, which `--seed` makes again. Needs what the tests of the guest
package need: mke2fs, mkfs.xfs, mkfs.fat, mtools, genisoimage.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from imsd.guest.disk import read_layout
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.guest_disks import (
    CountingVolume,
    look_at_all,
    sound_file_systems,
    sound_tables,
    used_places,
    vector,
)

# What looking into one damaged disk may take. The slowest seen took 3 s on a busy machine.
MAX_SECONDS = 30.0
MAX_READS = 20_000
MAX_NODES = 100

INTERESTING = [
    0,
    1,
    2,
    3,
    7,
    8,
    12,
    16,
    63,
    64,
    127,
    128,
    255,
    511,
    512,
    1 << 15,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
]


@lru_cache(maxsize=1)
def sound_disks() -> list[bytes]:
    """Disks of every kind that is read."""
    file_systems = [content for _, content in sound_file_systems().values()]
    return [*file_systems, vector("xfs-fragmented.img.gz"), *sound_tables().values()]


def damage(chosen: random.Random, sound: bytes) -> bytes:
    """``sound`` with a few fields or bytes wrong, parts moved, or cut."""
    disk = bytearray(sound)
    places = used_places(sound)
    for _ in range(chosen.choice([1, 1, 2, 4, 16, 64])):
        # The first structures are where damage matters most.
        reach = chosen.choice([64, 512, 4096, len(places)])
        at = places[chosen.randrange(min(reach, len(places)))]
        kind = chosen.randrange(5)
        width = chosen.choice([1, 2, 4, 8])
        if kind == 0:
            disk[at] ^= 1 << chosen.randrange(8)
        elif kind <= 2:
            at = at // width * width
            value = chosen.choice([*INTERESTING, chosen.getrandbits(32), len(disk)]) % (1 << 8 * width)
            disk[at : at + width] = value.to_bytes(width, chosen.choice(["little", "big"]))
        elif kind == 3:
            source = places[chosen.randrange(len(places))]
            disk[at : at + width * 4] = disk[source : source + width * 4].ljust(width * 4, b"\0")
        else:
            disk[at : at + width] = chosen.randbytes(width)
    return bytes(disk[: chosen.randrange(len(disk))] if chosen.random() < 0.1 else disk)


def look_into(disk: bytes) -> str:
    """Looks at the whole disk; how it ended: ``read``, ``nothing`` or ``unreadable``."""
    began = time.monotonic()
    volume = CountingVolume(BytesVolume(disk))
    ending = "nothing"
    for place in read_layout(volume).places:
        if place.file_system is None:
            continue
        try:
            look_at_all(place.file_system, MAX_NODES)
            ending = "read"
        except GuestUnreadable:
            ending = "unreadable"
    assert volume.reads < MAX_READS, "it read too often"
    assert time.monotonic() - began < MAX_SECONDS, "it took too long"
    return ending


def run_one(seed: int) -> str:
    """One damaged disk; how it ended. Raises whatever must not come out."""
    chosen = random.Random(seed)
    return look_into(damage(chosen, chosen.choice(sound_disks())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="make and look into this one disk")
    options = parser.parse_args()
    if options.seed is not None:
        print(run_one(options.seed))
        return
    endings = {"read": 0, "nothing": 0, "unreadable": 0}
    seed = random.SystemRandom().getrandbits(48)
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        seed += 1
        try:
            endings[run_one(seed)] += 1
        except BaseException:
            print(f"--seed {seed}", file=sys.stderr)
            raise
    print(f"{sum(endings.values())} disks: {endings}")


if __name__ == "__main__":
    main()

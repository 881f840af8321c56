"""Damages NTFS, hives and btrfs at random and reads them: only `GuestUnreadable` may come out, and soon.

    python tests/fuzz/fuzz_windows_and_btrfs.py --seconds 60 [--seed N]

A failure prints the seed of the damage, which `--seed` makes again.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from imsd.guest.volume import GuestUnreadable, Volume
from tests.fuzz.fuzzing import fuzz
from tests.unit.guest.btrfs_disks import suse_like, ubuntu_like
from tests.unit.guest.damage import WatchedVolume, damaged, look_at_btrfs, look_at_hive, look_at_ntfs
from tests.unit.guest.windows_disks import SOFTWARE_REG, make_hive, make_windows_volume

# What one damaged volume may take. The slowest seen took 0.1 s on a busy machine.
MAX_SECONDS = 20.0


Target = tuple[bytes, Callable[[Volume], None], list[tuple[int, int]]]


@cache
def targets() -> list[Target]:
    """Sound volumes, what looks at them, and where it reads."""
    with tempfile.TemporaryDirectory() as directory:
        windows = make_windows_volume(Path(directory) / "windows.img", size=4 << 20).read_bytes()
        hive = make_hive(Path(directory) / "hive", SOFTWARE_REG)
    found: list[Target] = []
    for content, look in (
        (windows, look_at_ntfs),
        (hive, look_at_hive),
        (ubuntu_like().finish(), look_at_btrfs),
        (suse_like().finish(), look_at_btrfs),
    ):
        watched = WatchedVolume(content)
        look(watched)
        found.append((content, look, watched.reads))
    return found


def run_one(seed: int) -> str:
    """One damaged volume; returns how it ended. Raises whatever must not come out."""
    chosen = random.Random(seed)
    content, look, reads = chosen.choice(targets())
    volume = WatchedVolume(damaged(content, reads, chosen))
    began = time.monotonic()
    try:
        look(volume)
        ending = "ok"
    except GuestUnreadable:
        ending = "unreadable"
    assert time.monotonic() - began < MAX_SECONDS, "it took too long"
    return ending


if __name__ == "__main__":
    fuzz(__doc__, run_one)

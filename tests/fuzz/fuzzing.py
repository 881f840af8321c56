"""The command that every fuzz target is: one damaged file after another, each from a seed."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable


def fuzz(description: str | None, run_one: Callable[[int], str]) -> None:
    """Read damaged files for as long as the command line says, or the one that it names.

    ``run_one`` makes and reads the file of a seed and returns how that ended; what it raises ends the
    program, and the seed is printed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="make and read the file of this seed")
    options = parser.parse_args()
    if options.seed is not None:
        print(run_one(options.seed))
        return
    endings: dict[str, int] = {}
    seed = random.SystemRandom().getrandbits(48)
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        seed += 1
        try:
            ending = run_one(seed)
        except BaseException:
            print(f"--seed {seed}", file=sys.stderr)
            raise
        endings[ending] = endings.get(ending, 0) + 1
    print(f"{sum(endings.values())} files: {dict(sorted(endings.items()))}")

"""What a delta upload sends of a disk that is like one that the project has.

In three ways: changed in runs of 1 MiB, written to in scattered blocks, and built from scratch again.
"""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

from tests.benchmark.disks import Disks, data_places
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.relay import Relay
from tests.benchmark.report import Row, mebibytes
from tests.benchmark.stopwatch import Contender, Times, allocated_bytes, command, measure

BLOCK_BYTES = 4096
RUN_BYTES = 1 << 20
CHANGED_SHARE = 0.02
SEED = 20

# Of the bytes of the file: what was set out for runs, and what is only told.
GOAL_OF_RUNS = 0.04


def delta(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    runs = changed_in_runs(disks)
    others = (
        ("2 % of its data changed in runs of 1 MiB", runs, f"< {GOAL_OF_RUNS:.0%} of the data"),
        ("2 % of its data changed in scattered 4 KiB blocks", changed_in_blocks(disks), ""),
        ("built from scratch, with more packages", disks.second, ""),
    )
    rows, measured = [], []
    for what, disk, goal in others:
        row, times = one(disks, what, disk, goal, rounds)
        rows.append(row)
        measured += times
    return rows, measured


def one(disks: Disks, what: str, disk: Path, goal: str, rounds: int) -> tuple[Row, list[Times]]:
    daemon = OurDaemon(disks.scratch / "daemon")
    sent: dict[str, int] = {}

    def before() -> None:
        daemon.start()
        daemon.imsctl("image", "import", disks.first, "--name", "first")

    def contender(option: str) -> Contender:
        def run() -> None:
            socket = Path(daemon.address.removeprefix("unix:"))
            relay_path = disks.scratch / f"relay{option}.sock"
            relay_path.unlink(missing_ok=True)
            with closing(Relay(relay_path, socket)) as relay:
                daemon.imsctl(
                    *("image", "import", disk, "--name", "second"),
                    *(option, "--send-bytes", "--address", relay.address),
                )
            sent[option] = relay.sent_bytes

        return Contender(
            label=f"imsd, {option}: {what}",
            command=f"imsctl image import DISK --name second {option} --send-bytes",
            before=before,
            run=run,
            after=daemon.stop,
            size=lambda: sent[option],
        )

    contenders = [contender("--delta"), contender("--no-delta")]
    with closing(daemon):
        times = measure(contenders, rounds)
    ours, whole = (times[each.label] for each in contenders)
    data = allocated_bytes(disk)
    row = Row(
        f"import of a disk like one that is there: {what}",
        f"{ours}, {mebibytes(ours.size_bytes)} sent",
        f"imsd without comparing: {whole}, {mebibytes(whole.size_bytes)} sent",
        f"{100 * ours.size_bytes / data:.1f} % of the data sent",
        goal,
    )
    return row, list(times.values())


def changed_in_runs(disks: Disks) -> Path:
    """The first disk with whole runs of its data written anew, at any 4 KiB step."""
    return _changed(disks, "runs", RUN_BYTES)


def changed_in_blocks(disks: Disks) -> Path:
    return _changed(disks, "blocks", BLOCK_BYTES)


def _changed(disks: Disks, name: str, run_bytes: int) -> Path:
    path = disks.scratch / f"{name}.raw"
    command("cp", "--sparse=always", disks.first, path)
    chance = random.Random(SEED)
    places = data_places(path, run_bytes)
    count = int(allocated_bytes(path) * CHANGED_SHARE) // run_bytes
    with path.open("r+b") as file:
        for place in chance.sample(places, count):
            file.seek(place)
            file.write(chance.randbytes(run_bytes))
    return path

"""What a second disk costs: the same again, and a second build from scratch with more packages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.benchmark.disks import Disks
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.report import Row, absent_row, mebibytes
from tests.benchmark.stopwatch import Contender, NotAvailable, Times, allocated_bytes, command, measure


def same_again(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    daemon = OurDaemon(disks.scratch / "daemon")

    def imported(name: str) -> Contender:
        return Contender(
            label=f"imsd, {name} import of one disk",
            command=f"imsctl image import {disks.first.name} --name {name}",
            before=daemon.start if name == "first" else lambda: None,
            run=lambda: daemon.imsctl("image", "import", disks.first, "--name", name),
            after=(lambda: None) if name == "first" else daemon.stop,
            size=lambda: int(daemon.image(name)["new_size"]),
        )

    first, second = imported("first"), imported("second")
    with closing(daemon):
        times = measure([first, second], rounds)
    a, b = times[first.label], times[second.label]
    row = Row(
        "second import of the same disk",
        f"{b}, {mebibytes(b.size_bytes)} new",
        f"imsd, first import: {a}, {mebibytes(a.size_bytes)} new",
        f"{a.median / b.median:.1f} × as fast, {100 * b.size_bytes / max(a.size_bytes, 1):.2f} % new bytes",
        "2 ×, < 1 %",
    )
    return [row], list(times.values())


def two_builds(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    """Both builds into one store, and the room they take, against three deduplicating programs."""
    daemon = OurDaemon(disks.scratch / "daemon")

    def run() -> None:
        for disk in both(disks):
            daemon.imsctl("image", "import", disk, "--name", disk.stem)

    mine = Contender(
        label="imsd, two builds",
        command=f"imsctl image import {disks.first.name} ...; the same with {disks.second.name}",
        before=daemon.start,
        run=run,
        after=daemon.stop,
        size=lambda: allocated_bytes(daemon.folder / "state"),
    )
    contenders, rows = [mine], []
    for make in (borg, restic, casync):
        try:
            contenders.append(make(disks))
        except NotAvailable as reason:
            rows.append(absent_row("two builds of a server in one store", make.__name__, reason))
    with closing(daemon):
        times = measure(contenders, rounds)
    took = times.pop(mine.label)
    for peer in times.values():
        rows.append(
            Row(
                "two builds of a server in one store",
                f"{took}, {mebibytes(took.size_bytes)}",
                f"{peer.contender.label}: {peer}, {mebibytes(peer.size_bytes)}",
                f"{peer.median / took.median:.1f} × as fast, "
                f"{took.size_bytes / max(peer.size_bytes, 1):.3f} × the size",
                "2 × the fastest, size ≤ the smallest",
            )
        )
    return rows, [took, *times.values()]


def both(disks: Disks) -> Sequence[Path]:
    return disks.first, disks.second


def borg(disks: Disks) -> Contender:
    need("borg")
    store = disks.scratch / "borg"
    env = {**os.environ, "BORG_BASE_DIR": str(disks.scratch / "borg-home")}
    env["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "yes"

    def run() -> None:
        for disk in both(disks):
            command("borg", "create", "-C", "zstd,1", f"{store}::{disk.stem}", disk, env=env)

    return Contender(
        label="borg, zstd,1",
        command="borg create -C zstd,1 STORE::NAME DISK (twice)",
        before=lambda: command("borg", "init", "-e", "none", store, env=env),
        run=run,
        after=lambda: remove(store, disks.scratch / "borg-home"),
        size=lambda: allocated_bytes(store),
    )


def restic(disks: Disks) -> Contender:
    need("restic")
    store, cache = disks.scratch / "restic", disks.scratch / "restic-cache"
    env = {**os.environ, "RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(cache)}

    def run() -> None:
        for disk in both(disks):
            command("restic", "-r", store, "backup", "--quiet", disk, env=env)

    return Contender(
        label="restic",
        command="restic -r STORE backup DISK (twice)",
        before=lambda: command("restic", "-r", store, "init", env=env),
        run=run,
        after=lambda: remove(store, cache),
        size=lambda: allocated_bytes(store),
    )


def casync(disks: Disks) -> Contender:
    need("casync")
    store, index = disks.scratch / "store.castr", disks.scratch / "index"

    def run() -> None:
        for disk in both(disks):
            command("casync", "make", f"--store={store}", index / f"{disk.stem}.caibx", disk)

    return Contender(
        label="casync",
        command="casync make --store=STORE NAME.caibx DISK (twice)",
        before=lambda: index.mkdir(),
        run=run,
        after=lambda: remove(store, index),
        size=lambda: allocated_bytes(store) + allocated_bytes(index),
    )


def need(program: str) -> None:
    if shutil.which(program) is None:
        raise NotAvailable(f"{program} is not installed")


def remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)

"""`make bench`: imsd against other tools on one machine, and its own limits; results to BENCHMARKS.md.

    python -m tests.benchmark.bench [--only WORD ...] [--rounds N] [--scratch DIR]

Needs about 16 GiB of free memory (all files lie in a tmpfs, so that no disk is measured), the programs
of `.ci/install_packages.sh bench`, and root on Debian to build the disks. A missing peer shows as such.
With ``--only`` the results are printed and not written.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmark import (
    block_serving,
    conversions,
    dedup,
    delta,
    downloads,
    encryption,
    imports,
    inspection,
    limits,
    lists,
    report,
    s3,
    versions,
)
from tests.benchmark.disks import ROOT, Disks, describe
from tests.benchmark.report import Row
from tests.benchmark.stopwatch import Times

Group = Callable[[Disks, int], tuple[list[Row], list[Times]]]
GROUPS: dict[str, Group] = {
    "raw-import": imports.raw_import,
    "qcow2-import": imports.qcow2_import,
    "qcow2-download": downloads.qcow2_download,
    "zlib-qcow2": downloads.zlib_qcow2,
    "vmdk": downloads.vmdk,
    "zvhd2": downloads.zvhd2,
    "raw-download": downloads.raw_download,
    "formats": conversions.formats,
    "same-again": dedup.same_again,
    "two-builds": dedup.two_builds,
    "delta": delta.delta,
    "versions": versions.versions,
    "encrypted": encryption.encrypted,
    "memory": limits.memory,
    "latency": limits.latency,
    "inspect": inspection.stored_image,
    "lists": lists.lists,
    "s3": s3.s3_import,
    "nbd": block_serving.served_disk,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure imsd against other tools.")
    parser.add_argument("--only", action="append", choices=GROUPS, help="one group; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (3)")
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm"), help="a tmpfs (/dev/shm)")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="imsd-bench.", dir=options.scratch))
    try:
        disks = Disks(scratch / "run")
        rows: list[Row] = []
        measured: list[Times] = []
        for name in options.only or GROUPS:
            print(f"{name}", flush=True)
            new_rows, new_times = GROUPS[name](disks, options.rounds)
            rows += new_rows
            measured += new_times
        text = "" if options.only else page(disks, rows, measured, options.rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print()
    print(report.table(rows))
    if not options.only:
        report.write_between_markers(ROOT / "BENCHMARKS.md", text)
        print("\nwritten to BENCHMARKS.md")


def page(disks: Disks, rows: list[Row], measured: list[Times], rounds: int) -> str:
    versions = [
        report.version("qemu-img", "--version"),
        report.version("borg", "--version"),
        report.version("restic", "version"),
        report.version("casync", "--version"),
        "glance 33.0.0",
        "ovirt-imageio 2.5.1",
    ]
    return "\n\n".join(
        [
            f"Measured {datetime.now(UTC):%Y-%m-%d} on {report.machine()}.",
            f"Medians of {rounds} rounds, in brackets the fastest and the slowest. "
            f"Disk: {describe(disks.first)}; second build: {describe(disks.second)}.",
            report.table(rows),
            "Commands, all in a tmpfs:",
            report.commands(measured),
            "Versions: " + "; ".join(versions) + ".",
        ]
    )


if __name__ == "__main__":
    main()

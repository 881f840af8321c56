"""What ten successive versions of one disk take: changed in place, and rebuilt from scratch each time.

In place: the disk begins as the distribution was released; then it is mounted, and the package manager
upgrades a ninth of what has a newer version, and installs a package; so the next version is the same file
system with changes. Rebuilt: the same packages are put onto an empty disk each time,
as a pipeline that builds images does; files lie elsewhere then. The peer keeps each version as a compressed
file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.benchmark.disks import BUILD_DISK, CACHE, Disks
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.report import Row, mebibytes
from tests.benchmark.stopwatch import Contender, Times, allocated_bytes, command, measure

HERE = Path(__file__).parent
CHANGE_DISK = HERE / "change_disk.sh"

# What the system begins with, and what each later version has beside the one before it.
BEGINNING = ("linux-image-amd64", "curl", "rsync", "vim")
ADDED = ("git", "nginx", "man-db", "redis-server", "tmux", "htop", "strace", "jq", "sqlite3")
DISK_SIZE = "3G"

Version = Callable[[int], Path]


def versions(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    """One round of each: they differ in bytes only by what the file system's own clock says."""
    rows, times = [], []
    for name, make, at_most in (("changed in place", changed, 0.3), ("rebuilt from scratch", rebuilt, 0.5)):
        row, took = _compared(disks, name, make, at_most)
        rows.append(row)
        times += took
    return rows, times


def changed(number: int) -> Path:
    """Version ``number``: the one before it, with packages upgraded, one more, and logs grown."""
    path = CACHE / f"version-{number}-changed.raw"
    if not path.exists():
        partial = path.with_suffix(".partial")
        if number == 0:
            command("env", "RELEASE_ONLY=1", BUILD_DISK, partial, DISK_SIZE, *BEGINNING)
        else:
            command("cp", "--sparse=always", changed(number - 1), partial)
            command(CHANGE_DISK, partial, str(number), str(len(ADDED)), ADDED[number - 1])
        partial.rename(path)
    return path


def rebuilt(number: int) -> Path:
    """Version ``number``, built anew with the packages of `changed`."""
    path = CACHE / f"version-{number}-rebuilt.raw"
    if not path.exists():
        partial = path.with_suffix(".partial")
        command(BUILD_DISK, partial, DISK_SIZE, *BEGINNING, *ADDED[:number])
        partial.rename(path)
    return path


def _compared(disks: Disks, name: str, make: Version, at_most: float) -> tuple[Row, list[Times]]:
    made = [make(number) for number in range(len(ADDED) + 1)]
    daemon = OurDaemon(disks.scratch / "daemon")
    folder = disks.scratch / "files"

    def imports() -> None:
        for path in made:
            daemon.imsctl("image", "import", path, "--name", path.stem)

    def files() -> None:
        for path in made:
            options = ("-O", "qcow2", "-c", "-o", "compression_type=zstd")
            command("qemu-img", "convert", *options, path, folder / f"{path.stem}.qcow2")

    def clear() -> None:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    mine = Contender(
        label=f"imsd, ten versions {name}",
        command="imsctl image import VERSION (ten times)",
        before=daemon.start,
        run=imports,
        after=daemon.stop,
        size=lambda: allocated_bytes(daemon.folder / "state"),
    )
    peer = Contender(
        label=f"qemu-img, ten versions {name}",
        command="qemu-img convert -O qcow2 -c -o compression_type=zstd VERSION FILE (ten times)",
        before=folder.mkdir,
        run=files,
        after=clear,
        size=lambda: allocated_bytes(folder),
    )
    with closing(daemon):
        times = measure([mine, peer], 1)
    ours, theirs = times[mine.label], times[peer.label]
    row = Row(
        f"ten versions of one disk, {name}",
        f"{ours}, {mebibytes(ours.size_bytes)}",
        f"ten qcow2-zstd files: {theirs}, {mebibytes(theirs.size_bytes)}",
        f"{ours.size_bytes / max(theirs.size_bytes, 1):.2f} × the size",
        f"size ≤ {at_most} ×",
    )
    return row, [ours, theirs]

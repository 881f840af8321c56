"""The disks that are measured: two builds of a Debian 12 server, and made-up ones for the limits."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from tests.benchmark.stopwatch import allocated_bytes, command

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bench"
BUILD_DISK = ROOT / "tests" / "demo" / "build_disk.sh"

# A 4 GiB disk with about 1.3 GiB of data, as a small server has it.
FIRST_PACKAGES = (
    "linux-image-amd64",
    "build-essential",
    "git",
    "vim",
    "curl",
    "rsync",
    "man-db",
    "python3-pip",
)
MORE_PACKAGES = ("nginx", "postgresql", "redis-server")
DISK_SIZE = "4G"
HEAD_SIZE = 1 << 30

SPARSE_SIZE = 120 << 30
SPARSE_PIECE = 4 << 20
SMALL_SIZE = 1 << 20
CROWD = 40


class Disks:
    """The inputs, all in ``scratch``, a file system in memory; each is made when it is first asked for.

    What takes long to make is kept on disk, in `CACHE`.
    """

    def __init__(self, scratch: Path) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True)
        self.scratch = scratch

    @cached_property
    def first(self) -> Path:
        return self._built("debian", FIRST_PACKAGES)

    @cached_property
    def second(self) -> Path:
        return self._built("debian-more", FIRST_PACKAGES + MORE_PACKAGES)

    @cached_property
    def zlib(self) -> Path:
        """``first`` as compressed QCOW2."""
        return self._packed("zlib")

    @cached_property
    def zstd(self) -> Path:
        return self._packed("zstd")

    @cached_property
    def head(self) -> Path:
        """The first GiB of ``first``, full of files."""
        path = self.scratch / "head.raw"
        window = ("bs=1M", f"count={HEAD_SIZE >> 20}")
        command("dd", f"if={self.first}", f"of={path}", *window, "conv=sparse", "status=none")
        return path

    def _built(self, name: str, packages: tuple[str, ...]) -> Path:
        built = CACHE / f"{name}.raw"
        if not built.exists():
            print(f"building {built}", flush=True)
            command(BUILD_DISK, built, DISK_SIZE, *packages)
        path = self.scratch / built.name
        command("cp", "--sparse=always", built, path)
        return path

    def _packed(self, compression: str) -> Path:
        path = CACHE / f"debian-{compression}.qcow2"
        first = self.first
        if not path.exists() or path.stat().st_mtime < (CACHE / "debian.raw").stat().st_mtime:
            partial = path.with_suffix(".partial")
            options = ("-O", "qcow2", "-c", "-o", f"compression_type={compression}")
            command("qemu-img", "convert", *options, first, partial)
            partial.rename(path)
        command("cp", path, self.scratch / path.name)
        return self.scratch / path.name


def describe(path: Path) -> str:
    return f"{path.stat().st_size / 2**30:.0f} GiB, {allocated_bytes(path) / 2**20:.0f} MiB allocated"


def make_sparse(disks: Disks) -> Path:
    """A RAW disk of 120 GiB with 4 MiB of real data in every GiB."""
    path = disks.scratch / "sparse.raw"
    with path.open("wb") as out, disks.first.open("rb") as data:
        out.truncate(SPARSE_SIZE)
        for number in range(SPARSE_SIZE >> 30):
            data.seek((number * 31 * SPARSE_PIECE) % (4 << 30))
            out.seek(number << 30)
            out.write(data.read(SPARSE_PIECE))
    return path


def make_crowd(disks: Disks) -> list[Path]:
    """Forty different disks, every other one a compressed QCOW2: the first disk in forty pieces."""
    piece = (disks.first.stat().st_size // CROWD) >> 20 << 20
    crowd = []
    for number in range(CROWD):
        raw = disks.scratch / f"crowd-{number}.raw"
        window = (f"skip={number * piece}", f"count={piece}", "iflag=skip_bytes,count_bytes")
        command("dd", f"if={disks.first}", f"of={raw}", "bs=1M", *window, "conv=sparse", "status=none")
        os.truncate(raw, piece)
        if number % 2:
            qcow2 = raw.with_suffix(".qcow2")
            command("qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd", raw, qcow2)
            raw.unlink()
            crowd.append(qcow2)
        else:
            crowd.append(raw)
    return crowd


def data_places(path: Path, run_bytes: int) -> list[int]:
    """Places of whole runs, none of them zero."""
    places = []
    with path.open("rb") as file:
        for place in range(0, path.stat().st_size - run_bytes + 1, run_bytes):
            file.seek(place)
            if any(file.read(run_bytes)):
                places.append(place)
    return places

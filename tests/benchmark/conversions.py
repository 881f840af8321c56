"""One file becomes a file of another format, without a daemon; stored disks leave uncompressed.

The disk is smaller than that of the other groups: there are many formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.benchmark import downloads
from tests.benchmark.disks import Disks
from tests.benchmark.imports import SPEED_FLAGS, qemu
from tests.benchmark.our_daemon import PROGRAMS, OurDaemon, our_environment
from tests.benchmark.report import Row, speed_row
from tests.benchmark.stopwatch import Contender, Times, allocated_bytes, command, measure


@dataclass(frozen=True, slots=True)
class Kind:
    """A format as both programs call it. ``flags``: with which qemu-img writes it."""

    title: str
    name: str
    qemu_name: str
    flags: Sequence[str] = ()


READ = (
    Kind("VHD", "vhd", "vpc"),
    Kind("fixed VHD", "vhd", "vpc", ("-o", "subformat=fixed")),
    Kind("VHDX", "vhdx", "vhdx"),
    Kind("VDI", "vdi", "vdi"),
    Kind("VMDK", "vmdk", "vmdk"),
    Kind("streamOptimized VMDK", "vmdk", "vmdk", ("-o", "subformat=streamOptimized")),
    Kind("QCOW", "qcow", "qcow"),
    Kind("QED", "qed", "qed"),
    Kind("QCOW2", "qcow2", "qcow2"),
)
WRITTEN = (
    Kind("VHD", "vhd", "vpc"),
    Kind("VHDX", "vhdx", "vhdx"),
    Kind("VDI", "vdi", "vdi"),
)


def formats(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    rows: list[Row] = []
    measured: list[Times] = []
    pairs = [*((kind, True) for kind in READ), *((kind, False) for kind in WRITTEN)]
    for kind, is_read in pairs:
        row, times = (_read if is_read else _written)(disks, kind, rounds)
        rows.append(row)
        measured += times
    stored_rows, stored_times = _stored(disks, rounds)
    return rows + stored_rows, measured + stored_times


def _read(disks: Disks, kind: Kind, rounds: int) -> tuple[Row, list[Times]]:
    source, target = disks.scratch / f"in.{kind.name}", disks.scratch / "out.raw"
    command("qemu-img", "convert", "-O", kind.qemu_name, *kind.flags, disks.head, source)
    try:
        mine = _convert(kind, source, target, "raw")
        peer = qemu(f"qemu-img {kind.title} to RAW", source, target, *SPEED_FLAGS, kind="raw")
        _prove(mine, disks.head, target, "raw")
        return _compared(f"{kind.title} file → RAW file", mine, peer, rounds)
    finally:
        source.unlink()


def _written(disks: Disks, kind: Kind, rounds: int) -> tuple[Row, list[Times]]:
    target = disks.scratch / f"out.{kind.name}"
    mine = _convert(kind, disks.head, target, kind.name)
    flags = (*SPEED_FLAGS, *kind.flags)
    peer = qemu(f"qemu-img RAW to {kind.title}", disks.head, target, *flags, kind=kind.qemu_name)
    _prove(mine, disks.head, target, kind.qemu_name)
    return _compared(f"RAW file → {kind.title} file", mine, peer, rounds)


def _stored(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    """A stored disk as the formats that `WRITTEN` has, against qemu-img from a compressed QCOW2."""
    packed = disks.scratch / "packed.qcow2"
    command("qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd", disks.head, packed)
    rows: list[Row] = []
    measured: list[Times] = []
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        daemon.start()
        daemon.imsctl("image", "import", disks.head, "--name", "disk")
        for kind in WRITTEN:
            target = disks.scratch / f"out.{kind.name}"
            mine = downloads.ours(daemon, f"imsd, {kind.title} download", target)
            label = f"qemu-img QCOW2 (zstd) to {kind.title}"
            peer = qemu(label, packed, target, *SPEED_FLAGS, kind=kind.qemu_name)
            _prove(mine, disks.head, target, kind.qemu_name)
            row, times = _compared(f"stored image → {kind.title} file", mine, peer, rounds)
            rows.append(row)
            measured += times
    packed.unlink()
    return rows, measured


def _convert(kind: Kind, source: Path, target: Path, name: str) -> Contender:
    direction = f"{kind.title} to RAW" if name == "raw" else f"RAW to {kind.title}"
    arguments = (PROGRAMS / "imsctl", "image", "convert", source, target, "--to", name)
    return Contender(
        label=f"imsctl, {direction}",
        command=f"imsctl image convert {source.name} {target.name} --to {name}",
        run=lambda: command(*arguments, env=our_environment()),
        after=lambda: target.unlink(missing_ok=True),
        size=lambda: allocated_bytes(target),
    )


def _prove(contender: Contender, disk: Path, target: Path, qemu_name: str) -> None:
    contender.run()
    command("qemu-img", "compare", "-f", "raw", "-F", qemu_name, disk, target)
    contender.after()


def _compared(job: str, mine: Contender, peer: Contender, rounds: int) -> tuple[Row, list[Times]]:
    times = measure([mine, peer], rounds)
    return speed_row(job, times[mine.label], times[peer.label], 1), list(times.values())

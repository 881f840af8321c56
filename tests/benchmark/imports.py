"""A file on disk becomes a stored, deduplicated, digested, compressed image."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from tests.benchmark.disks import Disks
from tests.benchmark.glance_peer import Glance
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.report import Row, absent_row, mebibytes, speed_row
from tests.benchmark.stopwatch import Contender, NotAvailable, Times, command, measure

SPEED_FLAGS = ("-m", "16", "-W")
BEST_FLAGS = ("-c", *SPEED_FLAGS, "-o", "compression_type=zstd")


def ours(daemon: OurDaemon, label: str, disk: Path, *flags: str) -> Contender:
    """An import into an empty store: the daemon starts afresh, untimed, before each."""
    return Contender(
        label=label,
        command=" ".join(("imsctl image import", disk.name, "--name disk", *flags)),
        before=daemon.start,
        run=lambda: daemon.imsctl("image", "import", disk, "--name", "disk", *flags),
        after=daemon.stop,
        size=lambda: int(daemon.image("disk")["stored_size"]),
    )


def qemu(label: str, disk: Path, target: Path, *flags: str, kind: str = "qcow2") -> Contender:
    """``kind``: what ``target`` is to be, as qemu-img calls it."""
    return Contender(
        label=label,
        command=" ".join(("qemu-img convert -O", kind, *flags, disk.name, target.name)),
        run=lambda: command("qemu-img", "convert", "-O", kind, *flags, disk, target),
        after=lambda: target.unlink(missing_ok=True),
        size=lambda: target.stat().st_size,
    )


def glance_upload(glance: Glance, disk: Path) -> Contender:
    return Contender(
        label="Glance upload",
        command=f"curl --upload-file {disk.name} .../v2/images/ID/file",
        before=glance.create,
        run=lambda: glance.upload(disk),
        after=glance.delete,
        size=glance.stored_bytes,
    )


def raw_import(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out.qcow2"
    with ExitStack() as undo:
        daemon = undo.enter_context(closing(OurDaemon(disks.scratch / "daemon")))
        mine = ours(daemon, "imsd, RAW import", disks.first)
        sent = ours(daemon, "imsd, RAW import, bytes sent", disks.first, "--send-bytes")
        plain = qemu("qemu-img -c", disks.first, target, "-c")
        best = qemu("qemu-img -c, zstd, 16 coroutines", disks.first, target, *BEST_FLAGS)
        contenders = [mine, sent, plain, best]
        missing: NotAvailable | None = None
        try:
            glance = undo.enter_context(closing(Glance(disks.scratch / "glance")))
            contenders.append(glance_upload(glance, disks.first))
        except NotAvailable as reason:
            missing = reason
        times = measure(contenders, rounds)
    took, over_socket = times[mine.label], times[sent.label]
    job = "same, its bytes uploaded over the socket"
    sizes = ", ".join(f"{peer.label}: {mebibytes(times[peer.label].size_bytes)}" for peer in (plain, best))
    return [
        speed_row("RAW file → stored image", took, times[plain.label], 12),
        speed_row("same", took, times[best.label], 1.5),
        absent_row(job, "Glance upload", missing, over_socket)
        if missing is not None
        else speed_row(job, over_socket, times["Glance upload"], 8),
        Row("size of it", mebibytes(took.size_bytes), sizes, "", ""),
    ], list(times.values())


def qcow2_import(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    daemon = OurDaemon(disks.scratch / "daemon")
    mine = ours(daemon, "imsd, QCOW2 (zlib) import", disks.zlib)
    peer = qemu(
        "qemu-img QCOW2 (zlib) to zstd, 16 coroutines", disks.zlib, disks.scratch / "out.qcow2", *BEST_FLAGS
    )
    with closing(daemon):
        times = measure([mine, peer], rounds)
    row = speed_row("QCOW2 (zlib) file → stored image", times[mine.label], times[peer.label], 2)
    return [row], list(times.values())

"""A stored image becomes a file again."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from tests.benchmark.disks import Disks
from tests.benchmark.imports import BEST_FLAGS, SPEED_FLAGS, qemu
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.ovirt_peer import OvirtImageio
from tests.benchmark.report import Row, absent_row, speed_row
from tests.benchmark.stopwatch import Contender, NotAvailable, Times, allocated_bytes, command, measure


def ours(daemon: OurDaemon, label: str, target: Path, *flags: str) -> Contender:
    return Contender(
        label=label,
        command=f"imsctl image download disk -o {target.name} {' '.join(flags)}",
        run=lambda: daemon.imsctl("image", "download", "disk", "-o", target, *flags),
        after=lambda: target.unlink(missing_ok=True),
        size=lambda: allocated_bytes(target),
    )


def qcow2_download(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out.qcow2"
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        mine = ours(daemon, "imsd, QCOW2 (zstd) download", target, "--format", "qcow2")
        plain = qemu("qemu-img -c", disks.first, target, "-c")
        best = qemu("qemu-img -c, zstd, 16 coroutines", disks.first, target, *BEST_FLAGS)
        import_and_prove(daemon, disks.first, target, "--format", "qcow2")
        times = measure([mine, plain, best], rounds)
    job = "stored image → compressed QCOW2"
    return [
        speed_row(job, times[mine.label], times[plain.label], 25, size_goal=1.03),
        speed_row("same", times[mine.label], times[best.label], 3, size_goal=1.03),
    ], list(times.values())


def zlib_qcow2(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out.qcow2"
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        fast = ours(daemon, "imsd, QCOW2 (zlib) download", target, "--compress", "zlib")
        small = ours(daemon, "imsd, smaller QCOW2 download", target, "--smaller")
        plain = qemu("qemu-img -c", disks.first, target, "-c")
        best = qemu("qemu-img -c, 16 coroutines", disks.first, target, *SPEED_FLAGS, "-c")
        import_and_prove(daemon, disks.first, target, "--compress", "zlib")
        prove(daemon, disks.first, target, "--smaller")
        times = measure([fast, small, plain, best], rounds)
    took, smaller = times[fast.label], times[small.label]
    return [
        speed_row("stored image → QCOW2 (zlib)", took, times[plain.label], 12, size_goal=1.1),
        speed_row("same", took, times[best.label], 7, size_goal=1.1),
        speed_row("same, `--smaller`", smaller, times[best.label], 3, size_goal=1),
    ], list(times.values())


def vmdk(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out.vmdk"
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        fast = ours(daemon, "imsd, VMDK download", target)
        small = ours(daemon, "imsd, smaller VMDK download", target, "--smaller")
        flags = ("-o", "subformat=streamOptimized")
        peer = qemu("qemu-img streamOptimized", disks.first, target, *flags, kind="vmdk")
        import_and_prove(daemon, disks.first, target)
        prove(daemon, disks.first, target, "--smaller")
        times = measure([fast, small, peer], rounds)
    job = "stored image → streamOptimized VMDK"
    return [
        speed_row(job, times[fast.label], times[peer.label], 12, size_goal=1.1),
        speed_row("same, `--smaller`", times[small.label], times[peer.label], 6, size_goal=1.03),
    ], list(times.values())


def zvhd2(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    """qemu-img cannot read the result, so that we do; the peer copies what we made."""
    target, made, back = (disks.scratch / name for name in ("out.zvhd2", "made.zvhd2", "back.raw"))
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        daemon.start()
        daemon.imsctl("image", "import", disks.first, "--name", "disk")
        daemon.imsctl("image", "download", "disk", "-o", made)
        daemon.imsctl("image", "convert", made, back)
        command("qemu-img", "compare", "-f", "raw", "-F", "raw", disks.first, back)
        back.unlink()
        mine = ours(daemon, "imsd, ZVHD2 download", target)
        copy = Contender(
            label="cp of the file",
            command=f"cp {made.name} {target.name}",
            run=lambda: command("cp", made, target),
            after=lambda: target.unlink(missing_ok=True),
        )
        times = measure([mine, copy], rounds)
        made.unlink()
    row = speed_row("stored image → ZVHD2", times[mine.label], times[copy.label], 0.4)
    return [row], list(times.values())


def qemu_decode(disks: Disks, target: Path) -> Contender:
    return Contender(
        label="qemu-img QCOW2 (zstd) to RAW, 16 coroutines",
        command=f"qemu-img convert -O raw -m 16 -W {disks.zstd.name} out.raw",
        run=lambda: command("qemu-img", "convert", "-O", "raw", "-m", "16", "-W", disks.zstd, target),
        after=lambda: target.unlink(missing_ok=True),
    )


def ovirt_download(ovirt: OvirtImageio, target: Path) -> Contender:
    return Contender(
        label="ovirt-imageio download",
        command="ovirt_imageio.client.download(url, 'out.raw', fmt='raw')",
        run=lambda: ovirt.download(target),
        after=lambda: target.unlink(missing_ok=True),
    )


def raw_download(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out.raw"
    with ExitStack() as undo:
        daemon = undo.enter_context(closing(OurDaemon(disks.scratch / "daemon")))
        mine = ours(daemon, "imsd, RAW download", target, "--format", "raw")
        decode = qemu_decode(disks, target)
        contenders = [mine, decode]
        missing: NotAvailable | None = None
        try:
            ovirt = undo.enter_context(closing(OvirtImageio(disks.scratch / "ovirt", disks.first)))
            contenders.append(ovirt_download(ovirt, target))
        except NotAvailable as reason:
            missing = reason
        import_and_prove(daemon, disks.first, target, "--format", "raw")
        times = measure(contenders, rounds)
    took = times[mine.label]
    job = "stored image → RAW file"
    return [
        absent_row(job, "ovirt-imageio download", missing)
        if missing is not None
        else speed_row(job, took, times["ovirt-imageio download"], 1.5),
        speed_row("same", took, times[decode.label], 1),
    ], list(times.values())


def import_and_prove(daemon: OurDaemon, disk: Path, target: Path, *flags: str) -> None:
    """A fast wrong download is worth nothing: compare one before anything is timed."""
    daemon.start()
    daemon.imsctl("image", "import", disk, "--name", "disk")
    prove(daemon, disk, target, *flags)


def prove(daemon: OurDaemon, disk: Path, target: Path, *flags: str) -> None:
    """Download once and compare."""
    daemon.imsctl("image", "download", "disk", "-o", target, *flags)
    command("qemu-img", "compare", "-f", "raw", "-F", target.suffix[1:], disk, target)
    target.unlink()

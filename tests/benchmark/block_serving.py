"""A stored image is used as a disk where it lies: read in order, and from nothing to the first byte."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ims_client import connect

from tests.benchmark.disks import Disks, data_places
from tests.benchmark.our_daemon import PROGRAMS, OurDaemon
from tests.benchmark.report import Row, speed_row
from tests.benchmark.stopwatch import Contender, Times, command, measure
from tests.unit.nbd.raw_client import reading

START_PATIENCE_SECONDS = 30.0
BLOCK_BYTES = 4096


class ServingDaemon(OurDaemon):
    """A daemon whose block server has sockets in a folder with a short path."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run_dir = Path(tempfile.mkdtemp(prefix="imsd-nbd."))

    def environment(self) -> dict[str, str]:
        return super().environment() | {"IMSD_BLOCK_SERVER__RUN_DIR": str(self.run_dir)}

    def attach(self, image: str) -> str:
        """The URI of the disk."""
        shown = subprocess.run(
            [PROGRAMS / "imsctl", "image", "attach", image, "-o", "json"],
            env=self.environment(),
            capture_output=True,
            check=True,
        )
        uri: str = json.loads(shown.stdout)["uri"]
        return uri

    def detach_all(self) -> None:
        """So that the next one who attaches the image is the first."""
        shown = subprocess.run(
            [PROGRAMS / "imsctl", "attachment", "list", "-o", "json"],
            env=self.environment(),
            capture_output=True,
            check=True,
        )
        if ids := [attachment["id"] for attachment in json.loads(shown.stdout)]:
            self.imsctl("image", "detach", "--force", *ids)

    def ask(self, op: str) -> dict[str, Any]:
        """The answer of the block server."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.run_dir / "control.sock"))
            link.sendall(json.dumps({"op": op}).encode() + b"\n")
            with link.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def close(self) -> None:
        with suppress(OSError):
            os.kill(self.ask("hello")["pid"], signal.SIGTERM)
        super().close()
        shutil.rmtree(self.run_dir, ignore_errors=True)


@contextmanager
def qemu_nbd(image: Path) -> Iterator[str]:
    """The URI of a QCOW2 file that qemu-nbd serves."""
    with tempfile.TemporaryDirectory(prefix="qemu-nbd.") as folder:
        path = Path(folder) / "socket"
        options = ("--read-only", "--persistent", "--shared=16", f"--socket={path}", "--format=qcow2")
        process = subprocess.Popen(["qemu-nbd", *options, str(image)])
        try:
            deadline = time.monotonic() + START_PATIENCE_SECONDS
            while not path.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("qemu-nbd did not start")
                time.sleep(0.02)
            yield f"nbd+unix:///?socket={path}"
        finally:
            process.terminate()
            process.wait()


def readers(whose: str, uri: str, target: Path) -> list[Contender]:
    """Two programs that read a disk in order: into nothing, and into a file."""
    served = f"disk of {whose}"
    return [
        Contender(
            label=f"{whose}, nbdcopy",
            command=f"nbdcopy {served} null:",
            run=lambda: command("nbdcopy", uri, "null:"),
        ),
        Contender(
            label=f"{whose}, qemu-img convert",
            command=f"qemu-img convert -f raw -O raw {served} out.raw",
            run=lambda: command("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, target),
            after=lambda: target.unlink(missing_ok=True),
        ),
    ]


async def _read_a_block(address: str, image_id: str, place: int) -> None:
    """From an image that is stored to a block of it: attached, connected, read."""
    async with connect(address) as client:
        attachment = await client.attachments.attach(image_id)
        async with reading(attachment.socket) as disk:
            assert len(await disk.read(place, BLOCK_BYTES)) == BLOCK_BYTES


def first_byte(daemon: ServingDaemon, disk: Path) -> Contender:
    """Each time of an image that is not attached, at another place that holds data."""
    chance, places = random.Random(1), data_places(disk, BLOCK_BYTES)
    image_id: str = daemon.image("disk")["id"]

    def read() -> None:
        asyncio.run(_read_a_block(daemon.address, image_id, chance.choice(places)))

    return Contender(
        label="imsd, attached and a block read",
        command="AttachImage, connect, read 4 KiB of data at a random place, by ims_client and an NBD client",
        before=daemon.detach_all,
        run=read,
    )


def full_copy(daemon: ServingDaemon, target: Path) -> Contender:
    return Contender(
        label="imsd, RAW download",
        command=f"imsctl image download disk -o {target.name} --format raw",
        run=lambda: daemon.imsctl("image", "download", "disk", "-o", target, "--format", "raw"),
        after=lambda: target.unlink(missing_ok=True),
    )


def served_disk(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out.raw"
    zstd = disks.zstd
    with closing(ServingDaemon(disks.scratch / "daemon")) as daemon, qemu_nbd(zstd) as peer:
        daemon.start()
        daemon.imsctl("image", "import", disks.first, "--name", "disk")
        daemon.attach("disk")  # its block server runs
        block, copy = first_byte(daemon, disks.first), full_copy(daemon, target)
        times = measure([block, copy], rounds)
        uri = daemon.attach("disk")
        command("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, disks.first)
        mine, theirs = readers("imsd", uri, target), readers("qemu-nbd", peer, target)
        times |= measure([*mine, *theirs], rounds)
    return [
        speed_row("stored image read over NBD, `nbdcopy`", times[mine[0].label], times[theirs[0].label], 1),
        speed_row("same, `qemu-img convert` to RAW", times[mine[1].label], times[theirs[1].label], 1),
        speed_row("stored image → a block of it is read", times[block.label], times[copy.label], 100),
    ], list(times.values())

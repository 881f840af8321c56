"""What a look inside a stored image costs: the time of one call, and how much of the disk it reads."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from contextlib import closing
from pathlib import Path

import grpc

from imsd.guest.budget import Budget, PagedVolume
from imsd.guest.inspect import inspect
from imsd.v1 import image_pb2, image_pb2_grpc
from tests.benchmark.disks import Disks
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.report import Row, mebibytes
from tests.benchmark.stopwatch import Times, wait_until_idle

INSPECTION_RUNS = 40


def stored_image(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    """InspectImage of a Debian disk in the store, as a program sees it; the first call counts too."""
    del rounds
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        daemon.start()
        daemon.imsctl("image", "import", disks.first, "--name", "disk")
        wait_until_idle()
        took = asyncio.run(_inspections(daemon.address, str(daemon.image("disk")["id"])))
    milliseconds = [1000 * one for one in took]
    median = statistics.median(milliseconds)
    volume = _read_by_inspection(disks.first)
    spread = f"{median:.0f} ms ({min(milliseconds):.0f}–{max(milliseconds):.0f}, {INSPECTION_RUNS} runs)"
    reads = f"{mebibytes(volume.read_bytes)} read in {volume.reads} pieces"
    print(f"  inspection: {spread}, {reads}", flush=True)
    return [Row("inspection of a stored image", f"{spread}, {reads}", "", "", "≤ 100 ms, ≤ 64 MiB")], []


async def _inspections(address: str, image_id: str) -> list[float]:
    request = image_pb2.InspectImageRequest(image_id=image_id)
    took = []
    async with grpc.aio.insecure_channel(address) as channel:
        images = image_pb2_grpc.ImageServiceStub(channel)
        for _ in range(INSPECTION_RUNS):
            start = time.perf_counter()
            report = await images.InspectImage(request)
            took.append(time.perf_counter() - start)
            if not report.is_verified:
                raise RuntimeError(f"nothing was found on the disk: {report}")
    return took


def _read_by_inspection(disk: Path) -> PagedVolume:
    """The disk after an inspection: it asks for the same pieces wherever they come from."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        volume = PagedVolume(size, lambda offset, length: os.pread(fd, length, offset), Budget())
        inspect(volume)
        return volume
    finally:
        os.close(fd)

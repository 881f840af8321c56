"""What imsd needs at its limits: peak memory of the daemon, and the time of the smallest import."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc

from imsd.v1 import image_pb2, image_pb2_grpc, job_pb2, job_pb2_grpc, upload_pb2, upload_pb2_grpc
from tests.benchmark.disks import CROWD, SMALL_SIZE, Disks, make_crowd, make_sparse
from tests.benchmark.our_daemon import PROGRAMS, OurDaemon
from tests.benchmark.report import Row, mebibytes
from tests.benchmark.stopwatch import Times, wait_until_idle

MEMORY_GOAL = "≤ 256 MiB"
LATENCY_RUNS = 40


def memory(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    """The peak of a fresh daemon for each kind of work."""
    del rounds  # a peak is a peak
    rows = [
        _peak(disks, "RAW import", lambda daemon: _import(daemon, disks.first)),
        _peak(disks, "QCOW2 (zlib) import", lambda daemon: _import(daemon, disks.zlib)),
        _peak(disks, "QCOW2 (zstd) download", lambda daemon: _download(daemon, disks, "qcow2")),
        _peak(disks, "RAW download", lambda daemon: _download(daemon, disks, "raw")),
        _peak(
            disks,
            "QCOW2 (zlib) download",
            lambda daemon: _download(daemon, disks, "qcow2", "--compress", "zlib"),
        ),
        _peak(disks, "VMDK download", lambda daemon: _download(daemon, disks, "vmdk")),
        _peak(disks, "verify", lambda daemon: _verify(daemon, disks)),
        _peak(disks, "import of a 120 GiB sparse RAW", lambda daemon: _import_sparse(daemon, disks)),
        _peak(disks, f"{CROWD} imports at once", lambda daemon: _import_crowd(daemon, disks)),
        _peak(
            disks,
            f"{CROWD} imports at once, sent as bytes, twice",
            lambda daemon: _import_crowd(daemon, disks, "--send-bytes", times=2),
        ),
    ]
    return rows, []


def _peak(disks: Disks, job: str, work: Callable[[OurDaemon], None]) -> Row:
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        daemon.start()
        idle = daemon.peak_memory_bytes()
        start = time.perf_counter()
        work(daemon)
        took = time.perf_counter() - start
        peak = daemon.peak_memory_bytes()
    print(f"  {job:<44} {mebibytes(peak):>14} {took:8.1f} s", flush=True)
    note = f"idle: {mebibytes(idle)}; took {took:.1f} s"
    return Row(f"peak memory of the daemon: {job}", mebibytes(peak), note, "", MEMORY_GOAL)


def _import(daemon: OurDaemon, disk: Path) -> None:
    daemon.imsctl("image", "import", disk, "--name", "disk")


def _download(daemon: OurDaemon, disks: Disks, format_name: str, *options: str) -> None:
    _import(daemon, disks.first)
    target = disks.scratch / f"out.{format_name}"
    daemon.imsctl("image", "download", "disk", "-o", target, "--format", format_name, *options)
    target.unlink()


def _verify(daemon: OurDaemon, disks: Disks) -> None:
    _import(daemon, disks.first)
    daemon.imsctl("image", "verify", "disk")


def _import_sparse(daemon: OurDaemon, disks: Disks) -> None:
    sparse = make_sparse(disks)
    try:
        _import(daemon, sparse)
    finally:
        sparse.unlink()


def _import_crowd(daemon: OurDaemon, disks: Disks, *options: str, times: int = 1) -> None:
    crowd = make_crowd(disks)
    try:
        for _ in range(times):
            _import_at_once(daemon, crowd, *options)
    finally:
        for disk in crowd:
            disk.unlink()


def _import_at_once(daemon: OurDaemon, crowd: list[Path], *options: str) -> None:
    program: list[str | Path] = [PROGRAMS / "imsctl", "--no-progress", "image", "import", *options]
    running = [
        subprocess.Popen(
            [*program, disk, "--name", disk.stem],
            env=daemon.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for disk in crowd
    ]
    failed = sum(process.wait(600) != 0 for process in running)
    if failed:
        raise RuntimeError(f"{failed} of {len(crowd)} imports at once failed")


def latency(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    """From the first request of an upload of 1 MiB to its image being active, as a program sees it."""
    del rounds
    with closing(OurDaemon(disks.scratch / "daemon")) as daemon:
        daemon.start()
        wait_until_idle()
        took = asyncio.run(_small_imports(daemon.address))
    milliseconds = [1000 * one for one in took]
    median = statistics.median(milliseconds)
    print(f"  1 MiB image: {median:.0f} ms", flush=True)
    spread = f"{median:.0f} ms ({min(milliseconds):.0f}–{max(milliseconds):.0f}, {LATENCY_RUNS} runs)"
    return [Row("import of a 1 MiB image, request to active", spread, "", "", "≤ 150 ms")], []


async def _small_imports(address: str) -> list[float]:
    async with grpc.aio.insecure_channel(address) as channel:
        return [await _small_import(channel, number) for number in range(LATENCY_RUNS)]


async def _small_import(channel: grpc.aio.Channel, number: int) -> float:
    content = os.urandom(SMALL_SIZE)
    uploads = upload_pb2_grpc.UploadServiceStub(channel)
    start = time.perf_counter()
    upload = await uploads.CreateUpload(
        upload_pb2.CreateUploadRequest(size_bytes=SMALL_SIZE, disk_format=image_pb2.DISK_FORMAT_RAW)
    )
    write = uploads.WriteUpload()
    header = upload_pb2.WriteUploadRequest.Header(upload_id=upload.id, offset=0)
    await write.write(upload_pb2.WriteUploadRequest(header=header))
    await write.write(upload_pb2.WriteUploadRequest(data=content))
    await write.write(upload_pb2.WriteUploadRequest(flush=upload_pb2.WriteUploadRequest.Flush()))
    while (answer := await write.read()) is not grpc.aio.EOF:
        if answer.committed_offset == SMALL_SIZE:
            break
    await write.done_writing()
    await uploads.CommitUpload(upload_pb2.CommitUploadRequest(upload_id=upload.id, size_bytes=SMALL_SIZE))
    job = await image_pb2_grpc.ImageServiceStub(channel).CreateImage(
        image_pb2.CreateImageRequest(name=f"small-{number}", upload_id=upload.id)
    )
    watch = job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(job_id=job.id))
    async for job in watch:
        last = job
    took = time.perf_counter() - start
    if last.state != job_pb2.JOB_STATE_SUCCESS:
        raise RuntimeError(f"the import ended as {last}")
    return took

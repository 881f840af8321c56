"""The daemon dies, is told to stop, or is told to forget it: nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from imsd.v1 import job_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, random_disk

SIZE = 192 * MIB
StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture(scope="module")
def disk() -> bytes:
    return random_disk(SIZE)


@pytest.fixture(scope="module")
def qcow2(disk: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return as_qcow2(tmp_path_factory.mktemp("qcow2"), disk)


async def running(stubs: Stubs, job: job_pb2.Job, bytes_done: int) -> job_pb2.Job:
    """Watch until the job stores and has done at least ``bytes_done``."""
    now: job_pb2.Job
    async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
        if now.progress.phase == "store" and now.progress.bytes_done >= bytes_done:
            return now
        assert now.state not in wire.FINAL, now
    raise AssertionError("the watch ended early")


async def test_a_job_goes_on_after_a_kill_and_stores_no_chunk_twice(
    start_daemon: StartDaemon, disk: bytes, qcow2: bytes
) -> None:
    daemon = start_daemon()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        job = await wire.start_image(stubs, await wire.send(stubs, qcow2))
        await running(stubs, job, 96 * MIB)
    daemon.kill()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        done = await wire.ended(stubs, job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        assert done.attempt == 2
        assert await wire.download(stubs, done.image_ids[0]) == disk
        await wire.becomes_empty(daemon, "staging/")
        packed = sum(daemon.blobs("packs/").values())
        assert packed <= SIZE * 1.01, "chunks were stored twice"


async def test_a_kill_in_the_middle_of_an_upload_costs_one_part_at_most(
    start_daemon: StartDaemon, disk: bytes
) -> None:
    part = 16 * MIB
    daemon = start_daemon(upload_part_bytes=part)
    sent = asyncio.Event()

    async def requests(upload: upload_pb2.Upload) -> AsyncIterator[wire.Step]:
        yield wire.header(upload)
        for step in wire.steps_of(disk)[:100]:
            yield step
        sent.set()
        await asyncio.sleep(60)

    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs, size_bytes=SIZE)
        call = stubs.uploads.WriteUpload(requests(upload))
        received = 0
        async for answer in call:
            received = max(received, answer.received_offset)
            if received >= 80 * MIB:
                break
        daemon.kill()
        call.cancel()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        now = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
        assert received - part <= now.committed_offset
        await wire.write(stubs, [wire.header(now), *wire.steps_of(disk, now.committed_offset)])
        await stubs.uploads.CommitUpload(upload_pb2.CommitUploadRequest(upload_id=upload.id, size_bytes=SIZE))
        job = await wire.ended(stubs, await wire.start_image(stubs, upload))
        assert await wire.download(stubs, job.image_ids[0]) == disk


async def test_a_cancelled_job_leaves_nothing(start_daemon: StartDaemon, qcow2: bytes) -> None:
    daemon = start_daemon()
    thread_counts = []
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        for _ in range(5):
            job = await wire.start_image(stubs, await wire.send(stubs, qcow2))
            await running(stubs, job, 64 * MIB)
            await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
            assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_CANCELLED
            assert (daemon.blobs(), daemon.rows()) == ({}, {})
            thread_counts.append(daemon.thread_count())
    # Pools start their threads as they need them; one that stays of each job would be four more.
    assert thread_counts[-1] < thread_counts[0] + 4, "threads of cancelled jobs stay"


# From before the clean-up begins until after it has ended.
@pytest.mark.parametrize("seconds", [0, 0.01, 0.03, 0.1, 0.3])
async def test_a_crash_during_the_clean_up_changes_nothing_of_it(
    start_daemon: StartDaemon, qcow2: bytes, seconds: float
) -> None:
    daemon = start_daemon()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        job = await wire.start_image(stubs, await wire.send(stubs, qcow2))
        await running(stubs, job, 64 * MIB)
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
        await asyncio.sleep(seconds)
        daemon.kill()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_CANCELLED
        await wire.becomes_empty(daemon)
        assert daemon.rows() == {}


async def test_sigterm_leaves_a_running_job_resumable(
    start_daemon: StartDaemon, disk: bytes, qcow2: bytes
) -> None:
    daemon = start_daemon(drain_seconds=0)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        job = await wire.start_image(stubs, await wire.send(stubs, qcow2))
        await running(stubs, job, 32 * MIB)
        assert await asyncio.to_thread(daemon.stop) == 0
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        done = await wire.ended(Stubs(channel), job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done


async def test_sigterm_lets_a_running_job_finish_within_the_drain_time(
    start_daemon: StartDaemon, qcow2: bytes
) -> None:
    daemon = start_daemon(drain_seconds=60)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        job = await wire.start_image(stubs, await wire.send(stubs, qcow2))
        await running(stubs, job, MIB)
        assert await asyncio.to_thread(daemon.stop) == 0
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        now = await Stubs(channel).jobs.GetJob(job_pb2.GetJobRequest(job_id=job.id))
        assert now.state == job_pb2.JOB_STATE_SUCCESS
        assert now.attempt == 1


async def test_jobs_beyond_the_limit_wait_visibly(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(max_running_create_jobs=1)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        uploads = [
            await wire.send(stubs, as_qcow2(tmp_path, random_disk(48 * MIB, seed))) for seed in range(3)
        ]
        jobs = [await wire.start_image(stubs, upload) for upload in uploads]
        last = await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=jobs[2].id))
        assert last.state == job_pb2.JOB_STATE_INIT
        assert last.progress.phase == "queued"
        assert last.progress.queue_position == 2
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=jobs[1].id))
        assert (await wire.ended(stubs, jobs[1])).state == job_pb2.JOB_STATE_CANCELLED
        for job in (jobs[0], jobs[2]):
            assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_SUCCESS


async def test_a_lost_database_costs_no_byte_of_the_store(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(sweep_interval_seconds=0.5)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        await wire.import_disk(Stubs(channel), random_disk(2 * MIB))
    assert daemon.stop() == 0
    kept = daemon.blobs()
    for file in daemon.state_dir.glob("imsd.sqlite3*"):
        file.unlink()
    daemon.restart()
    await asyncio.sleep(2)
    assert daemon.blobs() == kept
    assert "images of another database" in daemon.log.read_text()


async def test_blobs_without_a_row_are_swept(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(sweep_interval_seconds=0.5)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        await wire.import_disk(Stubs(channel), random_disk(MIB))
    await wire.becomes_empty(daemon, "staging")  # what the upload left is removed after the job
    kept = daemon.blobs()
    orphan = "0123456789abcdef" * 2
    for blob in (f"packs/01/{orphan}", f"manifests/{orphan}/content", f"staging/{uuid.uuid4()}/00000000"):
        path = daemon.store / blob
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left behind")
    async with asyncio.timeout(20):
        while daemon.blobs() != kept:
            await asyncio.sleep(0.1)
    assert daemon.blobs() == kept

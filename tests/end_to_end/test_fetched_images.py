"""Images of URLs and of files of the daemon's machine, with a real daemon and a real https server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from imsd.v1 import image_pb2, job_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, as_qcow2, patterned_disk, random_disk
from tests.web_server import Reply, Seen, WebFile, WebServer

StartDaemon = Callable[..., DaemonProcess]
SIZE = 48 * MIB


@asynccontextmanager
async def connected(daemon: DaemonProcess) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield Stubs(channel)


async def create(stubs: Stubs, **fields: Any) -> job_pb2.Job:
    job: job_pb2.Job = await stubs.images.CreateImage(
        image_pb2.CreateImageRequest(**({"name": "disk"} | fields))
    )
    return job


async def refusal(stubs: Stubs, **fields: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await create(stubs, **fields)
    return wire.reason_of(refused.value)


async def fetched(stubs: Stubs, job: job_pb2.Job, bytes_done: int) -> job_pb2.Job:
    """Watch until so much has come."""
    now: job_pb2.Job
    async for now in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.id)):
        assert now.state not in wire.FINAL, now
        if now.progress.phase == "fetch" and now.progress.bytes_done >= bytes_done:
            return now
    raise AssertionError("the watch ended early")


def slowly(page: WebFile, pause_seconds: float = 0.02) -> Callable[[Seen], Reply]:
    return lambda seen: replace(page(seen), pause_seconds=pause_seconds)


@pytest.mark.parametrize("is_qcow2", [False, True])
@pytest.mark.parametrize("has_ranges", [True, False])
async def test_an_image_of_a_url(
    start_with_web: StartDaemon, web: WebServer, tmp_path: Path, is_qcow2: bool, has_ranges: bool
) -> None:
    disk = patterned_disk(SIZE)
    file = as_qcow2(tmp_path, disk) if is_qcow2 else disk
    url = web.redirect("/latest", web.offer("/disk.img", WebFile(file, has_ranges=has_ranges)))
    daemon = start_with_web()
    async with connected(daemon) as stubs:
        job = await create(stubs, url=url, expected_sha256=hashlib.sha256(file).hexdigest())
        upload = (await wire.uploads_of(stubs))[0]
        assert (upload.file_name, list(job.upload_ids)) == ("latest", [upload.id])
        done = await wire.ended(stubs, job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        image = (await wire.images_of(stubs))[0]
        assert image.disk_format == (image_pb2.DISK_FORMAT_QCOW2 if is_qcow2 else image_pb2.DISK_FORMAT_RAW)
        assert await wire.download(stubs, done.image_ids[0]) == disk
        assert not await wire.uploads_of(stubs)
        await wire.becomes_empty(daemon, "staging/")


@pytest.mark.parametrize(
    ("is_qcow2", "has_ranges", "is_chunked"),
    [(False, True, False), (True, True, False), (False, False, True), (True, False, False)],
)
async def test_a_fetch_goes_on_after_a_kill_where_it_was(
    start_with_web: StartDaemon,
    web: WebServer,
    tmp_path: Path,
    is_qcow2: bool,
    has_ranges: bool,
    is_chunked: bool,
) -> None:
    disk = random_disk(SIZE)
    file = as_qcow2(tmp_path, disk) if is_qcow2 else disk
    page = WebFile(file, has_ranges=has_ranges, is_chunked=is_chunked)
    url = web.offer("/disk", slowly(page, 0.02 if has_ranges else 0.005))
    daemon = start_with_web(upload_part_bytes=4 * MIB)
    async with connected(daemon) as stubs:
        job = await create(stubs, url=url)
        await fetched(stubs, job, 24 * MIB)
    daemon.kill()
    seen_before = len(web.seen)
    committed = daemon.value("SELECT committed_offset FROM upload")
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        assert done.attempt == 2
        assert await wire.download(stubs, done.image_ids[0]) == disk
    assert committed >= 16 * MIB
    assert web.seen[seen_before].first == committed
    assert all((seen.first or 0) >= committed for seen in web.seen[seen_before:])


async def test_a_file_that_changed_while_the_daemon_was_down_is_not_put_together(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    page = WebFile(random_disk(SIZE))
    url = web.offer("/disk", slowly(page))
    daemon = start_with_web(upload_part_bytes=4 * MIB)
    async with connected(daemon) as stubs:
        job = await create(stubs, url=url)
        await fetched(stubs, job, 24 * MIB)
    daemon.kill()
    page.etag = '"two"'
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
    assert (done.state, done.error.reason) == (job_pb2.JOB_STATE_FAIL, "URL_CHANGED")
    assert done.progress.phase == "fetch"
    await wire.leaves_nothing(daemon)


@pytest.mark.parametrize("start_of_file", [b"", b"QFI\xfb\x00\x00\x00\x03"])
async def test_a_cancelled_fetch_leaves_nothing(
    start_with_web: StartDaemon, web: WebServer, start_of_file: bytes
) -> None:
    content = start_of_file + random_disk(SIZE)
    daemon = start_with_web(upload_part_bytes=4 * MIB)
    async with connected(daemon) as stubs:
        job = await create(stubs, url=web.offer("/disk", slowly(WebFile(content))))
        await fetched(stubs, job, 12 * MIB)
        assert daemon.blobs()
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.id))
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_CANCELLED
        assert (daemon.blobs(), daemon.rows()) == ({}, {})


async def test_a_fetch_that_fails_leaves_nothing(start_with_web: StartDaemon, web: WebServer) -> None:
    daemon = start_with_web(url_import__retry_seconds=0.5)
    page = WebFile(random_disk(SIZE), has_ranges=False)
    web.offer("/cut", lambda seen: replace(page(seen), cut_after=20 * MIB))
    web.offer("/picture", WebFile(b"COWD\x01\x00\x00\x00" + bytes(MIB)))
    expected = {"/missing": "URL_UNREACHABLE", "/cut": "URL_UNREACHABLE", "/picture": "FORMAT_UNSUPPORTED"}
    async with connected(daemon) as stubs:
        for path, reason in expected.items():
            done = await wire.ended(stubs, await create(stubs, url=f"{web.root}{path}"))
            assert (done.state, done.error.reason) == (job_pb2.JOB_STATE_FAIL, reason), done
            assert done.error.hint
    await wire.leaves_nothing(daemon)


async def test_bytes_that_are_not_the_expected_ones_are_no_image(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    url = web.offer("/disk", WebFile(random_disk(2 * MIB)))
    daemon = start_with_web()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, await create(stubs, url=url, expected_sha256="0" * 64))
        assert done.error.reason == "DIGEST_MISMATCH"
        assert await refusal(stubs, url=url, expected_sha256="0" * 63) == "INVALID_REQUEST"
    await wire.leaves_nothing(daemon)


async def test_a_file_above_the_limits_is_refused_at_its_first_answer(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    url = web.offer("/disk", WebFile(random_disk(2 * MIB)))
    endless = WebFile(random_disk(2 * MIB), has_ranges=False, is_chunked=True)
    daemon = start_with_web(max_upload_size_bytes=MIB)
    async with connected(daemon) as stubs:
        for each in (url, web.offer("/endless", endless)):
            done = await wire.ended(stubs, await create(stubs, url=each))
            assert done.error.reason == "LIMIT_EXCEEDED"
    await wire.leaves_nothing(daemon)


async def test_what_may_not_be_fetched_is_refused_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    async with connected(daemon) as stubs:
        for url in ("", "http://example.org/", "https://127.0.0.1/", "https://[::1]/", "file:///etc/passwd"):
            assert await refusal(stubs, url=url) == "URL_REFUSED"
        done = await wire.ended(stubs, await create(stubs, url="https://localhost/"))
        assert done.error.reason == "URL_REFUSED"
        assert await refusal(stubs, local_path="/etc/passwd") == "FAILED_PRECONDITION"
        assert await refusal(stubs) == "INVALID_REQUEST"
        assert await refusal(stubs, upload_id=done.id, expected_sha256="0" * 64) == "INVALID_REQUEST"
    await wire.leaves_nothing(daemon)


async def test_the_upload_of_a_job_is_its_own(start_with_web: StartDaemon, web: WebServer) -> None:
    url = web.offer("/disk", slowly(WebFile(random_disk(SIZE))))
    daemon = start_with_web()
    async with connected(daemon) as stubs:
        job = await create(stubs, url=url)
        await fetched(stubs, job, 2 * MIB)
        upload = (await wire.uploads_of(stubs))[0]
        calls: list[Callable[[], Any]] = [
            lambda: wire.write(stubs, [wire.header(upload), *wire.steps_of(b"x")]),
            lambda: wire.commit(stubs, upload, SIZE),
            lambda: stubs.uploads.DeleteUpload(upload_pb2.DeleteUploadRequest(upload_id=upload.id)),
            lambda: wire.start_image(stubs, upload),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call()
            assert wire.reason_of(refused.value) == "FAILED_PRECONDITION"
        assert (await wire.ended(stubs, job)).state == job_pb2.JOB_STATE_SUCCESS


async def test_a_repeated_request_starts_one_job(start_with_web: StartDaemon, web: WebServer) -> None:
    url = web.offer("/disk", WebFile(random_disk(MIB)))
    async with connected(start_with_web()) as stubs:
        first = await create(stubs, url=url, request_id="one")
        await wire.ended(stubs, first)
        assert (await create(stubs, url=url, request_id="one")).id == first.id
        assert await refusal(stubs, url=f"{url}?", request_id="one") == "REQUEST_ID_REUSED"
        assert len(await wire.images_of(stubs)) == 1


@pytest.mark.parametrize("is_qcow2", [False, True])
async def test_an_image_of_a_file_of_the_daemons_machine(
    start_daemon: StartDaemon, tmp_path: Path, is_qcow2: bool
) -> None:
    disk = patterned_disk(SIZE)
    root = tmp_path / "images"
    (root / "deep").mkdir(parents=True)
    file = root / "deep" / "disk.img"
    file.write_bytes(as_qcow2(tmp_path, disk) if is_qcow2 else disk)
    daemon = start_daemon(import_roots=root)
    async with connected(daemon) as stubs:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        done = await wire.ended(stubs, await create(stubs, local_path=str(file), expected_sha256=sha256))
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        assert await wire.download(stubs, done.image_ids[0]) == disk
        assert await refusal(stubs, local_path=str(tmp_path / "disk.raw")) == "PERMISSION_DENIED"
        (root / "link").symlink_to(file)
        for name, reason in (
            ("missing", "NOT_FOUND"),
            ("link", "INVALID_REQUEST"),
            ("deep", "INVALID_REQUEST"),
        ):
            failed = await wire.ended(stubs, await create(stubs, local_path=f"{root}/{name}"))
            assert failed.error.reason == reason, failed
        await wire.becomes_empty(daemon, "staging/")
        assert not await wire.uploads_of(stubs)


async def test_a_directory_is_for_the_projects_it_was_given_to(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(patterned_disk(SIZE))
    daemon = start_daemon(
        import_roots=tmp_path, import_root_projects=json.dumps({str(tmp_path): ["lab", "web"]})
    )
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, await create(stubs, local_path=str(file), project_id="lab"))
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        for project_id in ("default", "green"):
            refused = await refusal(stubs, local_path=str(file), project_id=project_id)
            assert refused == "PERMISSION_DENIED"


async def test_a_sparse_file_that_is_changed_after_a_kill_is_not_put_together(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(random_disk(192 * MIB))
    os.truncate(file, 2 << 30)
    daemon = start_daemon(import_roots=tmp_path, upload_part_bytes=4 * MIB)
    async with connected(daemon) as stubs:
        job = await create(stubs, local_path=str(file))
        await fetched(stubs, job, 32 * MIB)
    daemon.kill()
    os.utime(file, (1, 1))
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
    assert (done.state, done.error.reason) == (job_pb2.JOB_STATE_FAIL, "FAILED_PRECONDITION"), done
    await wire.leaves_nothing(daemon)


async def test_a_job_that_waits_for_its_server_stops_with_the_daemon_and_goes_on(
    start_with_web: StartDaemon, web: WebServer
) -> None:
    disk = random_disk(8 * MIB)
    url = web.offer("/disk", WebFile(disk))
    web.faults.append(lambda reply: replace(reply, stall_after=100))
    daemon = start_with_web(drain_seconds=0)
    async with connected(daemon) as stubs:
        job = await create(stubs, url=url)
        async with asyncio.timeout(20):
            while not web.seen:
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(daemon.stop) == 0
    daemon.restart()
    async with connected(daemon) as stubs:
        done = await wire.ended(stubs, job)
        assert done.state == job_pb2.JOB_STATE_SUCCESS, done
        assert await wire.download(stubs, done.image_ids[0]) == disk

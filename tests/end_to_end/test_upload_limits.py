"""What a writer may take: quota before the first byte, parts, flushes; and two writers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from imsd.chunks.tree_digest import TreeHasher
from imsd.v1 import image_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk
from tests.end_to_end.wire import Step

QCOW2_START = b"QFI\xfb\x00\x00\x00\x03"
FLUSH = Step(flush=Step.Flush())


def qcow2_like(size: int, seed: int = 1) -> bytes:
    return QCOW2_START + random_disk(size - len(QCOW2_START), seed)


async def test_a_refused_part_leaves_no_byte_in_staging(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon(staging_quota_bytes=MIB, upload_part_bytes=MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        first = await wire.open_upload(stubs, size_bytes=MIB)
        await wire.write(stubs, [wire.header(first), Step(data=qcow2_like(MIB)), FLUSH])
        kept = daemon.blobs("staging/")
        for _ in range(3):
            other = await wire.open_upload(stubs, size_bytes=4 * MIB)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await wire.write(stubs, [wire.header(other), Step(data=qcow2_like(MIB))])
            assert wire.reason_of(refused.value) == "QUOTA_EXCEEDED"
        assert daemon.blobs("staging/") == kept


async def test_what_a_gone_writer_reserved_is_free_again(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon(staging_quota_bytes=2 * MIB, upload_part_bytes=2 * MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs)
        content = qcow2_like(MIB)
        for _ in range(3):  # each reserves the whole quota and goes away without a flush
            await wire.write(stubs, [wire.header(upload), Step(data=content)])
        await wire.write(stubs, [wire.header(upload), Step(data=content), FLUSH])
        now = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
        assert now.committed_offset == MIB
        assert now.staged_bytes == MIB


async def test_cve_2015_5286_uploads_deleted_while_they_are_written_give_all_back(
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = start_daemon(staging_quota_bytes=3 * MIB, upload_part_bytes=MIB)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        for seed in range(4):  # no two of them fit the quota; each goes on behind its deletion
            upload = await wire.open_upload(stubs)
            is_full = asyncio.Event()
            writing = asyncio.create_task(_write_until_refused(stubs, upload, seed, is_full))
            await is_full.wait()
            await stubs.uploads.DeleteUpload(upload_pb2.DeleteUploadRequest(upload_id=upload.id))
            assert await writing in ("NOT_FOUND", "UPLOAD_TAKEN_OVER")
        assert not await wire.uploads_of(stubs)
        await wire.becomes_empty(daemon)


async def test_zeros_in_many_messages_are_one_part(daemon: DaemonProcess, stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs)
    zeros = [Step(zero_length=MIB)] * 200
    steps = [wire.header(upload), Step(data=qcow2_like(MIB)), *zeros, Step(data=b"end"), FLUSH]
    assert (await wire.write(stubs, steps))[-1].committed_offset == 201 * MIB + 3
    assert len(daemon.blobs("staging/")) == 2


@pytest.mark.parametrize("start", [QCOW2_START, b"raw bytes"])
async def test_a_flush_without_news_stores_nothing(daemon: DaemonProcess, stubs: Stubs, start: bytes) -> None:
    upload = await wire.open_upload(stubs)
    content = start + random_disk(MIB - len(start))
    await wire.write(stubs, [wire.header(upload), Step(data=content), FLUSH])
    once = daemon.blobs()
    now = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
    await wire.write(stubs, [wire.header(now), *[FLUSH] * 50])
    assert daemon.blobs() == once


async def test_of_two_writers_at_once_one_wins_and_its_bytes_count(stubs: Stubs) -> None:
    size = 4 * MIB
    for attempt in range(8):
        contents = [qcow2_like(size, 2 * attempt + n) for n in range(2)]
        upload = await wire.open_upload(stubs, disk_format=image_pb2.DISK_FORMAT_QCOW2, size_bytes=size)
        outcomes = await asyncio.gather(
            *(_write_all(stubs, upload, content) for content in contents), return_exceptions=True
        )
        won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert won.count(size) == 1, outcomes
        winner = contents[outcomes.index(size)]
        committed = await stubs.uploads.CommitUpload(
            upload_pb2.CommitUploadRequest(upload_id=upload.id, size_bytes=size, digest=_digest(winner))
        )
        assert committed.state == upload_pb2.UPLOAD_STATE_COMMITTED


async def _write_all(stubs: Stubs, upload: upload_pb2.Upload, content: bytes) -> int:
    async def requests() -> AsyncIterator[Step]:
        yield wire.header(upload, 0)
        for start in range(0, len(content), MIB):
            yield Step(data=content[start : start + MIB])
            await asyncio.sleep(0.01)
        yield FLUSH

    committed = 0
    async for answer in stubs.uploads.WriteUpload(requests()):
        committed = answer.committed_offset
    return committed


async def _write_until_refused(
    stubs: Stubs, upload: upload_pb2.Upload, seed: int, is_full: asyncio.Event
) -> str:
    """Write two parts, then a little more each moment; the reason of the refusal, empty for none."""

    async def requests() -> AsyncIterator[Step]:
        yield wire.header(upload, 0)
        for step in (Step(data=qcow2_like(MIB, seed)), FLUSH, Step(data=random_disk(MIB, seed)), FLUSH):
            yield step
        await is_full.wait()
        while True:
            await asyncio.sleep(0.05)
            yield Step(data=b"more")

    try:
        async for answer in stubs.uploads.WriteUpload(requests()):
            if answer.committed_offset == 2 * MIB:
                is_full.set()
    except grpc.aio.AioRpcError as error:
        return wire.reason_of(error)
    return ""


def _digest(content: bytes) -> str:
    hasher = TreeHasher()
    hasher.update(content)
    return hasher.digest()

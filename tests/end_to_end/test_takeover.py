"""Two writers of one upload: one wins, the other learns of it, and the bytes are the winner's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest
from ims_client.call_ending import CallEnding

from imsd.v1 import image_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB
from tests.end_to_end.wire import Step

SIZE = 3 * MIB
ROUNDS = 12
FENCED = ("UPLOAD_TAKEN_OVER", "UPLOAD_OFFSET_MISMATCH")
QCOW2_START = b"QFI\xfb\x00\x00\x00\x03"


@pytest.fixture
async def two(start_daemon: Callable[..., DaemonProcess]) -> AsyncIterator[tuple[Stubs, Stubs]]:
    """Two clients, each with a connection of its own."""
    daemon = start_daemon(upload_part_bytes=MIB)
    options = [("grpc.use_local_subchannel_pool", 1)]
    first = grpc.aio.insecure_channel(daemon.address, options)
    second = grpc.aio.insecure_channel(daemon.address, options)
    async with first, second:
        yield Stubs(first), Stubs(second)


def disk_of(writer: int, round_number: int) -> bytes:
    return random.Random(f"{writer}.{round_number}").randbytes(SIZE)


async def write_all(stubs: Stubs, upload: upload_pb2.Upload, content: bytes, pause_seconds: float) -> str:
    """Write ``content`` from 0, in one stream; returns the reason of its end, or nothing."""
    await asyncio.sleep(pause_seconds)
    call = stubs.uploads.WriteUpload()
    # The failure of a message that cannot be sent any more would hide what the daemon said.
    ending = CallEnding(call)
    sending = asyncio.create_task(_send(call, [wire.header(upload, 0), *wire.steps_of(content)]))
    try:
        async for answer in call:
            if answer.committed_offset == SIZE:
                return ""
        return "ended without a word"
    except grpc.aio.AioRpcError as error:
        return wire.reason_of(await ending.status(error))
    finally:
        call.cancel()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(call: Any, steps: Sequence[Step]) -> None:
    for step in steps:
        await call.write(step)


async def _read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("latest_pause", [0.0, 0.003, 0.02])
async def test_of_two_writers_one_wins_and_its_bytes_are_the_image(
    two: tuple[Stubs, Stubs], latest_pause: float
) -> None:
    dice = random.Random(latest_pause)
    for number in range(ROUNDS):
        upload = await wire.open_upload(two[0], size_bytes=SIZE)
        disks = [disk_of(writer, number) for writer in range(2)]
        pauses = [0.0, dice.uniform(0, latest_pause)]
        ends = await asyncio.gather(*map(write_all, two, [upload] * 2, disks, pauses))
        winners = [writer for writer, reason in enumerate(ends) if not reason]
        assert len(winners) == 1, ends
        assert ends[1 - winners[0]] in FENCED, ends
        commit = upload_pb2.CommitUploadRequest(upload_id=upload.id, size_bytes=SIZE)
        await two[0].uploads.CommitUpload(commit)
        job = await wire.ended(two[0], await wire.start_image(two[0], upload))
        assert job.error.reason == ""
        assert await wire.download(two[0], job.image_ids[0]) == disks[winners[0]], ends
        await two[0].images.DeleteImage(
            image_pb2.DeleteImageRequest(image_id=job.image_ids[0], is_final=True)
        )


async def test_of_two_writers_of_a_staged_file_the_winners_bytes_are_committed(
    two: tuple[Stubs, Stubs],
) -> None:
    """As above with a file that is kept in parts: the digest at the commit tells whose they are."""
    from imsd.chunks.tree_digest import TreeHasher

    for number in range(ROUNDS):
        upload = await wire.open_upload(two[0], size_bytes=SIZE)
        files = [QCOW2_START + disk_of(writer, number)[len(QCOW2_START) :] for writer in range(2)]
        ends = await asyncio.gather(*map(write_all, two, [upload] * 2, files, [0.0, 0.0]))
        winners = [writer for writer, reason in enumerate(ends) if not reason]
        assert len(winners) == 1, ends
        assert ends[1 - winners[0]] in FENCED, ends
        hasher = TreeHasher()
        hasher.update(files[winners[0]])
        committed = await two[1].uploads.CommitUpload(
            upload_pb2.CommitUploadRequest(upload_id=upload.id, size_bytes=SIZE, digest=hasher.digest())
        )
        assert committed.digest == hasher.digest()
        await two[1].uploads.DeleteUpload(upload_pb2.DeleteUploadRequest(upload_id=upload.id))


async def test_sigterm_leaves_an_upload_that_is_being_written_resumable(
    start_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = start_daemon(upload_part_bytes=MIB, drain_seconds=1)
    disk = disk_of(0, 0)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs, size_bytes=SIZE)
        call = stubs.uploads.WriteUpload()
        for step in (wire.header(upload), Step(data=disk[:MIB]), Step(flush=Step.Flush())):
            await call.write(step)
        while (await call.read()).committed_offset < MIB:
            pass
        assert await asyncio.to_thread(daemon.stop) == 0
        with pytest.raises(grpc.aio.AioRpcError) as stopped:
            await _read_to_the_end(call)
        assert stopped.value.code() == grpc.StatusCode.UNAVAILABLE
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        now = await stubs.uploads.GetUpload(upload_pb2.GetUploadRequest(upload_id=upload.id))
        assert (now.state, now.committed_offset) == (upload_pb2.UPLOAD_STATE_OPEN, MIB)
        await wire.write(stubs, [wire.header(now), *wire.steps_of(disk, MIB)])
        await stubs.uploads.CommitUpload(upload_pb2.CommitUploadRequest(upload_id=upload.id, size_bytes=SIZE))
        job = await wire.ended(stubs, await wire.start_image(stubs, upload))
        assert await wire.download(stubs, job.image_ids[0]) == disk

"""Many callers at once, greedy callers, large answers: the daemon stays small, quick and says no in words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imsd.core.limits import MAX_WRITE_BYTES
from imsd.grpc_server.server import SERVICES
from imsd.v1 import image_pb2, job_pb2, quota_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, random_disk
from tests.end_to_end.wire import Step


async def import_random(address: str, mib: int) -> int:
    """The final state of an import of incompressible bytes over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        stubs = Stubs(channel)
        upload = await wire.open_upload(stubs, size_bytes=mib * MIB)

        async def requests() -> AsyncIterator[Step]:
            yield wire.header(upload)
            for _ in range(mib):  # sent as soon as the window allows, also before the upload is admitted
                yield Step(data=os.urandom(MIB))
            yield Step(flush=Step.Flush())

        async for _ in stubs.uploads.WriteUpload(requests()):
            pass
        await wire.commit(stubs, upload, mib * MIB)
        return (await wire.ended(stubs, await wire.start_image(stubs, upload))).state


async def test_forty_imports_at_once_keep_the_daemon_below_256_mib(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    await stubs.quotas.SetQuota(quota_pb2.SetQuotaRequest(resource="images", quota=-1))
    for _ in range(2):  # what the first ones freed serves the others
        states = await asyncio.gather(*(import_random(daemon.address, 16) for _ in range(40)))
        assert set(states) == {job_pb2.JOB_STATE_SUCCESS}
    assert daemon.peak_memory_bytes() <= 256 * MIB


async def test_an_upload_stream_too_many_waits_its_turn(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon(max_upload_streams=1)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        first, second = [await wire.open_upload(stubs, size_bytes=MIB) for _ in range(2)]
        writing = stubs.uploads.WriteUpload()
        await writing.write(wire.header(first))
        await writing.read()
        waiting = asyncio.create_task(wire.write(stubs, [wire.header(second)]))
        done, _ = await asyncio.wait([waiting], timeout=1)
        assert not done

        await writing.done_writing()
        assert await writing.read() == grpc.aio.EOF
        assert (await waiting)[0].committed_offset == 0


async def test_a_message_has_at_most_one_mib_of_data(stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, size_bytes=4 * MIB)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wire.write(stubs, [wire.header(upload), Step(data=bytes(MAX_WRITE_BYTES + 1))])
    assert wire.reason_of(refused.value) == "INVALID_REQUEST"
    assert MAX_WRITE_BYTES == MIB


async def test_readers_that_stop_do_not_stop_an_import(daemon: DaemonProcess, stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, random_disk(64 * MIB))
    async with AsyncExitStack() as stack:
        for _ in range(12):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(daemon.address, options))
            reading = Stubs(channel).images.DownloadImage(image_pb2.DownloadImageRequest(image_id=image.id))
            stack.callback(reading.cancel)
        await asyncio.sleep(1.0)  # each has now as much ready as it may
        async with asyncio.timeout(10):
            other = await wire.import_disk(stubs, random_disk(MIB, seed=2), name="other")
    assert other.status == image_pb2.IMAGE_STATUS_ACTIVE


async def test_images_at_every_limit_are_listed_page_by_page(stubs: Stubs) -> None:
    facts = {f"{n:03}" + "k" * 61: "\U0001d11e" * 255 for n in range(64)}
    upload_disk = random_disk(MIB)
    made = [
        (await wire.import_disk(stubs, upload_disk, name=f"i{n}", properties=facts)).id for n in range(48)
    ]
    found: list[str] = []
    token = ""
    while True:
        page = await stubs.images.ListImages(image_pb2.ListImagesRequest(page_size=1000, page_token=token))
        found += [image.id for image in page.images]
        if not (token := page.next_page_token):
            break
    assert found == made[::-1]


async def test_reflection_lists_every_service(daemon: DaemonProcess) -> None:
    def requests() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = [answer async for answer in stub.ServerReflectionInfo(requests())]
    listed = {service.name for service in answers[0].list_services_response.service}
    assert listed == set(SERVICES) | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}

"""What `imsctl image import` asks for when the daemon fetches, and Ctrl-C while it asks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from ims_client import CallFailed, JobCancelled
from imsctl import image_fetch
from imsctl.file_argument import scheme_of
from imsctl.image_request import ImageRequest, of_upload, usual_request_id
from imsctl.import_options import FileOptions, ImportOptions
from imsctl.job_watch import start_own_job
from imsctl.progress import NoProgress
from imsctl.session import Interrupted

from imsd.v1 import image_pb2, job_pb2


class SlowClient:
    """A client whose call takes until it is told to go on."""

    def __init__(self, failure: CallFailed | None = None) -> None:
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()
        self.cancelled: list[str] = []
        self.failure = failure
        self.images = SimpleNamespace(create=self.create)
        self.jobs = SimpleNamespace(cancel=self.cancel, wait_for_job=self.wait_for_job)

    def backoff(self) -> Any:
        return SimpleNamespace(wait=self.no_patience, succeeded=lambda: None)

    async def no_patience(self, _: Any) -> bool:
        return False

    async def create(self, _: image_pb2.CreateImageRequest) -> job_pb2.Job:
        self.asked.set()
        await self.answered.wait()
        if self.failure:
            raise self.failure
        return job_pb2.Job(id="the-job")

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    async def wait_for_job(self, job_id: str, *_: Any) -> None:
        raise JobCancelled(job_pb2.Job(id=job_id))


async def interrupted(client: SlowClient) -> Interrupted:
    request = image_pb2.CreateImageRequest(url="https://example.org/disk")
    anything: Any = client
    task = asyncio.create_task(start_own_job(anything, lambda: client.create(request), NoProgress()))
    await client.asked.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(client.answered.set)
    with pytest.raises(Interrupted) as ended:
        await task
    return ended.value


async def test_ctrl_c_while_the_job_is_being_started_cancels_it() -> None:
    client = SlowClient()
    ended = await interrupted(client)
    assert client.cancelled == ["the-job"]
    assert "job the-job is cancelled and left nothing behind" in str(ended)


async def test_ctrl_c_while_no_job_can_be_started_says_so() -> None:
    client = SlowClient(CallFailed("INVALID_REQUEST", "no"))
    ended = await interrupted(client)
    assert client.cancelled == []
    assert "no job was started" in str(ended)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("https://example.org/disk", "https"),
        ("HTTPS://example.org/disk", "https"),
        ("http://example.org/disk", "http"),
        ("file:///disk", "file"),
        ("disk.qcow2", ""),
        ("./https://example.org", ""),
        ("c://disk", ""),
        ("https", ""),
        ("-", ""),
    ],
)
def test_an_argument_is_a_url_by_its_beginning(text: str, scheme: str) -> None:
    assert scheme_of(text) == scheme


def named(what: str, options: FileOptions) -> image_pb2.RegisterImageRequest:
    request = image_pb2.RegisterImageRequest()
    image_fetch.name_source(request, what, options)
    return request


def test_a_request_names_one_source_and_can_be_repeated() -> None:
    url = named("https://example.org/disk", ImportOptions(name="web", sha256="AB" * 32))
    assert (url.WhichOneof("source"), url.url) == ("url", "https://example.org/disk")
    assert url.expected_sha256 == "ab" * 32
    assert url.request_id.startswith("imsctl-")
    path = named("/srv/disk", FileOptions(on_server=True, request_id="one"))
    assert (path.WhichOneof("source"), path.local_path, path.request_id) == ("local_path", "/srv/disk", "one")
    place = named("main:Disk.raw", FileOptions(from_bucket=True))
    assert (place.WhichOneof("source"), place.object) == ("object", "main:Disk.raw")
    for what, wrong in (
        ("disk", FileOptions(on_server=True)),
        ("disk", FileOptions(from_bucket=True)),
        ("/a:b", FileOptions(from_bucket=True, on_server=True)),
        ("https://example.org/disk", FileOptions(send_bytes=True)),
    ):
        with pytest.raises(typer.BadParameter):
            named(what, wrong)


def test_one_upload_gets_a_request_id_for_each_purpose() -> None:
    requests: tuple[ImageRequest, ...] = (
        image_pb2.CreateImageRequest(name="web"),
        image_pb2.RegisterImageRequest(image_id="one"),
        image_pb2.RegisterImageRequest(image_id="two"),
    )
    ids = [usual_request_id(request, "upload") for request in requests]
    assert len(set(ids)) == len(ids)
    for request, request_id in zip(requests, ids, strict=True):
        asked = of_upload(request, "upload", request_id)
        assert (asked.upload_id, asked.request_id, request.upload_id) == ("upload", request_id, "")

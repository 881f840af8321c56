"""Requests that are only validated: refused as the call would refuse them, and nothing else happens."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from imsd.v1 import identity_pb2, image_pb2, job_pb2, trace_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.test_policies import make_user

UNKNOWN = "00000000-0000-4000-8000-000000000000"
SYSTEM, RAW = "Debian GNU/Linux 12.0.0 64bit", image_pb2.DISK_FORMAT_RAW


async def refusal(call: Any, request: Any, metadata: Any = ()) -> str:
    """The reason; empty when the request was taken."""
    request.validate_only = True
    try:
        job = await call(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return wire.reason_of(error)
    assert job == job_pb2.Job()
    return ""


async def traces(stubs: Stubs) -> list[trace_pb2.Trace]:
    listed = trace_pb2.ListTracesRequest(project_id="blue", page_size=1000)
    return list((await stubs.traces.ListTraces(listed)).traces)


async def waiting_image(stubs: Stubs) -> image_pb2.Image:
    request = image_pb2.CreateQueuedImageRequest(
        project_id="blue",
        name="later",
        disk_format=RAW,
        os_version=SYSTEM,
        min_disk_gb=1,
    )
    image: image_pb2.Image = await stubs.images.CreateQueuedImage(request)
    return image


async def test_what_is_only_validated_changes_nothing_and_leaves_no_trace(
    daemon: DaemonProcess, stubs: Stubs
) -> None:
    await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id="blue"))
    reader = await make_user(stubs, "reader", {"blue": ("IMS ReadOnlyAccess",)})
    upload = await wire.open_upload(stubs, project_id="blue", size_bytes=1 << 20)
    disc = await wire.open_upload(stubs, project_id="blue", disk_format=image_pb2.DISK_FORMAT_ISO)
    image = await waiting_image(stubs)
    before = await traces(stubs)

    def new(**values: Any) -> image_pb2.CreateImageRequest:
        given = {"project_id": "blue", "upload_id": upload.id, "name": "web", "request_id": "r-1"}
        return image_pb2.CreateImageRequest(**(given | values))

    def filling(**values: Any) -> image_pb2.RegisterImageRequest:
        given = {"project_id": "blue", "upload_id": upload.id, "image_id": image.id, "request_id": "r-2"}
        return image_pb2.RegisterImageRequest(**(given | values))

    create, register = stubs.images.CreateImage, stubs.images.RegisterImage
    assert await refusal(create, new()) == ""
    assert await refusal(create, new(name="<")) == "IMAGE_NAME_INVALID"
    assert await refusal(create, new(upload_id=UNKNOWN)) == "NOT_FOUND"
    assert await refusal(create, new(upload_id="", url="file:///etc/passwd")) == "URL_REFUSED"
    assert (
        await refusal(create, new(is_fast=True, disk_format=RAW, os_version=SYSTEM)) == "FAILED_PRECONDITION"
    )
    assert await refusal(create, new(is_fast=True, disk_format=RAW)) == "OS_VERSION_REQUIRED"
    assert await refusal(create, new(upload_id=disc.id)) == "ISO_OS_VERSION_REQUIRED"
    assert await refusal(create, new(project_id="invented")) == "NOT_FOUND"
    assert await refusal(create, new(), reader) == "PERMISSION_DENIED"
    assert await refusal(register, filling()) == ""
    assert await refusal(register, filling(image_id=UNKNOWN)) == "NOT_FOUND"
    assert await refusal(register, filling(upload_id=UNKNOWN)) == "NOT_FOUND"
    assert await refusal(register, filling(expected_sha256="0" * 64)) == "INVALID_REQUEST"
    assert await refusal(register, filling(), reader) == "PERMISSION_DENIED"

    assert await traces(stubs) == before
    projects = (await stubs.identity.ListProjects(identity_pb2.ListProjectsRequest())).projects
    assert "invented" not in {project.id for project in projects}
    assert list((await stubs.jobs.ListJobs(job_pb2.ListJobsRequest(project_id="blue"))).jobs) == []
    images = (await stubs.images.ListImages(image_pb2.ListImagesRequest(project_id="blue"))).images
    assert [each.id for each in images] == [image.id]
    assert daemon.value("SELECT count(*) FROM trace_intent") == 0
    # The request ids are still free, for the requests that are meant.
    await wire.write(stubs, [wire.header(upload), *wire.steps_of(bytes(1 << 20))])
    await wire.commit(stubs, upload, 1 << 20)
    assert (await create(new())).id


async def test_an_open_upload_still_makes_no_image(daemon: DaemonProcess, stubs: Stubs) -> None:
    upload = await wire.open_upload(stubs, project_id="blue", size_bytes=1 << 20)
    request = image_pb2.CreateImageRequest(project_id="blue", upload_id=upload.id, name="web")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.images.CreateImage(request)
    assert wire.reason_of(refused.value) == "FAILED_PRECONDITION"
    assert [trace.name for trace in await traces(stubs)] == ["createImage", "createUpload"]

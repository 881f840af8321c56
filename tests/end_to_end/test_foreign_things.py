"""What belongs to another project answers every call as what is not there: in code, reason and words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from grpc_status import rpc_status
from ims_client import connect
from ims_client.channel import SpeakingChannel

from imsd.grpc_server.server import SERVICES
from imsd.v1 import identity_pb2, image_pb2, member_pb2, tag_pb2, trace_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import patterned_disk

MISSING = "5a0e4a3c-7a51-4a0e-9d0b-0c4f0a5d8f11"
FULL_ACCESS = "IMS FullAccess"

# What names a thing of a project, by the kind of thing.
KINDS = {
    "image_id": "image",
    "image_ids": "image",
    "name_or_id": "image",
    "upload_id": "upload",
    "job_id": "job",
}
KINDS |= {"trace_id": "trace", "replacement_image_id": "image"}

# What else a request needs, so that it comes as far as the thing.
FILLED: dict[str, Any] = {
    "name": "x",
    "target": "main:x",
    "status": 2,
    "visibility": 1,
    "disk_format": image_pb2.DISK_FORMAT_QCOW2,
    "action": "ims:images:delete",
    "member_project_ids": ["green"],
    "member_project_id": "green",
    "product_code": "x",
    "keys": ["x"],
    "project_id": "green",
    "size_bytes": 1,
}


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    for name in SERVICES:
        service = image_pb2.DESCRIPTOR.pool.FindServiceByName(name)
        for method in service.methods:
            yield f"{name}/{method.name}", method


def ways(method: MethodDescriptor) -> Iterator[str]:
    """The fields of a request that name a thing."""
    yield from (field.name for field in method.input_type.fields if field.name in KINDS)


def request_of(method: MethodDescriptor, way: str, thing_id: str, own: dict[str, str]) -> Any:
    """A request about a thing, of green's."""
    request = message_factory.GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.name in KINDS and field.name != way:
            value: Any = own[KINDS[field.name]]
        else:
            value = thing_id if field.name == way else FILLED.get(field.name)
        if value is None or field.type == FieldDescriptor.TYPE_MESSAGE:
            continue
        if field.is_repeated:
            getattr(request, field.name).extend(value if isinstance(value, list) else [value])
        elif isinstance(value, str) == (field.type == FieldDescriptor.TYPE_STRING):
            setattr(request, field.name, value)
    if isinstance(request, image_pb2.UpdateImageRequest):
        request.update_mask.paths.append("description")
    if isinstance(request, tag_pb2.SetImageTagsRequest):
        request.tags.add(key="x", value="y")
    return request


async def answer(channel: Any, name: str, method: MethodDescriptor, request: Any) -> tuple[str, ...]:
    """What the call says, without the id that it was asked about."""
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    reader = message_factory.GetMessageClass(method.output_type).FromString
    call = make(f"/{name}", type(request).SerializeToString, reader)(request)
    try:
        if method.server_streaming:
            return ("OK", str([each async for each in call]))
        found = await call
        return ("OK", "a job, which tells later" if method.output_type.name == "Job" else str(found))
    except grpc.aio.AioRpcError as error:
        return (error.code().name, error.details() or "", str(rpc_status.from_call(error)))


def without_ids(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Ids, and times, differ from call to call."""
    return tuple(re.sub(r"[0-9a-f-]{36}|(seconds|nanos): [0-9]+", "…", text) for text in texts)


async def things_of(stubs: Stubs, project_id: str) -> dict[str, str]:
    """One of each kind, private, of a project."""
    upload = await wire.open_upload(stubs, project_id=project_id, size_bytes=1 << 20)
    image = await wire.import_disk(stubs, patterned_disk(1 << 20), project_id)
    traces = await stubs.traces.ListTraces(trace_pb2.ListTracesRequest(project_id=project_id))
    return {"image": image.id, "upload": upload.id, "job": image.job_id, "trace": traces.traces[0].id}


async def compared(channel: Any, token: str, own: dict[str, str], foreign: dict[str, str]) -> set[str]:
    """The calls that tell a foreign thing from a missing one, tried with every field that names one."""
    telling = set()
    speaking = SpeakingChannel(channel, token)
    for name, method in methods():
        for way in () if method.client_streaming else ways(method):
            said = [
                without_ids(await answer(speaking, name, method, request_of(method, way, thing_id, own)))
                for thing_id in (foreign[KINDS[way]], MISSING)
            ]
            if said[0] != said[1]:
                telling.add(f"{name} {way}: {said}")
    return telling


async def test_a_foreign_thing_is_told_from_a_missing_one_by_no_call(daemon: DaemonProcess) -> None:
    async with connect(daemon.address) as client:
        for project_id in ("green", "blue"):
            await client.identity.create_project(project_id)
        await client.identity.create_user("gwen")
        await client.identity.grant_role(identity_pb2.PRINCIPAL_KIND_USER, "gwen", "green", FULL_ACCESS)
        token = (await client.identity.create_token("t", "gwen")).secret
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        own, foreign = [await things_of(stubs, project_id) for project_id in ("green", "blue")]
        assert await compared(channel, token, own, foreign) == set()
        seen = await compared(
            channel, token, await things_of(stubs, "green"), await things_of(stubs, "green")
        )
        # What would be told, is seen: own things answer otherwise.
        assert {each.split(" ")[0] for each in seen} >= {
            "imsd.v1.ImageService/GetImage",
            "imsd.v1.UploadService/GetUpload",
            "imsd.v1.JobService/GetJob",
            "imsd.v1.TraceService/GetTrace",
            "imsd.v1.MemberService/ListMembers",
            "imsd.v1.TagService/GetImageTags",
        }


async def test_results_of_pairs_tell_nothing_either(daemon: DaemonProcess) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        foreign = await wire.import_disk(stubs, patterned_disk(1 << 20), "blue")
        said = []
        for image_id in (foreign.id, MISSING):
            asked: Any = {"project_id": "green", "image_ids": [image_id]}
            with_blue: Any = {**asked, "member_project_ids": ["blue"]}
            for call in (
                stubs.members.AddMembers(member_pb2.AddMembersRequest(**with_blue)),
                stubs.members.RemoveMembers(member_pb2.RemoveMembersRequest(**with_blue)),
                stubs.members.UpdateMembers(
                    member_pb2.UpdateMembersRequest(status=image_pb2.MEMBER_STATUS_ACCEPTED, **asked)
                ),
            ):
                job = await wire.ended(stubs, await call)
                said.append(without_ids((str(job.error), *map(str, job.member_results))))
        assert said[:3] == said[3:]
        assert all("NOT_FOUND" in str(each) for each in said), said

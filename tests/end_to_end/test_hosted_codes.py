"""The codes of the hosted service (contract §13) that calls on images answer with, whichever call it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from ims_client import CallFailed, connect

from imsd.v1 import image_pb2, job_pb2, member_pb2, tag_pb2
from imsd.v1.image_pb2_grpc import ImageServiceStub
from imsd.v1.member_pb2_grpc import MemberServiceStub
from imsd.v1.tag_pb2_grpc import TagServiceStub
from tests.end_to_end import wire
from tests.end_to_end.constraints_world import (
    MEMBER,
    OWNER,
    Refusal,
    code_of,
    create_projects,
    hint_of,
    owned_image,
    refusal,
)
from tests.end_to_end.daemon_process import DaemonProcess, Stubs

NIL = "00000000-0000-4000-8000-000000000000"
IMAGE_NOT_THERE = Refusal("NOT_FOUND", "IMG.0027")

SERVICES = {image_pb2: ImageServiceStub, member_pb2: MemberServiceStub, tag_pb2: TagServiceStub}

# What else a call wants before it looks for the image.
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "CopyImage": {"name": "copy"},
    "DeleteImageTags": {"keys": ["tier"]},
    "ExportImage": {"target": "disks:x", "is_fast": True},
    "GetMember": {"member_project_id": MEMBER},
    "MoveImage": {"store": "main"},
    "PublishImage": {"product_code": "p"},
    "SetImageTags": {"tags": [{"key": "tier", "value": "web"}]},
    "SetImageVisibility": {"visibility": image_pb2.VISIBILITY_PUBLIC},
    "UpdateImage": {"image": {"name": "new"}, "update_mask": {"paths": ["name"]}},
}


def calls_on_an_image() -> list[tuple[Any, Any]]:
    """Each method whose request names one image, and the module of its messages."""
    return [
        (module, method)
        for module in SERVICES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if "image_id" in method.input_type.fields_by_name
    ]


def request_for(module: Any, method: Any, **fields: Any) -> Any:
    return getattr(module, method.input_type.name)(**NEEDED.get(method.name, {}), **fields)


async def answer_of(call: Any) -> Any:
    """What a call answers, or the first message of a stream."""
    if isinstance(call, grpc.aio.UnaryStreamCall):
        return await anext(aiter(call))
    return await call


async def test_every_call_on_an_image_that_is_not_there_has_the_code_for_it(daemon: DaemonProcess) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        upload = await wire.send(stubs, bytes(range(256)))
        for module, method in calls_on_an_image():
            fields = {"upload_id": upload.id} if method.name == "RegisterImage" else {}
            call = getattr(SERVICES[module](channel), method.name)
            refused = await refusal(answer_of(call(request_for(module, method, image_id=NIL, **fields))))
            assert refused == IMAGE_NOT_THERE, method.name


async def test_what_else_is_not_there_has_another_code_or_none(stubs: Stubs) -> None:
    queued = await stubs.images.CreateQueuedImage(image_pb2.CreateQueuedImageRequest(name="waiting"))
    register = image_pb2.RegisterImageRequest(image_id=queued.id, upload_id=NIL)
    assert await refusal(stubs.images.RegisterImage(register)) == Refusal("NOT_FOUND", "")
    image = await owned_image(stubs)
    replaced = image_pb2.DeprecateImageRequest(project_id=OWNER, image_id=image.id, replacement_image_id=NIL)
    assert await refusal(stubs.images.DeprecateImage(replaced)) == IMAGE_NOT_THERE
    member = member_pb2.GetMemberRequest(project_id=OWNER, image_id=image.id, member_project_id=MEMBER)
    assert await refusal(stubs.members.GetMember(member)) == Refusal("NOT_FOUND", "")


async def test_pairs_of_members_tell_an_image_that_is_not_there_from_a_share_that_is_not(
    stubs: Stubs,
) -> None:
    await create_projects(stubs, OWNER, MEMBER)
    image = await owned_image(stubs)
    ids: dict[str, Any] = {"project_id": OWNER, "image_ids": [image.id, NIL], "member_project_ids": [MEMBER]}
    codes = {}
    for call, request in (
        (stubs.members.RemoveMembers, member_pb2.RemoveMembersRequest(**ids)),
        (stubs.members.AddMembers, member_pb2.AddMembersRequest(**ids)),
    ):
        job = await wire.ended(stubs, await call(request))
        assert job.state == job_pb2.JOB_STATE_SUCCESS
        for each in job.member_results:
            codes[job.kind, each.image_id] = each.error.reason, each.error.img_code
    assert codes == {
        (job_pb2.JOB_KIND_REMOVE_MEMBERS, image.id): ("NOT_FOUND", ""),
        (job_pb2.JOB_KIND_REMOVE_MEMBERS, NIL): ("NOT_FOUND", "IMG.0027"),
        (job_pb2.JOB_KIND_ADD_MEMBERS, image.id): ("", ""),
        (job_pb2.JOB_KIND_ADD_MEMBERS, NIL): ("NOT_FOUND", "IMG.0027"),
    }


NOT_ACTIVE = Refusal("IMAGE_NOT_ACTIVE", "IMG.0046")


async def test_a_prepared_image_is_not_active_and_whoever_wants_it_is_told_how_it_gets_bytes(
    daemon: DaemonProcess,
) -> None:
    needs_bytes = ("CopyImage", "ExportImage", "DownloadImage", "VerifyImage", "DeactivateImage")
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        images = ImageServiceStub(channel)
        queued = await images.CreateQueuedImage(image_pb2.CreateQueuedImageRequest(name="waiting"))
        for module, method in calls_on_an_image():
            if method.name in needs_bytes:
                request = request_for(module, method, image_id=queued.id)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await answer_of(getattr(images, method.name)(request))
                assert code_of(refused.value) == NOT_ACTIVE, method.name
                assert "imsctl image register" in hint_of(refused.value)


async def test_what_is_wrong_with_a_name_a_description_or_a_place_has_its_code(stubs: Stubs) -> None:
    def queued(name: str = "waiting", description: str = "") -> Any:
        request = image_pb2.CreateQueuedImageRequest(name=name, description=description)
        return stubs.images.CreateQueuedImage(request)

    assert await refusal(queued(name="")) == Refusal("IMAGE_NAME_MISSING", "IMG.0013")
    assert await refusal(queued(name="x" * 129)) == Refusal("IMAGE_NAME_TOO_LONG", "IMG.0002")
    assert await refusal(queued(name="a/b")) == Refusal("IMAGE_NAME_INVALID", "IMG.0003")
    assert await refusal(queued(description="x" * 1025)) == Refusal("DESCRIPTION_TOO_LONG", "IMG.0004")
    assert await refusal(queued(description="a<b")) == Refusal("DESCRIPTION_INVALID", "IMG.0054")
    nowhere = image_pb2.CreateImageRequest(name="new", object="no-bucket-named")
    assert await refusal(stubs.images.CreateImage(nowhere)) == Refusal("INVALID_REQUEST", "IMG.0017")
    export = image_pb2.ExportImageRequest(image_id=NIL, target="no-bucket-named", is_fast=True)
    assert await refusal(stubs.images.ExportImage(export)) == Refusal("INVALID_REQUEST", "IMG.0017")


async def test_the_client_passes_the_code_on(daemon: DaemonProcess) -> None:
    async with connect(daemon.address) as client:
        with pytest.raises(CallFailed) as refused:
            await client.images.get(NIL)
    assert (refused.value.reason, refused.value.img_code) == ("NOT_FOUND", "IMG.0027")

"""A story in which every call that changes something is made once, and succeeds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import field_mask_pb2

from imsd.v1 import (
    attachment_pb2,
    bucket_pb2,
    identity_pb2,
    image_pb2,
    job_pb2,
    key_pb2,
    member_pb2,
    quota_pb2,
    store_pb2,
    store_upkeep_pb2,
    tag_pb2,
    upload_pb2,
)
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import Stubs
from tests.end_to_end.disks import patterned_disk

DISK = patterned_disk(1 << 20)
put_step = bucket_pb2.PutObjectRequest
USER = identity_pb2.PRINCIPAL_KIND_USER


@dataclass
class Story:
    """What came of the steps so far, by the name of the call."""

    stubs: Stubs
    image: image_pb2.Image
    answers: dict[str, Any] = field(default_factory=dict)

    def image_request(self, request: Any, **values: Any) -> Any:
        return request(project_id="blue", image_id=self.image.id, **values)

    def upload_request(self, request: Any, **values: Any) -> Any:
        return request(project_id="blue", upload_id=self.answers["CreateUpload"].id, **values)

    def key_request(self, request: Any, **values: Any) -> Any:
        return request(project_id="blue", key_id=self.answers["CreateKey"].id, **values)

    def sharing(self, request: Any, **values: Any) -> Any:
        return request(image_ids=[self.image.id], **values)


@dataclass(frozen=True)
class Step:
    """``resource``: how what it is about is found in the story, after the call; ``details``: some of them."""

    call: str
    request: Callable[[Story], Any]
    resource: Callable[[Story], str]
    project: str = "blue"
    details: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.call.rpartition("/")[2]

    async def run(self, story: Story) -> None:
        service, _, call = self.call.partition("/")
        stub = getattr(getattr(story.stubs, _STUBS[service]), call)
        request = self.request(story)
        if isinstance(request, list):  # messages of a stream
            stream = stub(_stream(request))
            answers = [each async for each in stream] if hasattr(stream, "__aiter__") else [await stream]
            story.answers[call] = answers[-1]
        else:
            story.answers[call] = await stub(request)
        if isinstance(story.answers[call], job_pb2.Job) and call != "CancelJob":
            await wire.ended(story.stubs, story.answers[call])


_STUBS = {
    "KeyService": "keys",
    "StoreService": "stores",
    "StoreUpkeepService": "store_upkeep",
    "ImageService": "images",
    "UploadService": "uploads",
    "JobService": "jobs",
    "MemberService": "members",
    "TagService": "tags",
    "QuotaService": "quotas",
    "BucketService": "buckets",
    "AttachmentService": "attachments",
    "IdentityService": "identity",
}


async def _stream(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


def _image(story: Story) -> str:
    return story.image.id


def _of_answer(call: str) -> Callable[[Story], str]:
    return lambda story: str(story.answers[call].id)


def _made_by(call: str) -> Callable[[Story], str]:
    return lambda story: str(story.answers[call].image_ids[0])


def _named(name: str) -> Callable[[Story], str]:
    return lambda story: name


_MASK = field_mask_pb2.FieldMask(paths=["is_protected"])

STEPS = [
    Step(
        "IdentityService/CreateProject",
        lambda s: identity_pb2.CreateProjectRequest(id="red"),
        _named("red"),
        "@service",
    ),
    Step(
        "IdentityService/CreateUser",
        lambda s: identity_pb2.CreateUserRequest(id="eve"),
        _named("eve"),
        "@service",
    ),
    Step(
        "IdentityService/CreateGroup",
        lambda s: identity_pb2.CreateGroupRequest(id="ops"),
        _named("ops"),
        "@service",
    ),
    Step(
        "IdentityService/SetGroupMembers",
        lambda s: identity_pb2.SetGroupMembersRequest(id="ops", add_user_ids=["eve"]),
        _named("ops"),
        "@service",
        {"add_user_ids": "eve"},
    ),
    Step(
        "IdentityService/GrantRole",
        lambda s: identity_pb2.GrantRoleRequest(
            principal_kind=USER, principal_id="eve", project_id="blue", role="IMS FullAccess"
        ),
        _named("eve"),
        "blue",
        {"principal_kind": "user", "role": "IMS FullAccess"},
    ),
    Step(
        "IdentityService/RevokeRole",
        lambda s: identity_pb2.RevokeRoleRequest(
            principal_kind=USER, principal_id="eve", project_id="blue", role="IMS FullAccess"
        ),
        _named("eve"),
        "blue",
        {"role": "IMS FullAccess"},
    ),
    Step(
        "IdentityService/CreateToken",
        lambda s: identity_pb2.CreateTokenRequest(user_id="eve", name="ci"),
        lambda s: str(s.answers["CreateToken"].token.id),
        "@service",
        {"user_id": "eve", "name": "ci"},
    ),
    Step(
        "IdentityService/RevokeToken",
        lambda s: identity_pb2.RevokeTokenRequest(token_id=s.answers["CreateToken"].token.id),
        lambda s: str(s.answers["CreateToken"].token.id),
        "@service",
    ),
    Step(
        "IdentityService/DeleteGroup",
        lambda s: identity_pb2.DeleteGroupRequest(id="ops"),
        _named("ops"),
        "@service",
    ),
    Step(
        "IdentityService/DeleteUser",
        lambda s: identity_pb2.DeleteUserRequest(id="eve"),
        _named("eve"),
        "@service",
    ),
    Step(
        "QuotaService/SetQuota",
        lambda s: quota_pb2.SetQuotaRequest(project_id="blue", resource="images", quota=50),
        _named("images"),
        details={"quota": "50"},
    ),
    Step(
        "UploadService/CreateUpload",
        lambda s: upload_pb2.CreateUploadRequest(project_id="blue", size_bytes=len(DISK), file_name="d.raw"),
        _of_answer("CreateUpload"),
        details={"file_name": "d.raw", "size_bytes": str(len(DISK))},
    ),
    Step(
        "UploadService/WriteUpload",
        lambda s: [wire.header(s.answers["CreateUpload"]), *wire.steps_of(DISK)],
        _of_answer("CreateUpload"),
        details={"committed_offset": str(len(DISK))},
    ),
    Step(
        "UploadService/CommitUpload",
        lambda s: s.upload_request(upload_pb2.CommitUploadRequest, size_bytes=len(DISK)),
        _of_answer("CreateUpload"),
    ),
    Step(
        "ImageService/CreateImage",
        lambda s: s.upload_request(
            image_pb2.CreateImageRequest, name="web", request_id="r-1", tags={"a": "b"}
        ),
        _made_by("CreateImage"),
        details={"name": "web", "tags": "a=b"},
    ),
    Step(
        "UploadService/DeleteUpload",
        lambda s: upload_pb2.DeleteUploadRequest(project_id="blue", upload_id=s.answers["spare"].id),
        _of_answer("spare"),
    ),
    Step(
        "ImageService/CreateQueuedImage",
        lambda s: image_pb2.CreateQueuedImageRequest(
            project_id="blue",
            name="later",
            disk_format=image_pb2.DISK_FORMAT_RAW,
            os_version="Debian GNU/Linux 12.0.0 64bit",
            min_disk_gb=1,
        ),
        _of_answer("CreateQueuedImage"),
        details={"name": "later", "disk_format": "raw"},
    ),
    Step(
        "ImageService/RegisterImage",
        lambda s: image_pb2.RegisterImageRequest(
            project_id="blue", image_id=s.answers["CreateQueuedImage"].id, upload_id=s.answers["full"].id
        ),
        _of_answer("CreateQueuedImage"),
    ),
    Step(
        "ImageService/UpdateImage",
        lambda s: s.image_request(
            image_pb2.UpdateImageRequest, image=image_pb2.Image(is_protected=False), update_mask=_MASK
        ),
        _image,
        details={"update_mask": "is_protected", "is_protected": "false"},
    ),
    Step(
        "TagService/SetImageTags",
        lambda s: s.image_request(tag_pb2.SetImageTagsRequest, tags=[tag_pb2.Tag(key="k", value="v")]),
        _image,
        details={"tags": "k=v"},
    ),
    Step(
        "TagService/DeleteImageTags",
        lambda s: s.image_request(tag_pb2.DeleteImageTagsRequest, keys=["k"]),
        _image,
        details={"keys": "k"},
    ),
    Step("ImageService/DeactivateImage", lambda s: s.image_request(image_pb2.DeactivateImageRequest), _image),
    Step("ImageService/ReactivateImage", lambda s: s.image_request(image_pb2.ReactivateImageRequest), _image),
    Step("ImageService/VerifyImage", lambda s: s.image_request(image_pb2.VerifyImageRequest), _image),
    Step(
        "JobService/CancelJob",
        lambda s: job_pb2.CancelJobRequest(project_id="blue", job_id=s.answers["VerifyImage"].id),
        _of_answer("VerifyImage"),
    ),
    Step(
        "ImageService/ExportImage",
        lambda s: s.image_request(
            image_pb2.ExportImageRequest, target="main:disk", disk_format=image_pb2.DISK_FORMAT_QCOW2
        ),
        _image,
        details={"target": "main:disk", "disk_format": "qcow2"},
    ),
    Step(
        "ImageService/CopyImage",
        lambda s: s.image_request(image_pb2.CopyImageRequest, name="copy"),
        _image,
        details={"name": "copy"},
    ),
    Step(
        "MemberService/AddMembers",
        lambda s: s.sharing(member_pb2.AddMembersRequest, project_id="blue", member_project_ids=["red"]),
        _image,
        details={"member_project_ids": "red"},
    ),
    Step(
        "MemberService/UpdateMembers",
        lambda s: s.sharing(
            member_pb2.UpdateMembersRequest, project_id="red", status=image_pb2.MEMBER_STATUS_ACCEPTED
        ),
        _image,
        "red",
        {"status": "accepted"},
    ),
    Step(
        "MemberService/RemoveMembers",
        lambda s: s.sharing(member_pb2.RemoveMembersRequest, project_id="blue", member_project_ids=["red"]),
        _image,
        details={"member_project_ids": "red"},
    ),
    Step(
        "ImageService/SetImageVisibility",
        lambda s: s.image_request(
            image_pb2.SetImageVisibilityRequest, visibility=image_pb2.VISIBILITY_PRIVATE
        ),
        _image,
        details={"visibility": "private"},
    ),
    Step(
        "AttachmentService/AttachImage", lambda s: s.image_request(attachment_pb2.AttachImageRequest), _image
    ),
    Step(
        "AttachmentService/DetachImage",
        lambda s: attachment_pb2.DetachImageRequest(
            project_id="blue", attachment_id=s.answers["AttachImage"].id, force=True
        ),
        _of_answer("AttachImage"),
        details={"force": "true"},
    ),
    Step(
        "ImageService/MoveImage",
        lambda s: s.image_request(image_pb2.MoveImageRequest, store="second"),
        _image,
        details={"store": "second"},
    ),
    Step(
        "StoreService/CheckStore",
        lambda s: store_pb2.CheckStoreRequest(project_id="blue", store="second"),
        _named("second"),
    ),
    Step(
        "KeyService/CreateKey",
        lambda s: key_pb2.CreateKeyRequest(project_id="blue", name="payroll"),
        _of_answer("CreateKey"),
        details={"name": "payroll"},
    ),
    Step(
        "KeyService/UpdateKey",
        lambda s: s.key_request(key_pb2.UpdateKeyRequest, name="wages"),
        _of_answer("CreateKey"),
        details={"name": "wages"},
    ),
    Step(
        "KeyService/DisableKey", lambda s: s.key_request(key_pb2.DisableKeyRequest), _of_answer("CreateKey")
    ),
    Step("KeyService/EnableKey", lambda s: s.key_request(key_pb2.EnableKeyRequest), _of_answer("CreateKey")),
    Step("KeyService/RotateKey", lambda s: s.key_request(key_pb2.RotateKeyRequest), _of_answer("CreateKey")),
    Step(
        "KeyService/ScheduleKeyDeletion",
        lambda s: s.key_request(key_pb2.ScheduleKeyDeletionRequest, pending_days=7),
        _of_answer("CreateKey"),
        details={"pending_days": "7"},
    ),
    Step(
        "KeyService/CancelKeyDeletion",
        lambda s: s.key_request(key_pb2.CancelKeyDeletionRequest),
        _of_answer("CreateKey"),
    ),
    Step("ImageService/DeprecateImage", lambda s: s.image_request(image_pb2.DeprecateImageRequest), _image),
    Step("ImageService/DeleteImage", lambda s: s.image_request(image_pb2.DeleteImageRequest), _image),
    Step("ImageService/UndeleteImage", lambda s: s.image_request(image_pb2.UndeleteImageRequest), _image),
    Step(
        "ImageService/PublishImage",
        lambda s: s.image_request(image_pb2.PublishImageRequest, product_code="p-1"),
        _image,
        details={"product_code": "p-1"},
    ),
    Step(
        "BucketService/PutObject",
        lambda s: [
            put_step(header=put_step.Header(project_id="blue", object="main:f", size_bytes=3)),
            put_step(data=b"abc"),
            put_step(commit=put_step.Commit(size_bytes=3)),
        ],
        _named("main:f"),
        details={"size_bytes": "3"},
    ),
    Step(
        "BucketService/DeleteObject",
        lambda s: bucket_pb2.DeleteObjectRequest(project_id="blue", object="main:f"),
        _named("main:f"),
    ),
    Step(
        "StoreUpkeepService/ScrubStore",
        lambda s: store_upkeep_pb2.ScrubStoreRequest(project_id="blue", store="main", is_anew=True),
        _named("main"),
        details={"is_anew": "true"},
    ),
    Step(
        "StoreUpkeepService/RepackStore",
        lambda s: store_upkeep_pb2.RepackStoreRequest(project_id="blue", store="main", is_dry_run=True),
        _named("main"),
        details={"is_dry_run": "true"},
    ),
    Step(
        "IdentityService/DeleteProject",
        lambda s: identity_pb2.DeleteProjectRequest(id="red"),
        _named("red"),
        "@service",
    ),
]

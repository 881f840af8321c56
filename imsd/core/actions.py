"""What every call needs leave for, and what it leaves in the audit trail.

Names of actions are those of the hosted service (contract §12.2) where it has them, names of traces those of
its audit service (contract §11), its misspelling included; the others are imsd's own, in the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .trace_text import SERVICE_CHAIN

PACKAGE: Final = "imsd.v1"

# An action that every caller that is known may do.
OPEN: Final = "ims:catalog:get"


@dataclass(frozen=True, slots=True)
class Choice:
    """``of``: which of ``actions`` a request needs."""

    actions: tuple[str, ...]
    of: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Also:
    """An action that a call needs beside its own, when the request is one that ``when`` holds of.

    ``is_of_image``: it is decided of the images that the call is about, else of the project.
    """

    action: str
    when: Callable[[Any], bool] = lambda request: True
    is_of_image: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A call. ``action``: its name, or one that the request decides on; ``also``: what it needs beside it.

    ``trace``: the name of the trace it leaves; empty when it only reads. ``resource``: the kind of thing
    that it is about; ``id_field``: the field of the request that names it, empty when the call makes it.
    ``found_field``: the field of the answer that names the image which the call looked for.
    """

    action: str | Choice
    trace: str = ""
    resource: str = "image"
    id_field: str = ""
    found_field: str = ""
    also: tuple[Also, ...] = ()

    @property
    def is_mutation(self) -> bool:
        return bool(self.trace)

    def changes(self, request: Any) -> bool:
        """Whether ``request`` asks for a change: one that is only to be validated reads."""
        return self.is_mutation and not getattr(request, "validate_only", False)

    def action_for(self, request: Any) -> str:
        return self.action if isinstance(self.action, str) else self.action.of(request)

    @property
    def actions(self) -> tuple[str, ...]:
        """Every action that may be its own."""
        return (self.action,) if isinstance(self.action, str) else self.action.actions

    @property
    def all_actions(self) -> tuple[str, ...]:
        """Every action that it may need."""
        return (*self.actions, *(each.action for each in self.also))


_SERVER_IMAGE: Final = "ims:serverImages:create"
_DATA_IMAGE: Final = "ims:dataImages:create"
# The number of imsd.v1.ImageKind: the core knows no messages.
_DATA_DISK: Final = 2


def _creation(request: Any) -> str:
    return _DATA_IMAGE if request.kind == _DATA_DISK else _SERVER_IMAGE


_CREATION: Final = Choice((_SERVER_IMAGE, _DATA_IMAGE), _creation)

# Contract §12.2, "needs get + update too": it fills an image that is there.
_OF_A_REGISTRATION: Final = (Also("ims:images:get"), Also("ims:images:update"))


def _encrypts(request: Any) -> bool:
    return bool(request.key)


# Contract §2: who makes an encrypted image must have the actions of KMS himself.
_OF_A_KEY: Final = (Also("ims:keys:use", _encrypts, is_of_image=False),)


def _moves(request: Any) -> bool:
    return "enterprise_project_id" in request.update_mask.paths


def _copies_into_another(request: Any) -> bool:
    return request.enterprise_project_id not in ("", "0")


# Contract §3.9 and §12.2: what is put into an enterprise project is as if it were created there.
_OF_A_MOVE: Final = (Also(_SERVER_IMAGE, _moves, is_of_image=False),)
_OF_A_COPY: Final = (Also(_SERVER_IMAGE, _copies_into_another, is_of_image=False),)

_PROJECT_TRACES: Final = "ims:traces:list"
# Traces of users, roles, tokens: whoever sees those of every project is not yet an operator.
SERVICE_TRACES: Final = "ims:traces:listService"


def _trace_reading(request: Any) -> str:
    return SERVICE_TRACES if request.project_id == SERVICE_CHAIN else _PROJECT_TRACES


_TRACE_READING: Final = Choice((_PROJECT_TRACES, SERVICE_TRACES), _trace_reading)


def _reads(action: str | Choice, resource: str = "image", id_field: str = "") -> Operation:
    return Operation(action=action, resource=resource, id_field=id_field)


def _changes(
    trace: str, action: str, resource: str = "image", id_field: str = "", also: tuple[Also, ...] = ()
) -> Operation:
    return Operation(action=action, trace=trace, resource=resource, id_field=id_field, also=also)


_IMAGE: Final[Mapping[str, Any]] = {"id_field": "image_id"}

_IMAGES = {
    "CreateImage": Operation(action=_CREATION, trace="createImage", also=_OF_A_KEY),
    "CreateQueuedImage": _changes("createImage", "ims:images:create"),
    "RegisterImage": _changes("updateImage", "ims:images:upload", **_IMAGE, also=_OF_A_REGISTRATION),
    "GetImage": _reads("ims:images:get", **_IMAGE),
    "ResolveImage": Operation(action="ims:images:get", found_field="id"),
    "ResolveFamily": Operation(action="ims:images:get", found_field="image_id"),
    "ListImages": _reads("ims:images:list"),
    "ExportImageList": _reads("ims:images:list"),
    "UpdateImage": _changes("updateImage", "ims:images:update", **_IMAGE, also=_OF_A_MOVE),
    "DeleteImage": _changes("deleteImage", "ims:images:delete", **_IMAGE),
    "UndeleteImage": _changes("undeleteImage", "ims:images:delete", **_IMAGE),
    "DeactivateImage": _changes("deactivateImage", "ims:images:update", **_IMAGE),
    "ReactivateImage": _changes("reactivateImage", "ims:images:update", **_IMAGE),
    "DeprecateImage": _changes("deprecateImage", "ims:images:update", **_IMAGE),
    "SetImageVisibility": _changes("setImageVisibility", "ims:images:publicize", **_IMAGE),
    "PublishImage": _changes("publishImage", "ims:images:publish", **_IMAGE),
    "CopyImage": _changes("copyImage", "ims:images:copy", **_IMAGE, also=(*_OF_A_COPY, *_OF_A_KEY)),
    "MoveImage": _changes("moveImage", "ims:images:update", **_IMAGE),
    "ExportImage": _changes("exportImage", "ims:images:export", **_IMAGE),
    # The bytes leave the service, as by an export.
    "DownloadImage": _reads("ims:images:export", **_IMAGE),
    "VerifyImage": _changes("verifyImage", "ims:images:update", **_IMAGE),
    "InspectImage": _reads("ims:images:get", **_IMAGE),
    "GetImageSpace": _reads("ims:images:get", **_IMAGE),
    "GetProjectSpace": _reads("ims:images:list"),
}

_UPLOADS = {
    "CreateUpload": _changes("createUpload", "ims:images:upload", "upload", also=_OF_A_KEY),
    "GetUpload": _reads("ims:images:get", "upload", "upload_id"),
    "ListUploads": _reads("ims:images:list", "upload"),
    "FindUploadChunks": _reads("ims:images:upload", "upload", "upload_id"),
    "WriteUpload": _changes("writeUpload", "ims:images:upload", "upload", "upload_id"),
    "CommitUpload": _changes("commitUpload", "ims:images:upload", "upload", "upload_id"),
    "DeleteUpload": _changes("deleteUpload", "ims:images:upload", "upload", "upload_id"),
}

_JOBS = {
    "GetJob": _reads("ims:imageJobs:getPercentage", "job", "job_id"),
    "ListJobs": _reads("ims:imageJobs:getPercentage", "job"),
    "WatchJob": _reads("ims:imageJobs:getPercentage", "job", "job_id"),
    "CancelJob": _changes("cancelJob", "ims:imageJobs:cancel", "job", "job_id"),
}

_MEMBERS = {
    "AddMembers": _changes("addMember", "ims:images:share", "member"),
    "UpdateMembers": _changes("updateMember", "ims:images:share", "member"),
    "RemoveMembers": _changes("deleteMemeber", "ims:images:share", "member"),
    "ListMembers": _reads("ims:images:get", "member", "image_id"),
    "GetMember": _reads("ims:images:get", "member", "image_id"),
}

_TAGS = {
    "SetImageTags": _changes("addTag", "ims:images:update", **_IMAGE),
    "DeleteImageTags": _changes("deleteTag", "ims:images:update", **_IMAGE),
    "GetImageTags": _reads("ims:images:list", **_IMAGE),
    "ListTags": _reads("ims:images:list"),
    "FindImagesByTags": _reads("ims:images:list"),
    "CountImagesByTags": _reads("ims:images:list"),
}

_QUOTAS = {
    "GetQuotas": _reads("ims:quotas:get", "quota"),
    "SetQuota": _changes("setQuota", "ims:quotas:set", "quota", "resource"),
    "ListLimits": _reads(OPEN, "limit"),
    "ListUsage": _reads("ims:usage:get", "usage"),
}

_BUCKETS = {
    "ListBuckets": _reads("ims:buckets:list", "bucket"),
    "ListObjects": _reads("ims:buckets:list", "bucket", "bucket"),
    "StatObject": _reads("ims:buckets:list", "object", "object"),
    "GetObject": _reads("ims:objects:get", "object", "object"),
    "PutObject": _changes("putObject", "ims:objects:put", "object", "object"),
    "DeleteObject": _changes("deleteObject", "ims:objects:delete", "object", "object"),
}

_ATTACHMENTS = {
    # The bytes leave the service, as by a download.
    "AttachImage": _changes("attachImage", "ims:images:export", **_IMAGE),
    "GetAttachment": _reads("ims:images:get", "attachment", "attachment_id"),
    "ListAttachments": _reads("ims:images:list", "attachment"),
    "DetachImage": _changes("detachImage", "ims:images:export", "attachment", "attachment_id"),
}

_IDENTITY = {
    "GetCaller": _reads(OPEN, "caller"),
    "CreateProject": _changes("createProject", "ims:identity:manage", "project", "id"),
    "ListProjects": _reads(OPEN, "project"),
    "DeleteProject": _changes("deleteProject", "ims:identity:manage", "project", "id"),
    "CreateUser": _changes("createUser", "ims:identity:manage", "user", "id"),
    "ListUsers": _reads("ims:identity:get", "user"),
    "DeleteUser": _changes("deleteUser", "ims:identity:manage", "user", "id"),
    "CreateGroup": _changes("createGroup", "ims:identity:manage", "group", "id"),
    "ListGroups": _reads("ims:identity:get", "group"),
    "DeleteGroup": _changes("deleteGroup", "ims:identity:manage", "group", "id"),
    "SetGroupMembers": _changes("updateGroup", "ims:identity:manage", "group", "id"),
    "GrantRole": _changes("grantRole", "ims:identity:manage", "role", "principal_id"),
    "RevokeRole": _changes("revokeRole", "ims:identity:manage", "role", "principal_id"),
    "ListRoleGrants": _reads("ims:identity:get", "role"),
    "CreateToken": _changes("createToken", "ims:tokens:create", "token"),
    "ListTokens": _reads("ims:tokens:list", "token"),
    "RevokeToken": _changes("revokeToken", "ims:tokens:revoke", "token", "token_id"),
}

_POLICIES = {
    "ListRoles": _reads(OPEN, "role"),
    "ListActions": _reads(OPEN, "action"),
    "CheckPolicy": _reads("ims:policies:check", "policy"),
}

_TRACES = {
    "ListTraces": _reads(_TRACE_READING, "trace"),
    "GetTrace": _reads(_TRACE_READING, "trace", "trace_id"),
    "ExportTraces": _reads(_TRACE_READING, "trace"),
    "VerifyTraces": _reads(_TRACE_READING, "trace"),
}

_CATALOG = {
    "ListFormats": _reads(OPEN, "catalog"),
    "ListOsVersions": _reads(OPEN, "catalog"),
    "GetServiceInfo": _reads(OPEN, "catalog"),
}

_KEY: Final[Mapping[str, Any]] = {"resource": "key", "id_field": "key_id"}

# Names of traces are those of the hosted service's KMS.
_KEYS = {
    "CreateKey": _changes("createKey", "ims:keys:manage", "key"),
    "GetKey": _reads("ims:keys:get", **_KEY),
    "ListKeys": _reads("ims:keys:list", "key"),
    "UpdateKey": _changes("updateKey", "ims:keys:manage", **_KEY),
    "EnableKey": _changes("enableKey", "ims:keys:manage", **_KEY),
    "DisableKey": _changes("disableKey", "ims:keys:manage", **_KEY),
    "RotateKey": _changes("rotateKey", "ims:keys:manage", **_KEY),
    "ScheduleKeyDeletion": _changes("scheduleKeyDeletion", "ims:keys:manage", **_KEY),
    "CancelKeyDeletion": _changes("cancelKeyDeletion", "ims:keys:manage", **_KEY),
}

# "ims:stores:get" tells of all projects; so does what is done for a store.
_STORE_UPKEEP = {
    "GetStoreSpace": _reads("ims:stores:get", "store", "store"),
    "ScrubStore": _changes("scrubStore", "ims:stores:manage", "store", "store"),
    "ListScrubDamage": _reads("ims:stores:get", "store", "store"),
    "RepackStore": _changes("repackStore", "ims:stores:manage", "store", "store"),
}

_DRIVERS = {"ListDrivers": _reads("ims:drivers:list", "driver")}

_STORES = {
    "ListStores": _reads("ims:stores:get", "store"),
    "GetStoreUsage": _reads("ims:stores:get", "store", "store"),
    "CheckStore": _changes("checkStore", "ims:stores:manage", "store", "store"),
}

_SERVICES = {
    "ImageService": _IMAGES,
    "UploadService": _UPLOADS,
    "JobService": _JOBS,
    "MemberService": _MEMBERS,
    "TagService": _TAGS,
    "QuotaService": _QUOTAS,
    "BucketService": _BUCKETS,
    "AttachmentService": _ATTACHMENTS,
    "IdentityService": _IDENTITY,
    "PolicyService": _POLICIES,
    "TraceService": _TRACES,
    "CatalogService": _CATALOG,
    "DriverService": _DRIVERS,
    "StoreUpkeepService": _STORE_UPKEEP,
    "KeyService": _KEYS,
    "StoreService": _STORES,
}

# By the name of the call, as "imsd.v1.ImageService/GetImage".
OPERATIONS: Mapping[str, Operation] = {
    f"{PACKAGE}.{service}/{call}": operation
    for service, calls in _SERVICES.items()
    for call, operation in calls.items()
}

ACTIONS: Final = tuple(sorted({action for each in OPERATIONS.values() for action in each.all_actions}))

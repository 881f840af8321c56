"""The one table from errors to gRPC statuses, and how an error is written on the wire."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from imsd import contract
from imsd.contract import ImsError

DOMAIN = "imsd"

CODES: dict[type[ImsError], int] = {
    contract.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    contract.NotFound: code_pb2.NOT_FOUND,
    contract.AlreadyExists: code_pb2.ALREADY_EXISTS,
    contract.FailedPrecondition: code_pb2.FAILED_PRECONDITION,
    contract.Conflict: code_pb2.ABORTED,
    contract.ImageRefused: code_pb2.INVALID_ARGUMENT,
    contract.LimitExceeded: code_pb2.RESOURCE_EXHAUSTED,
    contract.PermissionDenied: code_pb2.PERMISSION_DENIED,
    contract.Unauthenticated: code_pb2.UNAUTHENTICATED,
    contract.Unavailable: code_pb2.UNAVAILABLE,
    contract.DataLoss: code_pb2.DATA_LOSS,
    contract.Cancelled: code_pb2.CANCELLED,
}

# The hosted service's code for the very same condition; of most conditions it has none, or several.
IMG_CODES = {
    "BUCKET_NAME_EMPTY": "IMG.0068",
    "BUCKET_NAME_INVALID": "IMG.0109",
    "BUCKET_NOT_FOUND": "IMG.0069",
    "BUCKET_UNSUITED": "IMG.0058",
    "DESCRIPTION_INVALID": "IMG.0054",
    "DESCRIPTION_TOO_LONG": "IMG.0004",
    "ENCRYPTED_IMAGE_UNSUITED": "IMG.0098",
    "ENCRYPTION_UNSUITED": "IMG.0118",
    "EXPORT_REFUSED": "IMG.0079",
    "EXPORT_TOO_LARGE": "IMG.0160",
    "FAST_IMPORT_UNSUITED": "IMG.0158",
    "FORMAT_MISMATCH": "IMG.0057",
    "FORMAT_UNSUPPORTED": "IMG.0072",
    "IMAGE_EMPTY": "IMG.0057",
    "IMAGE_FILE_TOO_LARGE": "IMG.0059",
    "IMAGE_NAME_INVALID": "IMG.0003",
    "IMAGE_NAME_MISSING": "IMG.0013",
    "IMAGE_NAME_TOO_LONG": "IMG.0002",
    "IMAGE_NOT_ACTIVE": "IMG.0046",
    "IMAGE_PROTECTED": "IMG.0091",
    "ISO_OS_VERSION_REQUIRED": "IMG.0166",
    "KEY_UNCHANGED": "IMG.0096",
    "MIN_DISK_TOO_SMALL": "IMG.0055",
    "NOT_OWNER": "IMG.0047",
    "OBJECT_EXISTS": "IMG.0070",
    "OBJECT_NAME_EMPTY": "IMG.0073",
    "OBJECT_NAME_HAS_SPACE": "IMG.0175",
    "OBJECT_NAME_INVALID": "IMG.0075",
    "OBJECT_NAME_TOO_LONG": "IMG.0074",
    "OBJECT_NOT_FOUND": "IMG.0121",
    # Not IMG.0161, "no permission": of all codes this one alone goes with HTTP 403 (contract §13).
    "OS_VERSION_REQUIRED": "IMG.0159",
    "PERMISSION_DENIED": "IMG.0026",
    "PROJECT_REQUIRED": "IMG.0104",
    "PROJECT_UNKNOWN": "IMG.0108",
    "SHARE_NOT_ACCEPTED": "IMG.0196",
    "SHARE_WITH_OWNER": "IMG.0076",
    "SYSTEM_DISK_TOO_LARGE": "IMG.0111",
    "TOKEN_EXPIRED": "IMG.0087",
    "TOKEN_REVOKED": "IMG.0087",
    "TOO_MANY_TAGS": "IMG.0116",
    "UNAUTHENTICATED": "IMG.0087",
}
# Of reasons for which calls have codes of their own, by the call.
IMG_CODES_OF_CALLS = {
    ("CreateImage", "IMAGE_KIND_UNSUITED"): "IMG.0167",
    ("CreateUpload", "IMAGE_KIND_UNSUITED"): "IMG.0167",
    ("ExportImage", "ENCRYPTED_IMAGE_UNSUITED"): "IMG.0071",
    ("ExportImage", "IMAGE_KIND_UNSUITED"): "IMG.0167",
    ("ExportImage", "IMAGE_PUBLIC"): "IMG.0077",
    ("ExportImage", "IMAGE_PUBLISHED"): "IMG.0078",
    ("DeleteImage", "FAILED_PRECONDITION"): "IMG.0090",
    ("DeleteImage", "IMAGE_PUBLIC"): "IMG.0094",
    ("DeleteImage", "IMAGE_PUBLISHED"): "IMG.0093",
    ("DeleteImage", "NOT_OWNER"): "IMG.0092",
    ("PublishImage", "IMAGE_KIND_UNSUITED"): "IMG.0124",
    ("PublishImage", "IMAGE_PUBLIC"): "IMG.0083",
    ("PublishImage", "IMAGE_SHARED"): "IMG.0052",
    ("SetImageVisibility", "IMAGE_KIND_UNSUITED"): "IMG.0125",
    ("SetImageVisibility", "IMAGE_PUBLISHED"): "IMG.0049",
    ("UpdateImage", "IMAGE_KIND_UNSUITED"): "IMG.0168",
}
IMG_CODES_OF_QUOTAS = {
    "image_members": "IMG.0088",
    "images": "IMG.0015",
    "shared_images": "IMG.0088",
}
IMG_CODES_OF_FIELDS = {
    "architecture": "IMG.0212",
    "boot_mode": "IMG.0141",
    "enterprise_project_id": "IMG.0155",
    "filter.server_type": "IMG.0192",
    "image_id": "IMG.0066",
    "image_ids": "IMG.0066",
    "kind": "IMG.0157",
    "max_ram_mb": "IMG.0055",
    "member_project_id": "IMG.0067",
    "member_project_ids": "IMG.0067",
    "min_disk_gb": "IMG.0055",
    "min_ram_mb": "IMG.0055",
    "object": "IMG.0017",  # not BUCKET:OBJECT; what is wrong with a part has a code of its own
    "os_type": "IMG.0056",
    "project_id": "IMG.0067",
    "replacement_image_id": "IMG.0066",
    "server_kind": "IMG.0024",
    "tags": "IMG.0115",
    "target": "IMG.0017",
}
# Of reasons for which the field at fault decides; any other field has no code.
IMG_CODES_BY_FIELD = {
    "INVALID_REQUEST": IMG_CODES_OF_FIELDS,
    "NOT_FOUND": {
        "image_id": "IMG.0027",
        "properties": "IMG.0035",  # of one to be removed (contract §3.9)
        "replacement_image_id": "IMG.0027",
    },
    "QUOTA_EXCEEDED": IMG_CODES_OF_QUOTAS,
    # Of the key that is to encrypt, and of the one that an image has.
    "KEY_DISABLED": {"key": "IMG.0097", "image_id": "IMG.0102"},
    "KEY_NOT_FOUND": {"key": "IMG.0095", "image_id": "IMG.0101"},
    "KEY_PENDING_DELETION": {"key": "IMG.0097", "image_id": "IMG.0102"},
    "KEY_SERVICE_DENIED": {"key": "IMG.0099", "image_id": "IMG.0103"},
}


def status_of(error: ImsError, method: str = "") -> grpc.Status:
    """The status a client sees: code, sentence, and ErrorInfo with reason, hint, field and IMG code.

    ``method``: of the call that failed, "/imsd.v1.ImageService/GetImage" for example.
    """
    details = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.hint:
        details.metadata["hint"] = error.hint
    if error.field:
        details.metadata["field"] = error.field
    if code := img_code(error.reason, error.field, method.rpartition("/")[2]):
        details.metadata["img_code"] = code
    packed = any_pb2.Any()
    packed.Pack(details)
    status = CODES.get(type(error), code_pb2.INTERNAL)
    return rpc_status.to_status(status_pb2.Status(code=status, message=error.message, details=[packed]))


def img_code(reason: str, field: str = "", call: str = "") -> str:
    """The hosted service's code for an error of ``call``, empty if it has none."""
    if code := IMG_CODES_OF_CALLS.get((call, reason)):
        return code
    if by_field := IMG_CODES_BY_FIELD.get(reason):
        return by_field.get(field, "")
    return IMG_CODES.get(reason, "")


def defect() -> ImsError:
    """What a client sees of an exception that is not an `ImsError`."""
    return ImsError("an internal error", reason="INTERNAL", hint="the daemon's log has the details")

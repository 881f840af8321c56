"""An error on the wire: status, reason, and what goes with it."""

import re

import pytest
from google.rpc import error_details_pb2, status_pb2

from imsd.contract import FailedPrecondition, ImsError, InvalidRequest, PermissionDenied
from imsd.core.actions import OPERATIONS
from imsd.grpc_server.error_mapping import IMG_CODES, IMG_CODES_OF_CALLS, status_of
from imsd.v1 import error_reason_pb2


def metadata_of(error: ImsError, method: str = "") -> dict[str, str]:
    [(_, packed)] = status_of(error, method).trailing_metadata
    status = status_pb2.Status.FromString(packed)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == error.reason
    return dict(info.metadata)


def test_an_error_carries_its_hint_and_the_hosted_services_code() -> None:
    error = FailedPrecondition("it is protected", reason="IMAGE_PROTECTED", hint="clear is_protected first")
    assert metadata_of(error) == {"hint": "clear is_protected first", "img_code": "IMG.0091"}


def test_a_bad_field_has_the_code_of_the_field() -> None:
    assert metadata_of(InvalidRequest("no id", field="image_id")) == {
        "field": "image_id",
        "img_code": "IMG.0066",
    }


def test_a_condition_the_hosted_service_does_not_know_has_no_code() -> None:
    assert "img_code" not in metadata_of(InvalidRequest("no upload id", field="upload_id"))


def test_every_code_belongs_to_a_known_reason() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name, _ in error_reason_pb2.ErrorReason.items()}
    assert set(IMG_CODES) <= known


def test_every_code_of_a_call_belongs_to_one_that_exists_and_differs_from_the_common_one() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name, _ in error_reason_pb2.ErrorReason.items()}
    calls = {method.rpartition("/")[2] for method in OPERATIONS}
    for (call, reason), code in IMG_CODES_OF_CALLS.items():
        assert (call in calls, reason in known) == (True, True), (call, reason)
        assert re.fullmatch(r"IMG\.\d{4}", code)
        assert code != IMG_CODES.get(reason)


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ("DeleteImage", FailedPrecondition("being made"), "IMG.0090"),
        ("DeleteImage", FailedPrecondition("protected", reason="IMAGE_PROTECTED"), "IMG.0091"),
        ("DeleteImage", PermissionDenied("not yours", reason="NOT_OWNER"), "IMG.0092"),
        ("DeleteImage", FailedPrecondition("published", reason="IMAGE_PUBLISHED"), "IMG.0093"),
        ("DeleteImage", FailedPrecondition("public", reason="IMAGE_PUBLIC"), "IMG.0094"),
        ("UpdateImage", FailedPrecondition("data", reason="IMAGE_KIND_UNSUITED"), "IMG.0168"),
        ("UpdateImage", PermissionDenied("not yours", reason="NOT_OWNER"), "IMG.0047"),
        ("PublishImage", FailedPrecondition("shared", reason="IMAGE_SHARED"), "IMG.0052"),
        ("SetImageVisibility", FailedPrecondition("data", reason="IMAGE_KIND_UNSUITED"), "IMG.0125"),
        ("ListImages", InvalidRequest("flavour", field="filter.server_type"), "IMG.0192"),
        ("AddMembers", InvalidRequest("no id", field="image_ids"), "IMG.0066"),
        ("AddMembers", InvalidRequest("no id", field="member_project_ids"), "IMG.0067"),
    ],
)
def test_the_code_is_that_of_the_call(call: str, error: ImsError, code: str) -> None:
    method = next(method for method in OPERATIONS if method.endswith(f"/{call}"))
    assert metadata_of(error, f"/{method}")["img_code"] == code

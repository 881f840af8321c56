"""An error on the wire: status, reason, and what goes with it."""

from google.rpc import error_details_pb2, status_pb2

from imsd.contract import FailedPrecondition, ImsError, InvalidRequest
from imsd.grpc_server.error_mapping import IMG_CODES, status_of
from imsd.v1 import error_reason_pb2


def metadata_of(error: ImsError) -> dict[str, str]:
    [(_, packed)] = status_of(error).trailing_metadata
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

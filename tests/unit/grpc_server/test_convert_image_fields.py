"""An image on the wire says all that its record says."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from imsd.contract import InvalidRequest
from imsd.grpc_server import convert_image_fields as fields
from imsd.guest.report import not_inspected
from imsd.metadata.records import ImageKind, ImageStatus, MemberStatus, OriginKind, ServerKind, Visibility
from imsd.v1 import guest_pb2, image_pb2
from tests.unit.metadata.samples import an_image

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_every_attribute_comes_over_the_wire() -> None:
    image = fields.image_to_pb(
        an_image(
            origin_image_id="o",
            description="d",
            status=ImageStatus.PENDING_DELETE,
            disk_format="qcow2",
            virtual_size=1,
            data_size=1,
            stored_size=1,
            new_size=1,
            digest="b3t:0",
            min_disk_gb=1,
            min_ram_mb=1,
            max_ram_mb=1,
            os_version="v",
            architecture="arm",
            boot_mode="uefi",
            is_protected=True,
            tags={"a": "b"},
            properties={"c": "d"},
            findings=({"code": "X", "message": "x"},),
            guest=json.loads(not_inspected("nobody looks").to_json()),
            active_at=NOW,
            visibility=Visibility.SHARED,
            key_id="k",
            kind=ImageKind.DATA_DISK,
            server_kind=ServerKind.BARE_METAL,
            os_type="windows",
            os_bits=32,
            platform="Windows",
            family="f",
            deprecated_at=NOW,
            replacement_image_id="r",
            is_published=True,
            product_code="p",
            deleted_at=NOW,
            purge_at=NOW,
            origin_kind=OriginKind.OBJECT,
            origin="a:b",
            is_fast_imported=True,
            server_support={"has_kvm": True, "kvm_gpu_type": "V100"},
            has_nic_multiqueue=True,
            shutdown_timeout_seconds=90,
            is_guest_configured=True,
            license_type="byol",
            enterprise_project_id="e",
            agents=("hss",),
            os_features="{}",
            has_no_credential_injection=True,
            member_status=MemberStatus.REJECTED,
        )
    )
    said = {field.name for field, _ in image.ListFields()}
    assert {field.name for field in image_pb2.Image.DESCRIPTOR.fields} - said == set()
    assert image.kind == image_pb2.IMAGE_KIND_DATA_DISK
    assert image.server_support == image_pb2.ServerSupport(has_kvm=True, kvm_gpu_type="V100")
    assert image.os_type == guest_pb2.OS_TYPE_WINDOWS
    assert image.deprecation.replacement_image_id == "r"
    assert image.member_status == image_pb2.MEMBER_STATUS_REJECTED


def test_what_is_not_known_is_unset() -> None:
    image = fields.image_to_pb(an_image())
    assert not image.HasField("deprecation")
    assert not image.HasField("purge_at")
    assert (image.os_type, image.origin_kind, image.license_type, image.member_status) == (0, 0, 0, 0)
    assert image.HasField("server_support")


@pytest.mark.parametrize(
    "convert",
    [
        fields.kind_from_pb,
        fields.server_kind_from_pb,
        fields.os_type_from_pb,
        fields.license_type_from_pb,
        fields.visibility_from_pb,
        fields.architecture_from_pb,
        fields.boot_mode_from_pb,
    ],
)
def test_a_number_nobody_knows_is_refused(convert: object) -> None:
    assert callable(convert)
    assert convert(0) == ""
    for number in (99, -1, 2**31 - 1):
        with pytest.raises(InvalidRequest):
            convert(number)


def test_marks_come_back_as_they_went() -> None:
    marks = image_pb2.ServerSupport(has_kvm=True, xen_gpu_type="M60_vGPU")
    kept = {name: value for name, value in fields.server_support_from_pb(marks).items() if value}
    assert fields.image_to_pb(an_image(server_support=kept)).server_support == marks

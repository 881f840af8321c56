"""Which image may be exported, as what: the rows of Table 5-5, and contract §9.1 and §10.3."""

from __future__ import annotations

from typing import Any

import pytest

from imsd.contract import FailedPrecondition, ImsError, InvalidRequest, LimitExceeded, PermissionDenied
from imsd.core.export_rules import ExportPolicy, export_format, require_exportable
from imsd.core.service_limits import GIB, TIB
from imsd.grpc_server.error_mapping import status_of
from imsd.metadata.records import ImageKind, ImageStatus, Visibility
from tests.unit.core.core_world import some_limits
from tests.unit.metadata.samples import an_image

OWNER = "lab"
POLICY = ExportPolicy(some_limits(), ("Ubuntu",))


def refusal(disk_format: str = "qcow2", project: str = OWNER, **values: Any) -> ImsError:
    with pytest.raises(ImsError) as refused:
        require_exportable(project, an_image(**values), disk_format, POLICY)
    assert refused.value.hint
    return refused.value


def img_code(error: ImsError) -> str:
    details = dict(status_of(error, "/imsd.v1.ImageService/ExportImage").trailing_metadata)
    found = [code for code in details.values() if b"IMG." in code]
    return found[0].split(b"IMG.")[1][:4].decode() if found else ""


@pytest.mark.parametrize("disk_format", ["vmdk", "vhd", "qcow2", "zvhd"])
def test_table_5_5_formats_of_exported_image_files(disk_format: str) -> None:
    assert export_format(disk_format, is_fast=False) == disk_format
    assert export_format("", is_fast=True) == "zvhd2"


@pytest.mark.parametrize(
    ("disk_format", "is_fast", "reason"),
    [
        ("", False, "INVALID_REQUEST"),
        ("raw", False, "FORMAT_UNSUPPORTED"),
        ("vhdx", False, "FORMAT_UNSUPPORTED"),
        ("zvhd2", False, "FORMAT_UNSUPPORTED"),
        ("iso", False, "FORMAT_UNSUPPORTED"),
        ("qcow2", True, "INVALID_REQUEST"),
        ("zvhd2", True, "INVALID_REQUEST"),
    ],
)
def test_any_other_format_is_refused(disk_format: str, is_fast: bool, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        export_format(disk_format, is_fast=is_fast)
    assert (refused.value.reason, refused.value.field) == (reason, "disk_format")


def test_an_image_of_the_project_is_exported_whatever_it_is_shared_with() -> None:
    for values in (
        {},
        {"visibility": Visibility.SHARED},
        {"kind": ImageKind.DATA_DISK},
        {"is_protected": True},
    ):
        require_exportable(OWNER, an_image(**values), "qcow2", POLICY)


@pytest.mark.parametrize("status", [status for status in ImageStatus if status is not ImageStatus.ACTIVE])
def test_table_5_5_private_image_status(status: ImageStatus) -> None:
    error = refusal(status=status)
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, img_code(error)) == ("IMAGE_NOT_ACTIVE", "0046")


def test_table_5_5_an_iso_image_is_not_exported() -> None:
    error = refusal(kind=ImageKind.ISO)
    assert (error.reason, img_code(error)) == ("IMAGE_KIND_UNSUITED", "0167")


@pytest.mark.parametrize("platform", ["Ubuntu", "ubuntu"])
def test_table_5_5_an_image_created_from_an_ubuntu_public_image_is_not_exported(platform: str) -> None:
    error = refusal(public_platform=platform)
    assert (error.reason, img_code(error)) == ("EXPORT_REFUSED", "0079")
    require_exportable(OWNER, an_image(public_platform="Debian"), "qcow2", POLICY)
    require_exportable(OWNER, an_image(platform="Ubuntu"), "qcow2", POLICY)


def test_table_5_5_images_larger_than_128_gb_only_support_fast_export() -> None:
    require_exportable(OWNER, an_image(data_size=128 * GIB), "qcow2", POLICY)
    error = refusal(data_size=128 * GIB + 1)
    assert isinstance(error, LimitExceeded)
    assert (error.reason, img_code(error)) == ("EXPORT_TOO_LARGE", "0160")
    assert "fast export" in error.hint
    require_exportable(OWNER, an_image(data_size=128 * GIB + 1), "zvhd2", POLICY)
    require_exportable(OWNER, an_image(virtual_size=64 * TIB, data_size=GIB), "qcow2", POLICY)


@pytest.mark.parametrize("disk_format", ["qcow2", "zvhd2"])
def test_table_5_5_maximum_size_of_an_exported_image(disk_format: str) -> None:
    require_exportable(OWNER, an_image(data_size=TIB - 1), "zvhd2", POLICY)
    assert refusal(disk_format, data_size=TIB).reason == "EXPORT_TOO_LARGE"


def test_contract_9_1_a_public_image_is_not_exported() -> None:
    for project in (OWNER, "other"):
        error = refusal(project=project, visibility=Visibility.PUBLIC)
        assert (error.reason, img_code(error)) == ("IMAGE_PUBLIC", "0077")


@pytest.mark.parametrize("values", [{"is_published": True}, {"is_market_derived": True}])
def test_contract_9_1_an_image_published_in_or_derived_from_the_marketplace_is_not_exported(
    values: dict[str, Any],
) -> None:
    error = refusal(**values)
    assert (error.reason, img_code(error)) == ("IMAGE_PUBLISHED", "0078")


def test_contract_9_1_an_image_shared_to_me_is_not_exported() -> None:
    error = refusal(project="other", visibility=Visibility.SHARED)
    assert isinstance(error, PermissionDenied)
    assert (error.reason, img_code(error)) == ("NOT_OWNER", "0047")

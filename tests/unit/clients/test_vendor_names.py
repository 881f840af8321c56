"""The names of the hosted service: all of them, and back again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from ims_client import vendor_jobs, vendor_names, vendor_values

from imsd.grpc_server.convert_image_change import FIXED
from imsd.guest.catalogue.listing import listed_systems
from imsd.v1 import guest_pb2, job_pb2, member_pb2
from imsd.v1 import image_pb2 as pb

# Every attribute of the contract's §5, in its order.
BASE = [
    "id",
    "name",
    "status",
    "visibility",
    "owner",
    "protected",
    "container_format",
    "disk_format",
    "min_disk",
    "min_ram",
    "max_ram",
    "size",
    "virtual_size",
    "checksum",
    "tags",
    "created_at",
    "updated_at",
    "active_at",
    "deleted",
    "deleted_at",
    "self",
    "file",
    "schema",
    "virtual_env_type",
    "enterprise_project_id",
    "_sys_enterprise_project_id",
    "hw_firmware_type",
    "hw_vif_multiqueue_enabled",
    "os_shutdown_timeout",
]
UNDERSCORED = [
    "__imagetype",
    "__isregistered",
    "__image_source_type",
    "__image_size",
    "__image_location",
    "__image_displayname",
    "__description",
    "__os_type",
    "__os_bit",
    "__os_version",
    "__platform",
    "__originalimagename",
    "__data_origin",
    "__root_origin",
    "__backup_id",
    "__whole_image",
    "__lazyloading",
    "__sequence_num",
    "__system__cmkid",
    "__is_config_init",
    "__productcode",
    "__account_code",
    "__is_offshelved",
    "__system_support_market",
    "__os_feature_list",
    "__support_agent_list",
    "__support_fc_inject",
    "__support_kvm",
    "__support_xen",
    "__support_largememory",
    "__support_diskintensive",
    "__support_highperformance",
    "__support_xen_gpu_type",
    "__support_kvm_gpu_type",
    "__support_xen_hana",
    "__support_kvm_infiniband",
    "__support_arm",
    "__support_amd",
    "__support_kvm_hi1822_hisriov",
    "__support_kvm_hi1822_hivirtionet",
    "__support_kvm_fpga_type",
    "__support_nvme_highio",
    "__support_gpu_t4",
    "__support_kvm_ascend_310",
    "__support_kvm_hi1822_hiovs",
    "__support_s4l",
]
# What an update may name there (§3.9), beside free attributes.
PATCHABLE = [
    "name",
    "__description",
    "__support_kvm",
    "__support_xen",
    "__support_largememory",
    "__support_diskintensive",
    "__support_highperformance",
    "__support_xen_gpu_type",
    "__support_kvm_gpu_type",
    "__support_xen_hana",
    "__support_kvm_infiniband",
    "__support_fc_inject",
    "__support_amd",
    "__support_kvm_hi1822_hisriov",
    "__support_kvm_hi1822_hivirtionet",
    "__is_config_init",
    "enterprise_project_id",
    "min_ram",
    "max_ram",
    "hw_vif_multiqueue_enabled",
    "hw_firmware_type",
    "os_shutdown_timeout",
]
NOON = Timestamp(seconds=1_730_873_984)


def an_image() -> pb.Image:
    image = pb.Image(
        id="11111111-2222-4333-8444-555555555555",
        name="web-base",
        status=pb.IMAGE_STATUS_ACTIVE,
        visibility=pb.VISIBILITY_PRIVATE,
        project_id="0123456789abcdef0123456789abcdef",
        disk_format=pb.DISK_FORMAT_ZVHD2,
        min_disk_gb=40,
        max_ram_mb=8192,
        tags={"team": "web", "bare": ""},
        digest="b3t:" + "0" * 64,
        stored_size_bytes=1189347328,
        kind=pb.IMAGE_KIND_SYSTEM_DISK,
        server_kind=pb.SERVER_KIND_VIRTUAL,
        enterprise_project_id="0",
        boot_mode=guest_pb2.BOOT_MODE_BIOS,
        has_nic_multiqueue=True,
        shutdown_timeout_seconds=60,
        os_type=guest_pb2.OS_TYPE_LINUX,
        os_bits=64,
        platform="Ubuntu",
        os_version="Ubuntu 18.04 Server 64bit",
        origin_kind=pb.ORIGIN_KIND_OBJECT,
        origin="images:web.qcow2",
        server_support=pb.ServerSupport(has_kvm=True),
        properties={"color": "blue"},
    )
    for field in (image.created_at, image.updated_at, image.active_at):
        field.CopyFrom(NOON)
    return image


def test_every_attribute_of_the_contract_is_there_once_and_no_other() -> None:
    assert sorted(attribute.name for attribute in vendor_names.ATTRIBUTES) == sorted([*BASE, *UNDERSCORED])


def test_every_attribute_has_a_field_or_says_why_not() -> None:
    fields = {field.name for field in pb.Image.DESCRIPTOR.fields}
    marks = {field.name for field in pb.ServerSupport.DESCRIPTOR.fields}
    for attribute in vendor_names.ATTRIBUTES:
        for path in attribute.fields:
            head, _, mark = path.partition(".")
            assert head in fields, attribute
            assert not mark or mark in marks, attribute
        is_constant = attribute.write(pb.Image()) == attribute.write(an_image())
        assert attribute.fields or attribute.note or is_constant, attribute
    named = {path.partition(".")[2] for each in vendor_names.ATTRIBUTES for path in each.fields}
    assert marks <= named


def test_an_image_is_written_as_the_contract_shows_one() -> None:
    written = vendor_names.to_vendor(an_image())
    assert json.loads(json.dumps(written)) == {
        "id": "11111111-2222-4333-8444-555555555555",
        "name": "web-base",
        "status": "active",
        "visibility": "private",
        "owner": "0123456789abcdef0123456789abcdef",
        "protected": False,
        "container_format": "bare",
        "disk_format": "zvhd2",
        "min_disk": 40,
        "min_ram": 0,
        "max_ram": "8192",
        "size": 0,
        "virtual_size": None,
        "checksum": "d41d8cd98f00b204e9800998ecf8427e",
        "tags": ["bare", "team=web"],
        "created_at": "2024-11-06T06:19:44Z",
        "updated_at": "2024-11-06T06:19:44Z",
        "active_at": "2024-11-06T06:19:44Z",
        "self": "/v2/images/11111111-2222-4333-8444-555555555555",
        "file": "/v2/images/11111111-2222-4333-8444-555555555555/file",
        "schema": "/v2/schemas/image",
        "virtual_env_type": "FusionCompute",
        "enterprise_project_id": "0",
        "_sys_enterprise_project_id": "0",
        "hw_firmware_type": "bios",
        "hw_vif_multiqueue_enabled": "true",
        "os_shutdown_timeout": "60",
        "__imagetype": "private",
        "__isregistered": "true",
        "__image_source_type": "uds",
        "__image_size": "1189347328",
        "__image_displayname": "web-base",
        "__os_type": "Linux",
        "__os_bit": "64",
        "__platform": "Ubuntu",
        "__os_version": "Ubuntu 18.04 Server 64bit",
        "__description": "",
        "__data_origin": "file,images:web.qcow2",
        "__root_origin": "file",
        "__originalimagename": "",
        "__lazyloading": "true",
        "__system_support_market": True,
        "__support_kvm": "true",
        "color": "blue",
    }


def test_only_one_attribute_is_ever_null_and_no_mark_is_ever_false() -> None:
    for image in (pb.Image(), an_image()):
        written = vendor_names.to_vendor(image)
        assert [name for name, value in written.items() if value is None] == ["virtual_size"]
        assert not [
            name for name, value in written.items() if name.startswith("__support") and value == "false"
        ]


def every_value() -> list[pb.Image]:
    """Images with another value in each attribute that can be read."""
    one, other = an_image(), an_image()
    one.description, one.product_code, one.os_features = "d", "p", "{}"
    one.has_no_credential_injection = one.is_guest_configured = one.is_protected = True
    one.agents.extend(["hss", "ces"])
    one.os_version, one.platform = "Other_Linux (32_bit)", "SUSE Linux Enterprise"
    one.visibility, one.is_published = pb.VISIBILITY_SHARED, True
    one.origin_image_id = one.id
    for field in pb.ServerSupport.DESCRIPTOR.fields:
        setattr(one.server_support, field.name, True if field.name.startswith("has_") else "V100")
    other.kind, other.server_kind = pb.IMAGE_KIND_SYSTEM_DISK, pb.SERVER_KIND_BARE_METAL
    other.boot_mode, other.os_type = guest_pb2.BOOT_MODE_UEFI, guest_pb2.OS_TYPE_OTHER
    data, disc = an_image(), an_image()
    data.kind, disc.kind = pb.IMAGE_KIND_DATA_DISK, pb.IMAGE_KIND_ISO
    disc.disk_format = pb.DISK_FORMAT_ISO
    return [one, other, data, disc]


@pytest.mark.parametrize("image", every_value(), ids=["marks", "bare-metal", "data", "iso"])
def test_what_is_written_is_read_back(image: pb.Image) -> None:
    read = vendor_names.from_vendor(vendor_names.to_vendor(image))
    for attribute in vendor_names.ATTRIBUTES:
        if attribute.read is not None:
            assert attribute.write(read) == attribute.write(image), attribute.name
    lost = pb.Image()
    lost.CopyFrom(image)
    for name in ("digest", "stored_size_bytes", "origin_kind", "origin"):
        lost.ClearField(name)  # these only follow
    assert read == lost


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"min_disk": "many"}, "min_disk"),
        ({"min_ram": 1.5}, "min_ram"),
        ({"max_ram": "9" * 40}, "max_ram"),
        ({"min_disk": True}, "min_disk"),
        ({"min_ram": 1 << 40}, "min_ram"),
        ({"__support_kvm": "yes"}, "__support_kvm"),
        ({"protected": "1"}, "protected"),
        ({"virtual_env_type": "Toaster"}, "virtual_env_type"),
        ({"virtual_env_type": ["x"]}, "virtual_env_type"),
        ({"hw_firmware_type": "openfirmware"}, "hw_firmware_type"),
        ({"__os_type": 7}, "__os_type"),
        ({"disk_format": "vmdk"}, "disk_format"),
        ({"tags": "a=b"}, "tags"),
        ({"tags": ["a=1", "a=2"]}, "tags"),
        ({"tags": [{"key": "a"}]}, "tags"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"name": None, "visibility": "secret"}, "visibility"),
    ],
)
def test_what_is_no_value_is_refused_by_its_name(attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}: "):
        vendor_names.from_vendor(attributes)


def test_an_attribute_that_nobody_knows_is_a_property() -> None:
    assert dict(vendor_names.from_vendor({"color": "blue"}).properties) == {"color": "blue"}
    assert vendor_names.update_paths("color") == ("properties.color",)
    with pytest.raises(ValueError, match=r"^color: .* is no text"):
        vendor_names.from_vendor({"color": ["blue"]})


def test_a_property_takes_the_place_of_no_attribute() -> None:
    image = an_image()
    image.properties["__os_type"] = "Windows"
    assert vendor_names.to_vendor(image)["__os_type"] == "Linux"


@pytest.mark.parametrize("name", PATCHABLE)
def test_what_can_be_updated_there_can_be_updated_here(name: str) -> None:
    paths = vendor_names.update_paths(name)
    assert paths
    assert not {path.partition(".")[0] for path in paths} & FIXED


def test_what_only_follows_cannot_be_set() -> None:
    for name in ("self", "__image_size", "__data_origin", "checksum", "__whole_image"):
        assert vendor_names.update_paths(name) == ()
        assert vendor_names.from_vendor({name: "x"}) == pb.Image()


def test_an_image_that_supports_arm_is_one_for_arm() -> None:
    assert vendor_names.from_vendor({"__support_arm": "true"}).architecture == guest_pb2.ARCHITECTURE_ARM
    assert (
        vendor_names.from_vendor({"__support_arm": "false"}).architecture
        == guest_pb2.ARCHITECTURE_UNSPECIFIED
    )


def test_credential_injection_is_inverted() -> None:
    assert vendor_names.from_vendor({"__support_fc_inject": "true"}).has_no_credential_injection
    assert "__support_fc_inject" not in vendor_names.to_vendor(an_image())


def test_flags_are_read_in_any_case_and_as_booleans() -> None:
    for value in ("true", "True", True):
        assert vendor_names.from_vendor({"hw_vif_multiqueue_enabled": value}).has_nic_multiqueue


def test_a_disk_that_came_in_another_format_is_kept_as_zvhd2_there() -> None:
    image = an_image()
    image.disk_format = pb.DISK_FORMAT_VMDK
    assert vendor_names.to_vendor(image)["disk_format"] == "zvhd2"
    image.ClearField("disk_format")
    assert "disk_format" not in vendor_names.to_vendor(image)


@pytest.mark.parametrize(
    ("visibility", "is_published", "expected"),
    [
        (pb.VISIBILITY_PUBLIC, False, "gold"),
        (pb.VISIBILITY_PRIVATE, False, "private"),
        (pb.VISIBILITY_SHARED, False, "shared"),
        (pb.VISIBILITY_PRIVATE, True, "market"),
    ],
)
def test_the_type_of_an_image_follows_from_who_sees_it(
    visibility: pb.Visibility.ValueType, is_published: bool, expected: str
) -> None:
    image = an_image()
    image.visibility, image.is_published = visibility, is_published
    written = vendor_names.to_vendor(image)
    assert written["__imagetype"] == expected
    is_public = visibility == pb.VISIBILITY_PUBLIC
    assert written["protected"] is is_public
    assert (written["__data_origin"] == "") is is_public


def test_every_platform_and_system_comes_back() -> None:
    for system in listed_systems():
        there = vendor_values.platform(system.platform)
        assert vendor_values.read_platform(there) == system.platform
        assert vendor_values.read_os_version(vendor_values.os_version(system.os_version)) == system.os_version
    assert vendor_values.os_version("Other_Linux (64_bit)") == "Other Linux(64 bit)"
    assert vendor_values.read_os_version("Other Linux(64 bit)") == "Other_Linux (64_bit)"


def test_tags_are_divided_at_the_first_mark() -> None:
    assert vendor_values.read_tags(["a=b=c", "d.e.f", "g", "h.i=j"]) == {
        "a": "b=c",
        "d": "e.f",
        "g": "",
        "h.i": "j",
    }


def test_every_kind_and_state_of_a_job_has_its_name() -> None:
    assert set(vendor_jobs.JOB_TYPES) == set(job_pb2.JobKind.values()) - {0}
    assert set(vendor_jobs.JOB_STATES) == set(job_pb2.JobState.values()) - {0}
    create = job_pb2.Job(kind=job_pb2.JOB_KIND_CREATE_IMAGE)
    assert vendor_jobs.job_type(create) == "imsImportImageJob"
    assert vendor_jobs.job_type(create, pb.Image(kind=pb.IMAGE_KIND_DATA_DISK)) == "imsImportDataImageJob"
    waited = pb.Image(kind=pb.IMAGE_KIND_DATA_DISK, created_at=NOON)
    assert vendor_jobs.job_type(create, waited) == "imsNativeImportImageJob"
    of_package = job_pb2.Job(kind=job_pb2.JOB_KIND_CREATE_IMAGE, parent_job_id="x")
    assert vendor_jobs.job_type(of_package, pb.Image(created_at=NOON)) == "imsImportImageJob"
    assert vendor_jobs.job_type(of_package, waited) == "imsImportDataImageJob"
    create.sub_job_ids.append("x")
    assert vendor_jobs.job_type(create) == "imsImportOvaImageJob"
    assert vendor_jobs.job_type(job_pb2.Job()) == ""


def test_a_member_is_written_as_the_contract_says() -> None:
    member = member_pb2.Member(image_id="i", project_id="p", status=pb.MEMBER_STATUS_PENDING, created_at=NOON)
    assert vendor_jobs.member_to_vendor(member) == {
        "status": "pending",
        "created_at": "2024-11-06T06:19:44Z",
        "updated_at": None,
        "image_id": "i",
        "member_id": "p",
        "schema": "/v2/schemas/member",
    }

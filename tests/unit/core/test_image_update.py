"""Updates of images (contract §3.9): what changes, of which kind, and what never does."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from imsd.contract import Conflict, FailedPrecondition, ImsError, InvalidRequest, NotFound
from imsd.core.image_changes import ImageRef
from imsd.core.image_update import UPDATABLE, UPDATABLE_OF_DATA, ImageUpdates
from imsd.core.runtime import Runtime
from imsd.grpc_server.convert_image_change import FIXED, image_change_from_pb
from imsd.grpc_server.error_mapping import img_code
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, ServerKind
from imsd.v1 import guest_pb2
from imsd.v1 import image_pb2 as pb
from tests.unit.metadata.samples import an_image

GIB = 1 << 30
UUID = "11111111-2222-4333-8444-555555555555"
WAITING = {"status": ImageStatus.QUEUED, "is_prepared": True}
WINDOWS = {"os_version": "Windows 10 64bit", "os_type": "windows"}


@pytest.fixture
def updates(runtime: Runtime) -> ImageUpdates:
    return ImageUpdates(runtime)


async def put(database: Database, **values: Any) -> ImageRecord:
    record = an_image(**values)
    async with database.transaction() as c:
        await image_rows.insert_image(c, record)
    return record


async def update(
    updates: ImageUpdates, record: ImageRecord, *paths: str, etag: str = "", **values: Any
) -> ImageRecord:
    """By a request as it comes over the wire."""
    request = pb.UpdateImageRequest(
        image=pb.Image(**values), update_mask=field_mask_pb2.FieldMask(paths=paths or tuple(values))
    )
    ref = ImageRef(record.project_id, record.id, etag)
    return await updates.update(ref, image_change_from_pb(request))


CHANGES: dict[str, tuple[Any, Any]] = {
    "name": ("new", "new"),
    "description": ("d", "d"),
    "os_version": ("CentOS 7.6 64bit", "CentOS 7.6 64bit"),
    "min_disk_gb": (41, 41),
    "min_ram_mb": (1, 1),
    "max_ram_mb": (9, 9),
    "is_protected": (True, True),
    "boot_mode": (guest_pb2.BOOT_MODE_UEFI, "uefi"),
    "family": ("f", "f"),
    "license_type": (pb.LICENSE_TYPE_BYOL, "byol"),
    "enterprise_project_id": (UUID, UUID),
    "has_nic_multiqueue": (True, True),
    "shutdown_timeout_seconds": (300, 300),
    "is_guest_configured": (True, True),
    "has_no_credential_injection": (True, True),
    "agents": (["hss"], ("hss",)),
    "os_features": ("{}", "{}"),
    "disk_format": (pb.DISK_FORMAT_QCOW2, "qcow2"),
}


def test_every_field_is_tried() -> None:
    assert set(CHANGES) == set(UPDATABLE)


@pytest.mark.parametrize("name", UPDATABLE)
async def test_a_field_changes_and_no_other(updates: ImageUpdates, database: Database, name: str) -> None:
    about: dict[str, dict[str, Any]] = {"license_type": WINDOWS, "disk_format": WAITING}
    record = await put(database, **about.get(name, {}))
    sent, kept = CHANGES[name]
    changed = await update(updates, record, **{name: sent})
    assert getattr(changed, name) == kept
    assert changed.version == 2
    assert changed.updated_at > record.updated_at
    follows = {"os_type", "os_bits", "platform"} if name == "os_version" else set()
    for field in (each.name for each in fields(record)):
        if field not in {name, "version", "updated_at", *follows}:
            assert getattr(changed, field) == getattr(record, field), field


@pytest.mark.parametrize("name", sorted(FIXED))
async def test_what_never_changes_is_refused(updates: ImageUpdates, database: Database, name: str) -> None:
    record = await put(database)
    for path in (name, f"{name}.x"):
        with pytest.raises(InvalidRequest) as refused:
            await update(updates, record, path)
        assert refused.value.reason == "FIELD_NOT_UPDATABLE"


@pytest.mark.parametrize(
    "path", ["", "x", "colour", "properties.", "server_support.has_wings", "tags.a", "name.x", "Name", "*"]
)
async def test_a_path_that_nobody_knows_is_refused(
    updates: ImageUpdates, database: Database, path: str
) -> None:
    record = await put(database)
    with pytest.raises(InvalidRequest) as refused:
        await update(updates, record, path)
    assert (refused.value.reason, refused.value.field) == ("INVALID_REQUEST", "update_mask")
    assert len(refused.value.message) < 200


def test_no_path_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        image_change_from_pb(pb.UpdateImageRequest())


@pytest.mark.parametrize(
    ("values", "wanted", "field"),
    [
        ({}, {"name": ""}, "name"),
        ({}, {"family": "F"}, "family"),
        ({}, {"license_type": pb.LICENSE_TYPE_BYOL}, None),
        ({"os_type": "linux"}, {"license_type": pb.LICENSE_TYPE_BYOL}, "license_type"),
        ({}, {"license_type": 9}, "license_type"),
        ({}, {"boot_mode": 9}, "boot_mode"),
        ({"architecture": "arm"}, {"boot_mode": guest_pb2.BOOT_MODE_BIOS}, "boot_mode"),
        ({}, {"shutdown_timeout_seconds": 0}, "shutdown_timeout_seconds"),
        ({}, {"agents": ["A"]}, "agents"),
        ({}, {"os_features": "["}, "os_features"),
        ({}, {"enterprise_project_id": "7"}, "enterprise_project_id"),
        ({}, {"min_disk_gb": -1}, "min_disk_gb"),
        ({}, {"min_disk_gb": 1025}, "min_disk_gb"),
        ({"virtual_size": 3 * GIB}, {"min_disk_gb": 2}, "min_disk_gb"),
        ({"min_ram_mb": 5}, {"max_ram_mb": 4}, "max_ram_mb"),
        ({}, {"properties": {"Upper": "x"}}, "properties"),
        ({}, {"properties": {"x": "y" * 256}}, "properties.x"),
        ({}, {"server_support": pb.ServerSupport(has_xen=True, has_xen_hana=True)}, "server_support"),
    ],
)
async def test_a_wrong_value_changes_nothing(
    updates: ImageUpdates,
    database: Database,
    values: dict[str, Any],
    wanted: dict[str, Any],
    field: str | None,
) -> None:
    record = await put(database, **values)
    if field is None:  # of a system that is not known it may be said
        assert (await update(updates, record, **wanted)).license_type == "byol"
        return
    with pytest.raises(InvalidRequest) as refused:
        await update(updates, record, **wanted)
    assert refused.value.field == field
    async with database.reading() as c:
        assert await image_rows.get_image(c, record.project_id, record.id) == record


async def test_a_mark_is_set_and_taken_away_beside_the_others(
    updates: ImageUpdates, database: Database
) -> None:
    record = await put(database, server_support={"has_kvm": True, "kvm_fpga_type": "VU9P"})
    added = await update(
        updates, record, "server_support.has_amd", server_support=pb.ServerSupport(has_amd=True)
    )
    assert added.server_support == {"has_kvm": True, "kvm_fpga_type": "VU9P", "has_amd": True}
    with pytest.raises(InvalidRequest):  # excluded by has_kvm
        await update(
            updates, record, "server_support.has_xen_hana", server_support=pb.ServerSupport(has_xen_hana=True)
        )
    fewer = await update(updates, record, "server_support.has_kvm", "server_support.kvm_fpga_type")
    assert fewer.server_support == {"has_amd": True}
    assert (await update(updates, record, "server_support")).server_support == {}


async def test_a_property_of_an_older_image_keeps_its_capitals(
    updates: ImageUpdates, database: Database
) -> None:
    record = await put(database, properties={"Owner": "web", "b": "2"})
    changed = await update(
        updates, record, "properties.Owner", "properties.c", properties={"Owner": "db", "c": "3"}
    )
    assert changed.properties == {"Owner": "db", "b": "2", "c": "3"}
    removed = await update(updates, record, "properties.Owner")
    assert removed.properties == {"b": "2", "c": "3"}
    with pytest.raises(InvalidRequest):
        await update(updates, record, "properties.Owner", properties={"Owner": "again"})


async def test_a_property_that_is_not_there_cannot_be_removed(
    updates: ImageUpdates, database: Database
) -> None:
    """Contract §3.9: 400 IMG.0035."""
    record = await put(database, properties={"b": "2"})
    with pytest.raises(NotFound) as refused:
        await update(updates, record, "properties.b", "properties.nothere")
    assert "'nothere'" in refused.value.message
    assert img_code(refused.value.reason, refused.value.field) == "IMG.0035"
    async with database.reading() as c:
        assert await image_rows.get_image(c, record.project_id, record.id) == record


@pytest.mark.parametrize("kind", ImageKind)
async def test_the_format_of_an_image_that_has_its_bytes_never_changes(
    updates: ImageUpdates, database: Database, kind: ImageKind
) -> None:
    record = await put(database, kind=kind)
    with pytest.raises(InvalidRequest) as refused:
        await update(updates, record, disk_format=pb.DISK_FORMAT_QCOW2)
    assert refused.value.reason == "FIELD_NOT_UPDATABLE"


SYSTEM, DATA, ISO = ImageKind.SYSTEM_DISK, ImageKind.DATA_DISK, ImageKind.ISO


@pytest.mark.parametrize(
    ("kind", "disk_format", "expected"),
    [
        (SYSTEM, pb.DISK_FORMAT_ISO, ISO),
        (ISO, pb.DISK_FORMAT_VMDK, SYSTEM),
        (ISO, pb.DISK_FORMAT_UNSPECIFIED, SYSTEM),
        (ISO, pb.DISK_FORMAT_ISO, ISO),
        (DATA, pb.DISK_FORMAT_VMDK, DATA),
    ],
)
async def test_the_kind_of_an_image_that_waits_follows_its_format(
    updates: ImageUpdates,
    database: Database,
    kind: ImageKind,
    disk_format: pb.DiskFormat.ValueType,
    expected: ImageKind,
) -> None:
    record = await put(database, kind=kind, disk_format="raw", **WAITING)
    changed = await update(updates, record, "disk_format", disk_format=disk_format)
    assert changed.kind is expected


@pytest.mark.parametrize("about", [{"kind": DATA}, {"server_kind": ServerKind.BARE_METAL}])
async def test_an_iso_fills_neither_a_data_disk_nor_what_bare_metal_starts_from(
    updates: ImageUpdates, database: Database, about: dict[str, Any]
) -> None:
    record = await put(database, **WAITING, **about)
    with pytest.raises(InvalidRequest) as refused:
        await update(updates, record, disk_format=pb.DISK_FORMAT_ISO)
    assert refused.value.reason == "IMAGE_KIND_UNSUITED"


@pytest.mark.parametrize(
    "name", sorted({*UPDATABLE, "properties", "server_support"} - UPDATABLE_OF_DATA - {"disk_format"})
)
async def test_of_a_data_disk_only_its_name_and_description_change(
    updates: ImageUpdates, database: Database, name: str
) -> None:
    record = await put(database, kind=ImageKind.DATA_DISK)
    with pytest.raises(FailedPrecondition) as refused:
        await update(updates, record, name)
    assert refused.value.reason == "IMAGE_KIND_UNSUITED"
    changed = await update(updates, record, name="n", description="d", is_protected=True, tags={"a": "b"})
    assert (changed.name, changed.description, changed.tags) == ("n", "d", {"a": "b"})


@pytest.mark.parametrize("status", [s for s in ImageStatus if s is not ImageStatus.ACTIVE])
async def test_only_an_active_image_changes(
    updates: ImageUpdates, database: Database, status: ImageStatus
) -> None:
    record = await put(database, status=status)
    with pytest.raises(ImsError) as refused:
        await update(updates, record, name="n")
    assert refused.value.reason in ("IMAGE_NOT_ACTIVE", "NOT_FOUND")


async def test_an_image_that_waits_for_its_bytes_changes_too(
    updates: ImageUpdates, database: Database
) -> None:
    record = await put(database, status=ImageStatus.QUEUED, is_prepared=True, min_disk_gb=7)
    assert (await update(updates, record, "min_disk_gb", "name", name="n")).min_disk_gb == 0
    with pytest.raises(InvalidRequest):
        await update(updates, record, min_disk_gb=5000)


async def test_a_system_says_its_platform_again(updates: ImageUpdates, database: Database) -> None:
    record = await put(database, **WINDOWS, license_type="byol", guest={"os_type": "Linux", "bits": 64})
    with pytest.raises(InvalidRequest) as refused:  # its licence would be wrong
        await update(updates, record, os_version="CentOS 7.6 64bit")
    assert refused.value.field == "license_type"
    changed = await update(updates, record, "os_version", "license_type", os_version="CentOS 7.6 32bit")
    assert (changed.os_type, changed.os_bits, changed.platform) == ("linux", 32, "CentOS")
    unknown = await update(updates, record, os_version="My own system")
    assert (unknown.os_type, unknown.os_bits, unknown.platform) == ("linux", 64, "Other")


OF_32_BIT = {"os_version": "Other_Linux (32_bit)", "os_bits": 32}


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        (OF_32_BIT, {"min_ram_mb": 4097}),
        ({"min_ram_mb": 8192}, {"os_version": "Other_Linux (32_bit)"}),
        ({}, {"os_version": "Other_Linux (32_bit)", "min_ram_mb": 4097}),
    ],
)
async def test_other_constraints_32_bit_os_asks_for_no_more_memory_than_its_servers_may_have(
    updates: ImageUpdates, database: Database, before: dict[str, Any], wanted: dict[str, Any]
) -> None:
    record = await put(database, **before)
    with pytest.raises(InvalidRequest, match="at most 4096") as refused:
        await update(updates, record, **wanted)
    assert refused.value.field == "min_ram_mb"


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        (OF_32_BIT, {"min_ram_mb": 4096}),
        (OF_32_BIT | {"min_ram_mb": 8192}, {"name": "was-found-to-be-so"}),
        (OF_32_BIT, {"os_version": "Other_Linux (64_bit)", "min_ram_mb": 8192}),
    ],
)
async def test_other_constraints_32_bit_os_changes_all_else(
    updates: ImageUpdates, database: Database, before: dict[str, Any], wanted: dict[str, Any]
) -> None:
    record = await put(database, **before)
    assert (await update(updates, record, **wanted)).version == record.version + 1


async def test_an_etag_guards_an_update(updates: ImageUpdates, database: Database) -> None:
    record = await put(database)
    await update(updates, record, etag="1", name="first")
    with pytest.raises(Conflict):
        await update(updates, record, etag="1", name="second")
    with pytest.raises(InvalidRequest):
        await update(updates, record, etag="one", name="third")


async def test_many_paths_are_no_harm(updates: ImageUpdates, database: Database) -> None:
    record = await put(database)
    assert (await update(updates, record, *["name"] * 40_000, name="n")).name == "n"
    with pytest.raises(NotFound):
        await update(updates, record, *(f"properties.k{number}" for number in range(40_000)))

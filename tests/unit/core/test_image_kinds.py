"""Kinds of images and what is said of them: what does not fit is refused, what is found counts."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from imsd.contract import ImsError, InvalidRequest, LimitExceeded
from imsd.core.image_preparing import prepare_image
from imsd.core.kind_rules import min_disk, proved_kind
from imsd.core.lineage import lineage_of, origin_of, without_secrets
from imsd.core.new_image import NewImage, checked
from imsd.core.os_identity import OsIdentity, identify, identify_with
from imsd.core.requests import RequestKey
from imsd.core.service_limits import ServiceLimits
from imsd.core.sources import Source, SourceKind
from imsd.grpc_server.error_mapping import IMG_CODES
from imsd.guest.catalogue.listing import listed_systems
from imsd.metadata.database import Database
from imsd.metadata.records import ImageKind, JobState, OriginKind, ServerKind, Visibility
from tests.unit.core.import_world import MIB, ImportWorld, failed
from tests.unit.formats.crafted_iso import disc
from tests.unit.metadata.samples import an_image, new_id

DISK = random.Random(4).randbytes(MIB)
DISC = disc(bootable=False)
GIB = 1 << 30
LIMITS = ServiceLimits(
    max_virtual_size_bytes=1 << 50,
    max_upload_size_bytes=1 << 50,
    staging_quota_bytes=1 << 50,
    upload_part_bytes=1 << 20,
    upload_expiry=timedelta(hours=1),
    max_running_create_jobs=1,
)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> ImportWorld:
    return ImportWorld(database, (tmp_path,))


@pytest.mark.parametrize(
    ("wanted", "reason", "field"),
    [
        ({"kind": "data_disk", "license_type": "byol"}, "IMAGE_KIND_UNSUITED", "license_type"),
        ({"kind": "data_disk", "server_support": {"has_kvm": True}}, "IMAGE_KIND_UNSUITED", "server_support"),
        ({"kind": "data_disk", "server_kind": "bare_metal"}, "IMAGE_KIND_UNSUITED", "server_kind"),
        ({"kind": "iso", "server_kind": "bare_metal"}, "IMAGE_KIND_UNSUITED", "server_kind"),
        ({"kind": "iso", "disk_format": "qcow2"}, "IMAGE_KIND_UNSUITED", "kind"),
        ({"kind": "data_disk", "disk_format": "iso"}, "IMAGE_KIND_UNSUITED", "kind"),
        ({"kind": "data_disk", "min_disk_gb": 39}, "INVALID_REQUEST", "min_disk_gb"),
        ({"kind": "data_disk", "min_disk_gb": 2049}, "INVALID_REQUEST", "min_disk_gb"),
        ({"min_disk_gb": 1025}, "INVALID_REQUEST", "min_disk_gb"),
        ({"min_disk_gb": -1}, "INVALID_REQUEST", "min_disk_gb"),
        ({"license_type": "byol", "os_version": "CentOS 7.6 64bit"}, "INVALID_REQUEST", "license_type"),
        ({"license_type": "platform", "os_type": "linux"}, "INVALID_REQUEST", "license_type"),
        ({"family": "Debian"}, "INVALID_REQUEST", "family"),
        ({"os_version": "Debian\x1b[2J"}, "INVALID_REQUEST", "os_version"),
        ({"enterprise_project_id": "7"}, "INVALID_REQUEST", "enterprise_project_id"),
        ({"server_support": {"has_xen": True, "has_xen_hana": True}}, "INVALID_REQUEST", "server_support"),
    ],
)
def test_what_does_not_fit_is_refused(wanted: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checked(NewImage(name="disk", upload_id=new_id(), **wanted), LIMITS)
    assert (refused.value.reason, refused.value.field) == (reason, field)


def test_what_fits_is_kept() -> None:
    new = checked(
        NewImage(
            name="disk",
            upload_id=new_id(),
            kind="data_disk",
            min_disk_gb=40,
            server_support={"has_kvm": False},
            os_type="windows",
        ),
        LIMITS,
    )
    assert (new.server_support, new.enterprise_project_id, new.min_disk_gb) == ({}, "0", 40)
    windows: dict[str, Any] = {"license_type": "byol", "os_version": "Windows Server 2019 Standard 64bit"}
    assert checked(NewImage(name="disk", upload_id=new_id(), **windows), LIMITS).license_type == "byol"


async def test_an_iso_is_one_whether_or_not_that_was_said(world: ImportWorld) -> None:
    async with world.serving() as service:
        for wanted in ({}, {"kind": "iso"}, {"disk_format": "iso"}):
            said = {"os_version": "CentOS 7.9 64bit"} if wanted else {}
            done = await service.import_file(DISC, **wanted, **said)
            image = await service.image(done.record.image_id)
            assert (image.kind, image.disk_format) == (ImageKind.ISO, "iso")


@pytest.mark.parametrize(
    ("of_upload", "wanted"),
    [({}, {"kind": "iso"}), ({}, {"disk_format": "iso"}), ({"disk_format": "iso"}, {})],
)
async def test_who_asks_for_an_iso_says_what_it_installs(
    world: ImportWorld, of_upload: dict[str, str], wanted: dict[str, str]
) -> None:
    async with world.serving() as service:
        upload_id = await service.send(DISC, **of_upload)
        with pytest.raises(InvalidRequest) as refused:
            await service.start(upload_id=upload_id, **wanted)
        assert (refused.value.reason, refused.value.field) == ("ISO_OS_VERSION_REQUIRED", "os_version")
        assert IMG_CODES[refused.value.reason] == "IMG.0166"
        await prepare_image(
            service.runtime, RequestKey("default", "", new_id()), NewImage(name="x", kind="iso")
        )
        done = await service.end_of(await service.start(upload_id=upload_id, os_version="x", **wanted))
        assert done.record.state is JobState.SUCCESS


@pytest.mark.parametrize(("file", "kind"), [(DISC, "data_disk"), (DISC, "system_disk"), (DISK, "iso")])
async def test_a_file_of_another_kind_fails_and_its_upload_can_be_used_again(
    world: ImportWorld, file: bytes, kind: str
) -> None:
    async with world.serving() as service:
        upload_id = await service.send(file)
        about = {"kind": kind, "os_version": "CentOS 7.9 64bit"}
        ended = await service.end_of(await service.start(upload_id=upload_id, **about))
        assert failed(ended) == "IMAGE_KIND_UNSUITED"
        again = await service.end_of(await service.start(upload_id=upload_id))
        assert again.record.state is JobState.SUCCESS


async def test_a_file_that_proves_to_be_a_disc_is_not_for_bare_metal(world: ImportWorld) -> None:
    async with world.serving() as service:
        upload_id = await service.send(DISC)
        ended = await service.end_of(await service.start(upload_id=upload_id, server_kind="bare_metal"))
        assert failed(ended) == "IMAGE_KIND_UNSUITED"
        again = await service.end_of(await service.start(upload_id=upload_id))
        assert again.record.state is JobState.SUCCESS


async def test_a_data_disk_is_what_was_said_of_it(world: ImportWorld) -> None:
    async with world.serving() as service:
        done = await service.import_file(DISK, kind="data_disk", enterprise_project_id="0", family="scratch")
        image = await service.image(done.record.image_id)
    assert (image.kind, image.min_disk_gb, image.family) == (ImageKind.DATA_DISK, 40, "scratch")
    assert (image.os_version, image.os_type, image.boot_mode) == ("", "linux", "")


async def test_a_disk_in_which_nothing_is_found_is_another_linux(world: ImportWorld) -> None:
    async with world.serving() as service:
        done = await service.import_file(
            DISK, server_kind="bare_metal", license_type="byol", server_support={"has_kvm": True}
        )
        image = await service.image(done.record.image_id)
    assert image.os_version == "Other_Linux (64_bit)"
    assert (image.os_type, image.os_bits, image.platform) == ("linux", 64, "Other")
    assert (image.server_kind, image.server_support) == (ServerKind.BARE_METAL, {"has_kvm": True})
    assert image.license_type == ""
    assert "LICENSE_TYPE_DROPPED" in [found["code"] for found in image.findings]


async def test_what_was_declared_says_the_platform(world: ImportWorld) -> None:
    async with world.serving() as service:
        done = await service.import_file(
            DISK, os_version="Windows Server 2016 Standard 64bit", license_type="byol"
        )
        image = await service.image(done.record.image_id)
    assert (image.os_type, image.os_bits, image.platform) == ("windows", 64, "Windows")
    assert image.license_type == "byol"


async def test_an_image_says_where_its_disk_came_from(world: ImportWorld, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(DISK)
    async with world.serving() as service:
        upload_id = await service.send(DISK, file_name="disk.raw")
        sent = await service.end_of(await service.start(upload_id=upload_id))
        source = Source(SourceKind.LOCAL_PATH, str(tmp_path / "disk.raw"))
        read = await service.end_of(await service.start(source=source))
        origins = [await service.image(each.record.image_id) for each in (sent, read)]
    assert [(image.origin_kind, image.origin) for image in origins] == [
        (OriginKind.UPLOAD, "disk.raw"),
        (OriginKind.LOCAL_PATH, str(tmp_path / "disk.raw")),
    ]


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://example.org/a/b.qcow2?X-Amz-Signature=1#f", "https://example.org/a/b.qcow2"),
        ("https://user:secret@example.org:8443/x", "https://example.org:8443/x"),
        ("https://[::1/", ""),
        ("", ""),
    ],
)
def test_an_origin_keeps_no_secret(url: str, kept: str) -> None:
    assert without_secrets(url) == kept
    assert origin_of(Source(SourceKind.URL, url), "") == (OriginKind.URL, kept)


@pytest.mark.parametrize(
    ("values", "platform", "is_market_derived"),
    [
        ({}, "", False),
        ({"visibility": Visibility.PUBLIC, "platform": "Ubuntu"}, "Ubuntu", False),
        ({"visibility": Visibility.PUBLIC}, "Other", False),
        ({"public_platform": "Ubuntu", "platform": "Debian"}, "Ubuntu", False),
        ({"is_published": True}, "", True),
        ({"is_market_derived": True}, "", True),
    ],
)
def test_what_an_image_descends_from_goes_on_to_its_copies(
    values: dict[str, Any], platform: str, is_market_derived: bool
) -> None:
    image = an_image(**values)
    lineage = lineage_of(image)
    assert (lineage["public_platform"], lineage["is_market_derived"]) == (platform, is_market_derived)
    assert (lineage["origin_image_id"], lineage["origin_kind"]) == (image.id, OriginKind.IMAGE)


@pytest.mark.parametrize(
    ("os_version", "identity"),
    [
        ("CentOS 7.6 64bit", OsIdentity("linux", 64, "CentOS")),
        ("Redhat Linux Enterprise 6.6 32bit", OsIdentity("linux", 32, "Red Hat")),
        ("Windows 10 64bit", OsIdentity("windows", 64, "Windows")),
        ("FreeBSD 12.1 64bit", OsIdentity("other", 64, "FreeBSD")),
        ("Other_Linux (64_bit)", OsIdentity("linux", 64, "Other")),
        ("Other Linux(32 bit)", OsIdentity("linux", 32, "Other")),
        ("other_windows (64_bit)", OsIdentity("windows", 64, "Other")),
        ("CoreOS 1010.5.0", OsIdentity("linux", 64, "CoreOS")),
        ("TempleOS 5.03", OsIdentity()),
        ("", OsIdentity()),
        ("\0" * 255, OsIdentity()),
    ],
)
def test_a_name_says_what_system_it_is(os_version: str, identity: OsIdentity) -> None:
    assert identify(os_version) == identity


def test_every_listed_system_is_known() -> None:
    for listed in listed_systems():
        known = identify(listed.os_version)
        assert (known.os_type, known.os_bits) == (listed.os_type.lower(), listed.bits), listed
        assert known.platform == listed.platform


def test_what_the_name_does_not_say_was_found_or_is_another_system() -> None:
    assert identify_with("TempleOS 5.03", "") == OsIdentity("other", 0, "Other")
    assert identify_with("Alpine 3.20", "linux", 64) == OsIdentity("linux", 64, "Other")
    assert identify_with("", "") == OsIdentity()


@pytest.mark.parametrize(
    ("kind", "asked", "virtual_size", "needed"),
    [
        (ImageKind.SYSTEM_DISK, 0, 1, 1),
        (ImageKind.SYSTEM_DISK, 0, GIB + 1, 2),
        (ImageKind.SYSTEM_DISK, 7, GIB, 7),
        (ImageKind.DATA_DISK, 0, 1, 40),
        (ImageKind.DATA_DISK, 0, 41 * GIB, 41),
        (ImageKind.DATA_DISK, 2048, 2048 * GIB, 2048),
    ],
)
def test_the_smallest_disk_holds_the_image(
    kind: ImageKind, asked: int, virtual_size: int, needed: int
) -> None:
    assert min_disk(kind, asked, virtual_size, LIMITS) == needed


@pytest.mark.parametrize(
    ("kind", "asked", "virtual_size", "error", "reason"),
    [
        (ImageKind.SYSTEM_DISK, 1, GIB + 1, InvalidRequest, "MIN_DISK_TOO_SMALL"),
        (ImageKind.DATA_DISK, 40, 41 * GIB, InvalidRequest, "MIN_DISK_TOO_SMALL"),
        (ImageKind.DATA_DISK, 39, 1, InvalidRequest, "INVALID_REQUEST"),
        (ImageKind.DATA_DISK, 2049, 1, InvalidRequest, "INVALID_REQUEST"),
        (ImageKind.SYSTEM_DISK, 0, 1024 * GIB + 1, LimitExceeded, "SYSTEM_DISK_TOO_LARGE"),
        (ImageKind.DATA_DISK, 0, 2048 * GIB + 1, LimitExceeded, "LIMIT_EXCEEDED"),
    ],
)
def test_table_5_1_and_5_2_disk_capacity(
    kind: ImageKind, asked: int, virtual_size: int, error: type[ImsError], reason: str
) -> None:
    with pytest.raises(error) as refused:
        min_disk(kind, asked, virtual_size, LIMITS)
    assert refused.value.reason == reason


def test_a_kind_that_was_not_asked_for_is_found() -> None:
    assert proved_kind("", "iso") is ImageKind.ISO
    assert proved_kind("", "qcow2") is ImageKind.SYSTEM_DISK
    assert proved_kind("data_disk", "raw") is ImageKind.DATA_DISK

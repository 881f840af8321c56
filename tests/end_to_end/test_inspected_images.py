"""Systems in images, over the wire: what is said of them at import, and when they are looked at again."""

from __future__ import annotations

import grpc
import pytest

from imsd.v1 import guest_pb2, image_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import Stubs
from tests.unit.guest.crafted_guest import GOOD
from tests.unit.guest.whole_disks import ext4, mbr_disk

BIOS, UEFI = guest_pb2.BOOT_MODE_BIOS, guest_pb2.BOOT_MODE_UEFI


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return mbr_disk(ext4(tmp_path_factory.mktemp("disk") / "root", GOOD))


async def looked_at(stubs: Stubs, image: image_pb2.Image) -> guest_pb2.GuestReport:
    report: guest_pb2.GuestReport = await stubs.images.InspectImage(
        image_pb2.InspectImageRequest(image_id=image.id)
    )
    return report


async def test_a_system_is_found_at_import_and_again_later(stubs: Stubs, disk: bytes) -> None:
    image = await wire.import_disk(stubs, disk)
    assert image.os_version == "Debian GNU/Linux 10.2.0 64bit"
    assert image.architecture == guest_pb2.ARCHITECTURE_X86
    assert image.boot_mode == BIOS
    assert (image.guest.is_verified, list(image.guest.findings)) == (True, [])
    assert list(image.guest.supported_server_types)
    assert await looked_at(stubs, image) == image.guest


async def test_what_was_declared_gives_way_visibly(stubs: Stubs, disk: bytes) -> None:
    arm = guest_pb2.ARCHITECTURE_ARM
    image = await wire.import_disk(stubs, disk, os_version="CentOS 7.9 64bit", architecture=arm)
    assert image.os_version == "Debian GNU/Linux 10.2.0 64bit"
    assert image.architecture == guest_pb2.ARCHITECTURE_X86
    assert [each.code for each in image.findings] == ["OS_VERSION_OVERRIDDEN", "ARCHITECTURE_OVERRIDDEN"]


async def test_a_boot_mode_that_the_disk_has_not_is_told_each_time(stubs: Stubs, disk: bytes) -> None:
    image = await wire.import_disk(stubs, disk, boot_mode=UEFI)
    assert image.boot_mode == UEFI
    [found] = image.guest.findings
    assert found.code == "BOOT_MODE_MISMATCH"
    assert found.severity == guest_pb2.GuestFinding.SEVERITY_BLOCKS_BOOT
    assert found.remedy
    assert await looked_at(stubs, image) == image.guest


async def test_an_image_that_is_not_there_cannot_be_looked_at(stubs: Stubs) -> None:
    nobody = image_pb2.Image(id="00000000-0000-4000-8000-000000000000")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await looked_at(stubs, nobody)
    assert wire.reason_of(refused.value) == "NOT_FOUND"

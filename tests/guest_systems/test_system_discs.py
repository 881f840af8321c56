"""Bootable discs as Debian ships them: no system to be found, and no word against starting them."""

from __future__ import annotations

import pytest

from imsd.guest.codes import Severity
from imsd.guest.report import BootMode
from tests.guest_systems.looking import codes, looked_at
from tests.guest_systems.systems import Systems

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("name", "file_systems"),
    [
        ("ipxe.iso", ["iso9660"]),
        ("memtest86+x64.iso", ["iso9660", "vfat"]),
        ("memtest86+ia32.iso", ["iso9660", "vfat"]),
    ],
)
def test_a_real_disc_can_be_started_by_both_firmwares(
    systems: Systems, name: str, file_systems: list[str]
) -> None:
    report = looked_at(systems.discs / name)
    assert report.boot_modes == (BootMode.BIOS, BootMode.UEFI)
    assert [part.file_system for part in report.partitions] == file_systems
    assert codes(report) == {Severity.ADVICE: {"GUEST_NO_SYSTEM"}}

"""Real systems that start: each is recognised, and nothing speaks against starting it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from imsd.guest.codes import Severity
from imsd.guest.report import BootMode, GuestReport, Readiness
from tests.guest_systems.looking import codes, looked_at
from tests.guest_systems.systems import Systems

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]

BIOS, UEFI = BootMode.BIOS, BootMode.UEFI
DEBIAN = "Debian GNU/Linux 12 (bookworm)"
# The file system of a part of a disk, and what it is used as.
Shown = tuple[str, str]

PLAIN = {"GUEST_AGENT_MISSING", "GUEST_NOT_LISTED"}
FULL = {"CLOUD_INIT_MISSING", *PLAIN}


@dataclass(frozen=True, slots=True)
class Expected:
    """``os_version`` is how the name as the service writes it begins and ends."""

    name: str
    os_version: tuple[str, str]
    bits: int
    architecture: str
    boot_modes: tuple[BootMode, ...]
    parts: tuple[Shown, ...]
    has_cloud_init: bool
    advice: frozenset[str]


def debian(
    bits: int,
    architecture: str,
    modes: tuple[BootMode, ...],
    parts: tuple[Shown, ...],
    advice: set[str],
) -> Expected:
    version = ("Debian GNU/Linux 12.", f" {bits}bit")
    has_cloud_init = "CLOUD_INIT_MISSING" not in advice
    return Expected(DEBIAN, version, bits, architecture, modes, parts, has_cloud_init, frozenset(advice))


ESP = ("vfat", "EFI system partition")
HEALTHY = {
    "debian-ext4-bios-uefi": debian(64, "x86", (BIOS, UEFI), (("", "BIOS boot"), ESP, ("ext4", "/")), PLAIN),
    "debian-i386-ext4-bios": debian(32, "x86", (BIOS,), (("ext4", "/"),), {"GUEST_32_BIT", *FULL}),
    "debian-arm64-ext4-uefi": debian(64, "arm", (UEFI,), (ESP, ("ext4", "/")), FULL),
    "debian-xfs-bios": debian(64, "x86", (BIOS,), (("xfs", "/"),), PLAIN),
    "debian-lvm-own-boot-bios": debian(
        64, "x86", (BIOS,), (("ext4", "/boot"), ("LVM2_member", ""), ("xfs", "/")), PLAIN
    ),
    "ubuntu-like-btrfs-uefi": Expected(
        *("Ubuntu 22.04.5 LTS", ("Ubuntu 22.04 Server 64bit", ""), 64, "x86"),
        *((UEFI,), (ESP, ("btrfs", "/")), True, frozenset(PLAIN)),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_real_system_is_recognised(systems: Systems, name: str) -> None:
    report, expected = looked_at(systems.disk(name)), HEALTHY[name]
    begins, ends = expected.os_version
    assert report.is_verified
    assert report.name == expected.name
    assert report.os_version.startswith(begins)
    assert report.os_version.endswith(ends)
    assert (report.bits, report.architecture) == (expected.bits, expected.architecture)
    assert report.boot_modes == expected.boot_modes
    assert report.default_boot_mode is expected.boot_modes[0]
    assert report.has_cloud_init is expected.has_cloud_init
    assert shown(report) == expected.parts


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_speaks_against_starting_a_real_system(systems: Systems, name: str) -> None:
    report = looked_at(systems.disk(name))
    assert codes(report) == {Severity.ADVICE: set(HEALTHY[name].advice)}
    assert (report.virtio_disk, report.virtio_network) == (Readiness.READY, Readiness.READY)


def test_a_windows_is_recognised_and_lacks_its_network_driver(systems: Systems) -> None:
    report = looked_at(systems.disk("windows-like-ntfs-bios"))
    assert report.os_version == "Windows Server 2022 Standard 64bit"
    assert (report.architecture, report.boot_modes) == ("x86", (BIOS,))
    assert shown(report) == (("ntfs", "/"),)
    assert (report.virtio_disk, report.virtio_network) == (Readiness.READY, Readiness.MISSING)
    assert codes(report)[Severity.MAY_BLOCK_BOOT] == {"VIRTIO_NETWORK_MISSING"}
    assert Severity.BLOCKS_BOOT not in codes(report)


def shown(report: GuestReport) -> tuple[Shown, ...]:
    return tuple((part.file_system, part.used_as) for part in report.partitions)

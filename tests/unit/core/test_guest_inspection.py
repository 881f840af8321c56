"""What was declared of an image, and what was found in it: which counts, and what says so."""

from __future__ import annotations

import json

import pytest

from imsd.core.guest_inspection import Declared, System, decide
from imsd.guest.report import BootMode, GuestReport

DEBIAN = "Debian GNU/Linux 12.0.0 64bit"
CENTOS = "CentOS 7.9 64bit"
BIOS = GuestReport(
    is_inspected=True,
    is_verified=True,
    os_version=DEBIAN,
    architecture="x86",
    boot_modes=(BootMode.BIOS,),
    default_boot_mode=BootMode.BIOS,
)
ARM = GuestReport(
    is_inspected=True,
    is_verified=True,
    os_version=DEBIAN,
    architecture="arm",
    boot_modes=(BootMode.UEFI,),
    default_boot_mode=BootMode.UEFI,
)
UNVERIFIED = GuestReport(is_inspected=True, os_version="Other_Linux (64_bit)")
NOTHING = GuestReport(is_inspected=True)


def codes_of(system: System) -> list[str]:
    return [each.code for each in system.findings]


def codes_inside(system: System) -> list[str]:
    return [each.code for each in GuestReport.from_json(json.dumps(system.guest)).findings]


@pytest.mark.parametrize(
    ("declared", "report", "taken_for", "overridden"),
    [
        (Declared("", "", ""), BIOS, (DEBIAN, "x86", "bios"), []),
        (Declared(DEBIAN, "x86", "bios"), BIOS, (DEBIAN, "x86", "bios"), []),
        (Declared(CENTOS, "", ""), BIOS, (DEBIAN, "x86", "bios"), ["OS_VERSION_OVERRIDDEN"]),
        (Declared("", "arm", ""), BIOS, (DEBIAN, "x86", "bios"), ["ARCHITECTURE_OVERRIDDEN"]),
        (Declared("", "x86", ""), ARM, (DEBIAN, "arm", "uefi"), ["ARCHITECTURE_OVERRIDDEN"]),
        (Declared("", "", "bios"), ARM, (DEBIAN, "arm", "uefi"), ["BOOT_MODE_OVERRIDDEN"]),
        (Declared(CENTOS, "x86", "uefi"), UNVERIFIED, (CENTOS, "x86", "uefi"), []),
        (
            Declared("", "arm", "bios"),
            UNVERIFIED,
            (UNVERIFIED.os_version, "arm", "uefi"),
            ["BOOT_MODE_OVERRIDDEN"],
        ),
        (Declared("", "", ""), UNVERIFIED, (UNVERIFIED.os_version, "", ""), []),
    ],
)
def test_what_is_found_overrides_what_was_declared_and_says_so(
    declared: Declared, report: GuestReport, taken_for: tuple[str, str, str], overridden: list[str]
) -> None:
    system = decide(declared, report)
    assert (system.os_version, system.architecture, system.boot_mode) == taken_for
    assert codes_of(system) == overridden


@pytest.mark.parametrize(
    ("declared", "report", "taken_for"),
    [
        ("", BIOS, DEBIAN),
        (CENTOS, NOTHING, CENTOS),
        ("", UNVERIFIED, UNVERIFIED.os_version),
        ("", NOTHING, "Debian or later"),
    ],
)
def test_what_a_package_says_counts_where_nothing_else_does_and_contradicts_nothing(
    declared: str, report: GuestReport, taken_for: str
) -> None:
    system = decide(Declared(declared, "", "", described_os="Debian or later"), report)
    assert system.os_version == taken_for
    assert codes_of(system) == []


@pytest.mark.parametrize(
    ("boot_mode", "report", "inside"),
    [
        ("uefi", BIOS, ["BOOT_MODE_MISMATCH"]),
        ("bios", BIOS, []),
        ("bios", ARM, []),
        ("bios", UNVERIFIED, []),
    ],
)
def test_a_boot_mode_that_the_disk_has_not_is_told_unless_it_is_overridden(
    boot_mode: str, report: GuestReport, inside: list[str]
) -> None:
    assert codes_inside(decide(Declared("", "", boot_mode), report)) == inside

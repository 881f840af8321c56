"""The tables of supported systems, held against the numbers of rows and versions counted in their source."""

from __future__ import annotations

import pytest

from imsd.guest.catalogue import Support, supported, tables, uefi_supported
from imsd.guest.catalogue.listing import listed_systems
from imsd.guest.naming import PATTERNS
from imsd.guest.report import GuestReport
from imsd.guest_messages import guest_to_pb

# Table → its rows (one a family), the versions in them, its server types.
COUNTED = {
    "6-1": (11, 108, 15),
    "6-2": (9, 20, 4),
    "6-3": (9, 23, 1),
    "6-4": (5, 10, 2),
    "6-5": (12, 20, 2),
    "6-6": (13, 43, 0),
}


def test_every_row_of_every_table_is_there() -> None:
    found = {
        table.name: (
            len(table.rows),
            sum(len(row.versions) + len(row.versions_32bit) for row in table.rows),
            len(table.server_types),
        )
        for table in tables()
    }
    assert found == COUNTED


def test_no_version_is_twice_in_a_row_and_every_family_has_a_name() -> None:
    for table in tables():
        assert table.title
        for row in table.rows:
            assert row.os in PATTERNS
            assert len(set(row.versions)) == len(row.versions)


@pytest.mark.parametrize(
    ("os_version", "found"),
    [
        ("CentOS 7.6 64bit", ["6-1", "6-2", "6-3", "6-4", "6-5"]),
        ("CentOS 7.10 64bit", ["6-2", "6-3", "6-4"]),
        ("CentOS 70.1 64bit", []),
        ("CentOS 7.6 32bit", []),
        ("Fedora 29 64bit", ["6-1", "6-2", "6-3", "6-5"]),
        ("Fedora 32 64bit", ["6-1", "6-3"]),
        ("Fedora 2 64bit", []),
        ("Fedora 200 64bit", []),
        ("SUSE Linux Enterprise Server 12 SP5 64bit", ["6-2", "6-3", "6-4", "6-5"]),
        ("SUSE Linux Enterprise Server 12 64bit", ["6-1", "6-2", "6-3", "6-4"]),
        ("SUSE Linux Enterprise Server 15 SP2 64bit", ["6-1", "6-3"]),
        ("Debian GNU/Linux 10.2.0 64bit", ["6-1", "6-3", "6-5"]),
        ("Debian GNU/Linux 10.6.0 64bit", ["6-3"]),
        ("Debian GNU/Linux 12.0.0 64bit", []),
        ("Ubuntu 18.04 server 64bit", ["6-1", "6-2", "6-3", "6-4", "6-5"]),
        ("Redhat Linux Enterprise 7.9 64bit", ["6-1", "6-2", "6-3"]),
        ("openSUSE Leap 15.1 64bit", ["6-1", "6-2", "6-3"]),
        ("FreeBSD 12.1 64bit", ["6-1"]),
        ("CoreOS 2079.4.0", ["6-1"]),
        ("KylinSec 3.3 64bit", ["6-5"]),
        ("Kylin 4.2 64bit", ["6-5"]),
        ("NeoKylin 7.6 64bit", ["6-5"]),
        ("Other_Linux (64_bit)", []),
        ("", []),
    ],
)
def test_where_a_system_is_supported(os_version: str, found: list[str]) -> None:
    assert [support.table for support in supported(os_version)] == found


def test_support_is_narrowed_to_a_server_type_and_an_architecture() -> None:
    assert supported("CentOS 7.6 64bit", "c6") == [
        Support("6-1", "x86", ("C6",)),
        Support("6-2", "x86", ("C6",)),
    ]
    assert supported("CentOS 7.6 64bit", architecture="arm") == [Support("6-5", "arm", ("KC1", "KM1"))]
    assert supported("CentOS 7.3 64bit", architecture="arm") == []
    assert supported("CentOS 7.6 64bit", "Z9") == []


def test_a_server_type_that_a_note_takes_out_of_a_row_is_out() -> None:
    assert supported("Debian GNU/Linux 9.0.0 64bit", "IR3") == []
    assert [support.table for support in supported("Debian GNU/Linux 9.0.0 64bit", "I3")] == ["6-4"]


@pytest.mark.parametrize(
    ("os_version", "is_there"),
    [
        ("Windows Server 2019 Datacenter 64bit", True),
        ("Windows Server 2012 Essentials R2 64bit", True),
        ("Windows 10 64bit", True),
        ("Windows 7 64bit", False),
        ("Red Hat Linux Enterprise 6.6 32bit", True),
        ("Red Hat Linux Enterprise 6.6 64bit", False),
        ("Oracle Linux Server release 7.4 64bit", True),
        ("NeoKylin V7 64bit", True),
        ("UOS 20 64bit", True),
        ("Ubuntu 20.04 Server 64bit", False),
        ("nothing", False),
    ],
)
def test_which_systems_are_listed_for_uefi(os_version: str, is_there: bool) -> None:
    assert uefi_supported(os_version) is is_there


def test_the_list_is_in_the_order_in_which_people_count() -> None:
    versions = [system.os_version for system in listed_systems("x86", "S6") if system.platform == "CentOS"]
    assert versions.index("CentOS 6.9 64bit") < versions.index("CentOS 6.10 64bit")
    assert versions.index("CentOS 6.10 64bit") < versions.index("CentOS 7.0 64bit")


def test_a_system_for_arm_starts_by_uefi() -> None:
    found = listed_systems("arm")
    assert {system.is_uefi_supported for system in found} == {True}
    assert listed_systems("arm", is_uefi_only=True) == found


@pytest.mark.parametrize(("architecture", "is_there"), [("arm", True), ("x86", False), ("", False)])
def test_a_report_and_the_list_agree_on_what_starts_by_uefi(architecture: str, is_there: bool) -> None:
    name = "KylinSec 3.3 64bit"
    assert uefi_supported(name, architecture) is is_there
    report = GuestReport(is_inspected=True, os_version=name, architecture=architecture)
    assert guest_to_pb(report).is_uefi_supported is is_there


def test_every_entry_of_the_list_says_what_a_look_up_says() -> None:
    for system in listed_systems():
        support = supported(system.os_version, architecture=system.architecture)
        types = {name for each in support for name in each.server_types}
        assert set(system.server_types) == types, system


@pytest.mark.parametrize(
    ("server_type", "os_version"),
    [
        ("E3", "CentOS 7.6 64bit"),
        ("C3ne", "SUSE Linux Enterprise Server 12 SP5 64bit"),
        ("I3", "Debian GNU/Linux 8.8.0 64bit"),
    ],
)
def test_a_version_is_on_the_server_types_of_its_series(server_type: str, os_version: str) -> None:
    found = listed_systems("x86", server_type, is_uefi_only=True)
    assert os_version in [system.os_version for system in found]

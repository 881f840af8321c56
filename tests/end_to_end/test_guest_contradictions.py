"""What an image is declared to hold against what is found in it, by way of a real daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, patterned_disk
from tests.unit.guest.crafted_guest import GOOD, ext4, mbr_disk
from tests.unit.guest.memory_tree import Paths, elf

DEBIAN = "Debian GNU/Linux 10.2.0 64bit"
CENTOS = "CentOS 7.9 64bit"

Import = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path_factory.mktemp("imsd"))
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def imported(daemon: DaemonProcess, tmp_path: Path) -> Import:
    """Import a disk with some declaration: the image, with what `imsctl image inspect` says of it."""

    def run(disk: bytes, *declared: str) -> dict[str, Any]:
        path = tmp_path / "disk.raw"
        path.write_bytes(disk)
        made = daemon.imsctl_json("image", "import", str(path), "--name", tmp_path.name[-100:], *declared)
        image: dict[str, Any] = daemon.imsctl_json("image", "show", made["id"])
        return {**image, **daemon.imsctl_json("image", "inspect", made["id"])}

    return run


@pytest.fixture
def holding(tmp_path: Path) -> Callable[[Paths], bytes]:
    """A disk that a BIOS starts, with some files in its one file system."""

    return lambda paths: mbr_disk(ext4(tmp_path / "root", paths))


def codes(image: dict[str, Any]) -> set[str]:
    return {found["code"] for found in image["findings"]}


def guest_codes(image: dict[str, Any]) -> dict[str, str]:
    return {found["code"]: found["severity"] for found in image["guest"]["findings"]}


def test_what_is_declared_and_found_is_no_finding(
    imported: Import, holding: Callable[[Paths], bytes]
) -> None:
    declared = ("--os-version", DEBIAN, "--arch", "x86", "--boot-mode", "bios")
    image = imported(holding(GOOD), *declared)
    assert (image["os_version"], image["architecture"], image["boot_mode"]) == (DEBIAN, "x86", "bios")
    assert codes(image) == set()
    assert image["guest"]["verified"]


def test_a_system_that_is_found_overrides_the_declared_one(
    imported: Import, holding: Callable[[Paths], bytes]
) -> None:
    image = imported(holding(GOOD), "--os-version", CENTOS, "--arch", "arm")
    assert (image["os_version"], image["architecture"], image["boot_mode"]) == (DEBIAN, "x86", "bios")
    assert codes(image) == {"OS_VERSION_OVERRIDDEN", "ARCHITECTURE_OVERRIDDEN"}
    messages = " ".join(found["message"] for found in image["findings"])
    assert CENTOS in messages
    assert "declared arm" in messages


def test_a_declared_boot_mode_that_the_disk_has_not_is_said_to_block_the_boot(
    imported: Import, holding: Callable[[Paths], bytes]
) -> None:
    image = imported(holding(GOOD), "--boot-mode", "uefi")
    assert guest_codes(image)["BOOT_MODE_MISMATCH"] == "blocks_boot"
    assert image["guest"]["boot_modes"] == ["bios"]


def test_a_system_for_arm_starts_by_uefi_whatever_was_declared(
    imported: Import, holding: Callable[[Paths], bytes]
) -> None:
    declared = ("--arch", "x86", "--boot-mode", "bios")
    image = imported(holding({**GOOD, "/bin/sh": elf(183)}), *declared)
    assert (image["architecture"], image["boot_mode"]) == ("arm", "uefi")
    assert codes(image) == {"ARCHITECTURE_OVERRIDDEN", "BOOT_MODE_OVERRIDDEN"}
    assert guest_codes(image)["BOOT_NO_LOADER"] == "blocks_boot"


@pytest.mark.parametrize(
    ("program", "os_version"),
    [(elf(62), "Other_Linux (64_bit)"), (elf(3, 32), "Other_Linux (32_bit)")],
    ids=["64", "32"],
)
def test_a_linux_that_is_in_no_table_is_another_linux(
    imported: Import, holding: Callable[[Paths], bytes], program: bytes, os_version: str
) -> None:
    files = {**GOOD, "/bin/sh": program, "/etc/os-release": 'ID=void\nPRETTY_NAME="Void Linux"\n'}
    image = imported(holding(files), "--os-version", CENTOS)
    assert image["os_version"] == os_version
    assert image["guest"]["name"] == "Void Linux"
    assert codes(image) == {"OS_VERSION_OVERRIDDEN"}


def test_where_nothing_is_found_the_declaration_counts_and_is_not_verified(imported: Import) -> None:
    declared = ("--os-version", CENTOS, "--arch", "arm")
    image = imported(patterned_disk(2 * MIB), *declared)
    assert (image["os_version"], image["architecture"], image["boot_mode"]) == (CENTOS, "arm", "uefi")
    assert not image["guest"]["verified"]
    assert codes(image) == set()
    assert set(guest_codes(image)) == {"GUEST_NO_SYSTEM"}

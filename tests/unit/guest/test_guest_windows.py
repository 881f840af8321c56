"""Which Windows a root holds, its drivers and its state, from hives that hivexregedit wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.guest.boot import BootWays
from imsd.guest.disk import Place
from imsd.guest.file_system import Tree
from imsd.guest.guest import Guest
from imsd.guest.identity import Identity
from imsd.guest.preflight import checks_for
from imsd.guest.readiness import windows_disk_drivers, windows_network_driver
from imsd.guest.report import Readiness
from imsd.guest.windows import identify_windows
from tests.unit.guest.crafted_guest import BIOS_BOOTABLE
from tests.unit.guest.memory_tree import Broken, MemoryFileSystem, Paths
from tests.unit.guest.windows_disks import make_hive, program

SYSTEM32 = "/WINDOWS/system32"
MakeTree = Callable[..., Tree]


def software(**values: str) -> str:
    lines = [f'"{name}"="{value}"' for name, value in values.items() if name != "ImageState"]
    text = "[\\Microsoft\\Windows NT\\CurrentVersion]\n" + "\n".join(lines) + "\n\n"
    if "ImageState" in values:
        state = values["ImageState"]
        text += f'[\\Microsoft\\Windows\\CurrentVersion\\Setup\\State]\n"ImageState"="{state}"\n\n'
    return text


def system(**starts: int) -> str:
    text = '[\\Select]\n"Current"=dword:00000001\n\n[\\ControlSet001\\Services\\Tcpip]\n\n'
    for name, start in starts.items():
        text += f'[\\ControlSet001\\Services\\{name}]\n"Start"=dword:0000000{start}\n\n'
    return text


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    def make(software_text: str = "", system_text: str = "", paths: Paths | None = None) -> Tree:
        content: dict[str, object] = {f"{SYSTEM32}/config": None, f"{SYSTEM32}/ntoskrnl.exe": program()}
        if software_text:
            content[f"{SYSTEM32}/config/SOFTWARE"] = make_hive(tmp_path / "software", software_text)
        if system_text:
            content[f"{SYSTEM32}/config/SYSTEM"] = make_hive(tmp_path / "system", system_text)
        return Tree(MemoryFileSystem({**content, **(paths or {})}, name="ntfs"))  # type: ignore[dict-item]

    return make


def identified(tree: Tree) -> Identity:
    found = identify_windows(tree)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("product", "build", "os_version"),
    [
        ("Windows Server 2019 Datacenter", "17763", "Windows Server 2019 Datacenter 64bit"),
        ("Windows Server 2016 Standard Evaluation", "14393", "Windows Server 2016 Standard 64bit"),
        ("Windows Server 2012 R2 Essentials", "9600", "Windows Server 2012 Essentials R2 64bit"),
        ("Microsoft Windows Server 2008 R2 Enterprise", "7601", "Windows Server 2008 R2 Enterprise 64bit"),
        ("Windows 10 Pro", "19045", "Windows 10 64bit"),
        ("Windows 10 Enterprise", "22000", "Windows 11 64bit"),
        ("Windows 10 Home", "21999", "Windows 10 64bit"),
        ("Windows 7 Enterprise", "7601", "Windows 7 Enterprise 64bit"),
        ("ReactOS", "1", "Other_Windows (64_bit)"),
    ],
)
def test_a_windows_is_named_as_the_image_service_names_it(
    make_tree: MakeTree, product: str, build: str, os_version: str
) -> None:
    found = identified(make_tree(software(ProductName=product, CurrentBuildNumber=build)))
    assert found.os_version == os_version
    assert (found.os_type, found.distribution, found.version) == ("Windows", "windows", build)


@pytest.mark.parametrize(
    ("machine", "family", "bits"), [(0x8664, "x86", 64), (0x14C, "x86", 32), (0xAA64, "arm", 64)]
)
def test_the_kernel_tells_the_architecture(make_tree: MakeTree, machine: int, family: str, bits: int) -> None:
    found = identified(make_tree(paths={f"{SYSTEM32}/ntoskrnl.exe": program(machine)}))
    assert found.architecture is not None
    assert (found.architecture.family, found.bits) == (family, bits)


def test_another_program_tells_it_where_the_kernel_is_damaged(make_tree: MakeTree) -> None:
    damaged: Paths = {f"{SYSTEM32}/ntoskrnl.exe": Broken(), f"{SYSTEM32}/cmd.exe": program(0x14C)}
    assert identified(make_tree(paths=damaged)).bits == 32


def test_a_windows_with_a_damaged_registry_is_still_one(make_tree: MakeTree) -> None:
    found = identified(make_tree(paths={f"{SYSTEM32}/config/SOFTWARE": b"regf" + bytes(5000)}))
    assert (found.name, found.os_version) == ("", "Other_Windows (64_bit)")
    assert any("registry unreadable" in line for line in found.evidence)


def test_a_root_without_system32_is_no_windows() -> None:
    assert identify_windows(Tree(MemoryFileSystem({"/Windows/notepad.exe": b""}, name="ntfs"))) is None


FILES: Paths = {f"{SYSTEM32}/drivers/{name}.sys": b"" for name in ("viostor", "vioscsi", "netkvm")}


@pytest.mark.parametrize(
    ("starts", "paths", "disk", "network"),
    [
        ({"viostor": 0, "netkvm": 3}, FILES, Readiness.READY, Readiness.READY),
        ({"vioscsi": 0, "netkvm": 4}, FILES, Readiness.READY, Readiness.MISSING),
        ({"viostor": 3}, FILES, Readiness.MISSING, Readiness.MISSING),
        ({"viostor": 0, "netkvm": 3}, {}, Readiness.MISSING, Readiness.MISSING),
        ({}, FILES, Readiness.MISSING, Readiness.MISSING),
    ],
)
def test_a_driver_needs_its_file_and_its_service(
    make_tree: MakeTree, starts: dict[str, int], paths: Paths, disk: Readiness, network: Readiness
) -> None:
    subject = make_tree("", system(**starts), paths)
    assert windows_disk_drivers(subject).readiness is disk
    assert windows_network_driver(subject).readiness is network


def codes(tree: Tree, *, noticed: tuple[str, ...] = ()) -> set[str]:
    file_system = tree.file_system
    file_system.noticed = noticed
    place = Place("partition 1", None, None, file_system, "ntfs", "")
    subject = Guest(tree, [place], {"/": place}, identified(tree), BootWays(BIOS_BOOTABLE))
    subject.disk_driver = windows_disk_drivers(tree)
    subject.network_driver = windows_network_driver(tree)
    return {each.code for check in checks_for("Windows") for each in check(subject)}


GOOD_SOFTWARE = software(
    ProductName="Windows Server 2019 Datacenter",
    CurrentBuildNumber="17763",
    ImageState="IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE",
)
GOOD_FILES: Paths = {
    **FILES,
    "/Program Files/Cloudbase Solutions/Cloudbase-Init/conf": None,
    "/Program Files/Qemu-ga/qemu-ga.exe": b"",
}


def test_nothing_speaks_against_a_good_windows(make_tree: MakeTree) -> None:
    assert codes(make_tree(GOOD_SOFTWARE, system(viostor=0, netkvm=3), GOOD_FILES)) == set()


def test_everything_speaks_against_a_bad_one(make_tree: MakeTree) -> None:
    bad = software(ProductName="Windows 7 Ultimate", ImageState="IMAGE_STATE_COMPLETE")
    subject = make_tree(bad, system(), {f"{SYSTEM32}/ntoskrnl.exe": program(0x14C)})
    noticed = ("Windows was hibernated", "the NTFS volume was not cleanly unmounted")
    assert codes(subject, noticed=noticed) == {
        "VIRTIO_DISK_MISSING",
        "VIRTIO_NETWORK_MISSING",
        "WINDOWS_HIBERNATED",
        "WINDOWS_DIRTY",
        "WINDOWS_NOT_SYSPREPPED",
        "CLOUD_INIT_MISSING",
        "GUEST_AGENT_MISSING",
        "GUEST_32_BIT",
        "GUEST_NOT_LISTED",
    }

"""Whole disks, made by the systems' own tools: what is said of them, and that damage is only ever said."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

import pytest

from imsd.guest import inspect as inspect_module
from imsd.guest import preflight_linux
from imsd.guest.budget import Budget, BudgetExhausted, PagedVolume
from imsd.guest.guest import Guest
from imsd.guest.inspect import inspect
from imsd.guest.partitions import BIOS_BOOT_GUID, ESP_GUID
from imsd.guest.report import BootMode, GuestReport, Readiness
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.btrfs_disks import BtrfsWriter, suse_like, ubuntu_like
from tests.unit.guest.crafted_guest import GOOD, KERNEL, ROOT_UUID, SECTORS, ext4, folder_of, mbr_disk
from tests.unit.guest.guest_disks import (
    gpt_entry,
    make_fat,
    make_iso,
    sound_gpt,
    whole,
)
from tests.unit.guest.memory_tree import Content, Link
from tests.unit.guest.windows_disks import make_windows_volume

MIB = 1 << 20
BOOT_UUID = "22222222-2222-3333-4444-555555555555"


def codes(report: GuestReport) -> list[str]:
    return [each.code for each in report.findings]


@pytest.fixture
def debian(tmp_path: Path) -> bytes:
    return mbr_disk(ext4(tmp_path / "root", GOOD))


def test_a_good_debian_is_known_and_nothing_speaks_against_it(debian: bytes) -> None:
    report = inspect(BytesVolume(debian))
    assert codes(report) == []
    assert (report.is_inspected, report.is_verified) == (True, True)
    assert (report.os_type, report.distribution) == ("Linux", "debian")
    assert (report.version, report.os_version) == ("10.2", "Debian GNU/Linux 10.2.0 64bit")
    assert (report.bits, report.architecture) == (64, "x86")
    assert (report.boot_modes, report.default_boot_mode) == ((BootMode.BIOS,), BootMode.BIOS)
    assert (report.has_cloud_init, report.has_guest_agent) == (True, True)
    assert (report.virtio_disk, report.virtio_network) == (Readiness.READY, Readiness.READY)
    [partition] = report.partitions
    assert (partition.number, partition.size_bytes, partition.used_as) == (1, 8 * MIB, "/")
    assert any(KERNEL in line for line in report.evidence)
    assert GuestReport.from_json(report.to_json()) == report


def test_few_bytes_of_a_disk_are_read(debian: bytes) -> None:
    volume = PagedVolume(len(debian), lambda offset, length: debian[offset : offset + length], Budget())
    assert inspect(volume).is_verified
    assert volume.reads < 60
    assert volume.read_bytes < 4 * MIB


def test_boot_on_a_partition_of_its_own_is_followed(tmp_path: Path) -> None:
    boot = {path.removeprefix("/boot"): content for path, content in GOOD.items() if "/boot" in path}
    rest = {path: content for path, content in GOOD.items() if "/boot" not in path}
    fstab = f"UUID={ROOT_UUID} / ext4\nUUID={BOOT_UUID} /boot ext4\n"
    root = ext4(tmp_path / "root", {**rest, "/boot": None, "/etc/fstab": fstab})
    report = inspect(BytesVolume(mbr_disk(ext4(tmp_path / "boot", boot, BOOT_UUID), root)))
    assert codes(report) == []
    assert [partition.used_as for partition in report.partitions] == ["/boot", "/"]


def gpt_disk(tmp_path: Path, loaders: Mapping[str, Content], root: bytes) -> bytes:
    """BIOS boot, an ESP with ``loaders``, the root."""
    esp = tmp_path / "esp-folder"
    esp.mkdir()
    fat = whole(make_fat(tmp_path / "esp", folder_of(esp, loaders), "-F", "32", size_bytes=40 * MIB))
    first_of_root = 42 * SECTORS
    entries = [
        gpt_entry(UUID(BIOS_BOOT_GUID).bytes_le, SECTORS, 2 * SECTORS - 1),
        gpt_entry(UUID(ESP_GUID).bytes_le, 2 * SECTORS, first_of_root - 1, "EFI"),
        gpt_entry(b"L" * 16, first_of_root, first_of_root + len(root) // 512 - 1, "root"),
    ]
    disk = sound_gpt(43 * MIB + len(root), entries=entries)
    disk[:4] = b"boot"
    disk[2 * MIB : 42 * MIB] = fat
    disk[42 * MIB : 42 * MIB + len(root)] = root
    return bytes(disk)


@pytest.mark.parametrize(
    ("loaders", "modes", "found"),
    [
        ({"EFI/BOOT/BOOTX64.EFI": b"MZ"}, (BootMode.BIOS, BootMode.UEFI), []),
        ({"EFI/debian/grubx64.efi": b"MZ"}, (BootMode.BIOS, BootMode.UEFI), ["BOOT_NO_FALLBACK_LOADER"]),
        ({"readme": b""}, (BootMode.BIOS,), []),
    ],
)
def test_a_disk_for_both_firmwares_is_known_by_its_loaders(
    tmp_path: Path, loaders: Mapping[str, Content], modes: tuple[BootMode, ...], found: list[str]
) -> None:
    report = inspect(BytesVolume(gpt_disk(tmp_path, loaders, ext4(tmp_path / "root", GOOD))))
    assert report.boot_modes == modes
    assert codes(report) == found
    assert [partition.used_as for partition in report.partitions] == [
        "BIOS boot",
        "EFI system partition",
        "/",
    ]


def test_the_root_that_fstab_names_is_chosen_and_the_other_one_told(tmp_path: Path) -> None:
    other = {**GOOD, "/etc/os-release": "ID=fedora\nVERSION_ID=29\nPRETTY_NAME=Fedora\n", "/etc/fstab": ""}
    disk = mbr_disk(ext4(tmp_path / "other", other, BOOT_UUID, size="16M"), ext4(tmp_path / "root", GOOD))
    report = inspect(BytesVolume(disk))
    assert report.distribution == "debian"
    assert codes(report) == ["GUEST_SEVERAL_SYSTEMS"]
    assert "Fedora on partition 1" in report.findings[0].message


def test_usr_on_a_partition_of_its_own_is_no_second_system(tmp_path: Path) -> None:
    program = GOOD["/bin/sh"]
    usr = {"/lib/os-release": "ID=debian\n", "/sbin/qemu-ga": program, "/bin/sh": program}
    fstab = f"UUID={ROOT_UUID} / ext4\nUUID={BOOT_UUID} /usr ext4\n"
    names = ("/etc/os-release", "/usr/sbin/qemu-ga")
    rest = {path: content for path, content in GOOD.items() if path not in names}
    root = {**rest, "/usr": None, "/etc/fstab": fstab, "/etc/os-release": Link("../usr/lib/os-release")}
    disk = mbr_disk(ext4(tmp_path / "root", root), ext4(tmp_path / "usr", usr, BOOT_UUID, size="16M"))
    report = inspect(BytesVolume(disk))
    assert codes(report) == []
    assert [partition.used_as for partition in report.partitions] == ["/", "/usr"]


def test_the_larger_of_two_roots_is_chosen_where_fstab_does_not_help(tmp_path: Path) -> None:
    other = {**GOOD, "/etc/os-release": "ID=fedora\nVERSION_ID=29\n", "/etc/fstab": ""}
    small = {**GOOD, "/etc/fstab": ""}
    disk = mbr_disk(ext4(tmp_path / "small", small), ext4(tmp_path / "large", other, BOOT_UUID, size="16M"))
    assert inspect(BytesVolume(disk)).distribution == "fedora"


def test_a_system_that_nothing_names_is_other_linux(tmp_path: Path) -> None:
    names = ("/etc/os-release", "/etc/debian_version")
    paths = {path: content for path, content in GOOD.items() if path not in names}
    report = inspect(BytesVolume(mbr_disk(ext4(tmp_path / "root", {**paths, "/etc/passwd": ""}))))
    assert (report.is_verified, report.os_version) == (True, "Other_Linux (64_bit)")
    assert "GUEST_SYSTEM_UNKNOWN" in codes(report)


def test_a_disk_of_data_has_no_system(tmp_path: Path) -> None:
    report = inspect(BytesVolume(ext4(tmp_path / "data", {"/photos/a.jpg": b"x"})))
    assert codes(report) == ["GUEST_NO_SYSTEM"]
    assert (report.is_inspected, report.is_verified, report.os_version) == (True, False, "")
    assert [partition.file_system for partition in report.partitions] == ["ext4"]


@pytest.mark.parametrize(
    ("options", "modes"), [((), ()), (("-b", "boot.img", "-no-emul-boot"), (BootMode.BIOS,))]
)
def test_a_disc_starts_by_its_boot_entries(
    tmp_path: Path, options: tuple[str, ...], modes: tuple[BootMode, ...]
) -> None:
    folder = tmp_path / "disc"
    folder.mkdir()
    (folder / "boot.img").write_bytes(bytes(2048))
    report = inspect(BytesVolume(whole(make_iso(tmp_path / "disc.iso", folder, "-R", *options))))
    assert report.boot_modes == modes


def test_a_windows_disk_is_known(tmp_path: Path) -> None:
    report = inspect(BytesVolume(mbr_disk(make_windows_volume(tmp_path / "windows").read_bytes())))
    assert (report.os_type, report.os_version) == ("Windows", "Windows Server 2022 Standard 64bit")
    assert (report.virtio_disk, report.virtio_network) == (Readiness.READY, Readiness.MISSING)
    assert {"VIRTIO_NETWORK_MISSING", "GUEST_NOT_LISTED"} <= set(codes(report))


@pytest.mark.parametrize(
    ("make", "os_version"),
    [
        (ubuntu_like, "Ubuntu 24.04 Server 64bit"),
        (suse_like, "SUSE Linux Enterprise Server 15 SP5 64bit"),
    ],
)
def test_a_system_in_a_subvolume_is_known(make: Callable[[], BtrfsWriter], os_version: str) -> None:
    report = inspect(BytesVolume(mbr_disk(make().finish())))
    assert (report.is_verified, report.os_version) == (True, os_version)
    assert [partition.file_system for partition in report.partitions] == ["btrfs"]


def test_an_encrypted_disk_says_so() -> None:
    report = inspect(BytesVolume(mbr_disk(b"LUKS\xba\xbe\0\x02".ljust(MIB, b"\0"))))
    assert set(codes(report)) == {"DISK_ENCRYPTED", "GUEST_NO_SYSTEM"}


def test_the_worst_comes_first(tmp_path: Path) -> None:
    paths = {**GOOD, "/etc/machine-id": "1234", "/etc/fstab": "/dev/sda1 / ext4\n"}
    disk = mbr_disk(ext4(tmp_path / "root", paths), code=b"")
    assert codes(inspect(BytesVolume(disk))) == ["BOOT_NO_LOADER", "FSTAB_BY_DEVICE_NAME", "MACHINE_ID_SET"]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 4096, MIB])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x55\xaa"])
def test_any_small_disk_has_a_report(size: int, fill: bytes) -> None:
    report = inspect(BytesVolume((fill * size)[:size]))
    assert not report.is_verified
    assert GuestReport.from_json(report.to_json()) == report


def test_damage_never_ends_an_inspection(debian: bytes) -> None:
    used = [place for place in range(0, len(debian), 16) if any(debian[place : place + 16])]
    for seed in range(60):
        chance = random.Random(seed)
        disk = bytearray(debian)
        for place in chance.sample(used, len(used) // 50):
            disk[place + chance.randrange(16)] = chance.randrange(256)
        report = inspect(BytesVolume(bytes(disk)))
        assert report.is_inspected
        assert GuestReport.from_json(report.to_json()) == report


def test_a_disk_that_ends_anywhere_has_a_report(debian: bytes) -> None:
    chance = random.Random(5)
    for _ in range(20):
        assert inspect(BytesVolume(debian[: chance.randrange(len(debian))])).is_inspected


def failing(error: BaseException) -> object:
    def check_fstab(_: Guest) -> object:
        raise error

    return check_fstab


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GuestUnreadable("a bad block"), "GUEST_UNREADABLE"),
        (IndexError("a defect"), "GUEST_UNREADABLE"),
        (RecursionError(), "GUEST_UNREADABLE"),
        (MemoryError(), "GUEST_PARTLY_INSPECTED"),
        (BudgetExhausted("too much"), "GUEST_PARTLY_INSPECTED"),
    ],
)
def test_a_check_that_fails_is_told_and_the_rest_is_known(
    debian: bytes, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: str
) -> None:
    monkeypatch.setattr(preflight_linux, "CHECKS", (failing(error),))
    report = inspect(BytesVolume(debian))
    assert codes(report) == [code]
    assert report.os_version == "Debian GNU/Linux 10.2.0 64bit"


def test_a_layout_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_layout(_: object) -> None:
        raise GuestUnreadable("no bytes")

    monkeypatch.setattr(inspect_module, "read_layout", read_layout)
    assert codes(inspect(BytesVolume(bytes(512)))) == ["GUEST_UNREADABLE"]

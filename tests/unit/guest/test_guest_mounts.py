"""The guest's tree with what it mounts, and what may start it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from imsd.guest.boot import BootWays, boot_ways, efi_loaders
from imsd.guest.disk import BootFacts, DiskLayout, Place
from imsd.guest.file_system import Kind, Tree
from imsd.guest.linux import identify_linux
from imsd.guest.mounts import is_named, mounted_tree, read_fstab
from imsd.guest.partitions import TableKind
from imsd.guest.report import BootMode
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.crafted_guest import BIOS_BOOTABLE, place, with_partition_uuid
from tests.unit.guest.memory_tree import ELF_X86, Broken, Link, MemoryFileSystem, tree

ESP_GUID = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
LV = Place("vg-a/root", None, None, MemoryFileSystem({}), "ext4", "")


@pytest.mark.parametrize(
    ("subject", "device"),
    [
        (place(1, {}, uuid="ABCD-EF01"), "UUID=abcd-ef01"),
        (place(1, {}, uuid="ABCD-EF01"), 'UUID="ABCD-EF01"'),
        (place(1, {}, uuid="ABCD-EF01"), "/dev/disk/by-uuid/ABCD-EF01"),
        (place(1, {}, label="root"), "LABEL=root"),
        (place(1, {}, label="root"), "/dev/disk/by-label/root"),
        (place(1, {}, partition_name="USR-A"), "PARTLABEL=USR-A"),
        (with_partition_uuid(place(1, {}), "6f8a1f2e-01"), "PARTUUID=6F8A1F2E-01"),
        (with_partition_uuid(place(1, {}), "6f8a1f2e-01"), "/dev/disk/by-partuuid/6f8a1f2e-01"),
        (place(2, {}), "/dev/sda2"),
        (place(2, {}), "/dev/vdb2"),
        (place(2, {}), "/dev/nvme0n1p2"),
        (LV, "/dev/vg-a/root"),
        (LV, "/dev/mapper/vg--a-root"),
    ],
)
def test_a_place_answers_to_its_names(subject: Place, device: str) -> None:
    assert is_named(subject, device)


@pytest.mark.parametrize(
    ("subject", "device"),
    [
        (place(1, {}), "UUID="),
        (place(1, {}), "LABEL="),
        (place(1, {}), "PARTLABEL="),
        (place(1, {}), "PARTUUID="),
        (place(1, {}, uuid="ABCD"), "PARTUUID=ABCD"),
        (place(1, {}, uuid="ABCD"), "UUID=ABCDE"),
        (place(2, {}), "/dev/sda22"),
        (place(2, {}), "/dev/sda"),
        (place(2, None), "UUID=x"),
        (LV, "/dev/vg/a-root"),
        (replace(LV, name="disk"), "/dev/disk"),
    ],
)
def test_a_place_does_not_answer_to_other_names(subject: Place, device: str) -> None:
    assert not is_named(subject, device)


def test_fstab_is_read_with_its_escapes_and_without_its_comments() -> None:
    text = "# no\n\nUUID=1 / ext4 defaults,noatime 0 1\n/dev/sdb1 /my\\040disk/ auto\nshort\n"
    entries = read_fstab(tree({"/etc/fstab": text}))
    assert [(each.device, each.path, each.type, each.options) for each in entries] == [
        ("UUID=1", "/", "ext4", ("defaults", "noatime")),
        ("/dev/sdb1", "/my disk", "auto", ()),
    ]


def test_a_huge_fstab_is_read_in_part() -> None:
    assert len(read_fstab(tree({"/etc/fstab": "a /b c\n" * 100_000}))) == 256


def mounted(root: Place, places: Sequence[Place]) -> tuple[Tree, Mapping[str, Place]]:
    assert root.file_system is not None
    return mounted_tree(root, root.file_system, places)


def test_boot_and_usr_of_their_own_are_seen_where_they_are_mounted() -> None:
    root = place(
        1,
        {
            "/etc/fstab": "LABEL=usr /usr\nLABEL=boot /boot\nLABEL=esp /boot/efi vfat\nLABEL=x /home\n",
            "/boot": None,
            "/usr": None,
            "/bin": Link("/usr/bin"),
            "/kernel": Link("boot/vmlinuz"),
        },
    )
    usr = place(2, {"/bin/sh": ELF_X86, "/lib/os-release": "ID=fedora\n"}, label="usr")
    boot = place(3, {"/vmlinuz": "a kernel", "/efi": None}, label="boot")
    esp = place(4, {"/EFI/BOOT/BOOTX64.EFI": "a loader"}, label="esp")
    home = place(5, {"/secret": "x"}, label="x")
    seen, mounts = mounted(root, [root, usr, boot, esp, home])
    assert seen.read_text("/kernel") == "a kernel"
    assert seen.read_text("/boot/efi/EFI/BOOT/BOOTX64.EFI") == "a loader"
    assert seen.read_text("/boot/../boot/./vmlinuz") == "a kernel"
    assert seen.read_file("/bin/sh") == ELF_X86
    assert [name for name, _ in seen.list("/boot")] == ["vmlinuz", "efi"]
    assert seen.find("/home/secret") is None
    assert mounts == {"/": root, "/usr": usr, "/boot": boot, "/boot/efi": esp, "/home": home}
    identity = identify_linux(seen)
    assert identity is not None
    assert identity.distribution == "fedora"


def test_a_mount_without_a_directory_is_left_out() -> None:
    root = place(1, {"/etc/fstab": "LABEL=boot /boot ext4\n"})
    seen, mounts = mounted(root, [root, place(2, {"/x": "y"}, label="boot")])
    assert seen.find("/boot") is None
    assert list(mounts) == ["/"]


def test_a_usr_of_coreos_is_mounted_without_fstab() -> None:
    root = place(1, {"/usr": None, "/etc/os-release": Link("../usr/lib/os-release")})
    usr = place(3, {"/lib/os-release": "ID=coreos\n"}, partition_name="USR-A")
    seen, mounts = mounted(root, [root, usr])
    assert seen.read_text("/etc/os-release") == "ID=coreos\n"
    assert mounts["/usr"] is usr


@pytest.mark.parametrize("image", ["/vmlinuz-6.1.0", "/EFI/Linux/debian-6.1.efi"])
@pytest.mark.parametrize("fstab", ["", "PARTUUID=1-2 /boot ext4\n"])
def test_what_looks_like_boot_is_mounted_where_fstab_does_not_help(image: str, fstab: str) -> None:
    root = place(1, {"/boot": None, "/etc/fstab": fstab})
    boot = place(3, {image: "x"})
    seen, mounts = mounted(root, [root, place(2, {"/data": "y"}), boot])
    assert seen.read_text(f"/boot{image}") == "x"
    assert mounts["/boot"] is boot


def test_a_boot_with_kernels_stays_as_it_is() -> None:
    root = place(1, {"/boot/vmlinuz-6.1.0": "mine"})
    seen, mounts = mounted(root, [root, place(2, {"/vmlinuz-6.1.0": "other"})])
    assert seen.read_text("/boot/vmlinuz-6.1.0") == "mine"
    assert list(mounts) == ["/"]


def test_nodes_of_other_trees_are_refused() -> None:
    root = place(1, {"/a": "x"})
    seen, _ = mounted(root, [root])
    foreign = tree({"/a": "x"}).find("/a")
    assert foreign is not None
    with pytest.raises(GuestUnreadable):
        seen.file_system.read(foreign, 0, 1)


@pytest.mark.parametrize(
    ("paths", "fallback", "vendor"),
    [
        (["/EFI/BOOT/BOOTX64.EFI"], ["/EFI/BOOT/BOOTX64.EFI"], []),
        (["/efi/boot/bootaa64.efi"], ["/efi/boot/bootaa64.efi"], []),
        (["/EFI/debian/grubx64.efi", "/EFI/debian/mmx64.efi"], [], ["/EFI/debian/grubx64.efi"]),
        (["/EFI/BOOT/fbx64.efi", "/EFI/BOOT/notes.txt"], [], []),
        (["/EFI/Microsoft/Boot/bootmgfw.efi"], [], ["/EFI/Microsoft/Boot/bootmgfw.efi"]),
        (["/EFI/Microsoft/Boot/memtest.efi", "/startup.nsh"], [], []),
        (["/EFI"], [], []),
    ],
)
def test_loaders_are_found_on_an_esp(paths: list[str], fallback: list[str], vendor: list[str]) -> None:
    found = efi_loaders(MemoryFileSystem(dict.fromkeys(paths, "MZ")))
    assert found == (tuple(fallback), tuple(vendor))


BIOS, UEFI = BootMode.BIOS, BootMode.UEFI
NOTHING = BootFacts(False, False, False, False)
LOADER = ("/EFI/BOOT/BOOTX64.EFI",)


@pytest.mark.parametrize(
    ("ways", "modes", "on_x86", "on_arm"),
    [
        (BootWays(NOTHING), (), None, None),
        (BootWays(BIOS_BOOTABLE), (BIOS,), BIOS, UEFI),
        (BootWays(BIOS_BOOTABLE, fallback_loaders=LOADER), (BIOS, UEFI), BIOS, UEFI),
        (BootWays(NOTHING, vendor_loaders=LOADER), (UEFI,), UEFI, UEFI),
        (BootWays(replace(NOTHING, has_boot_code=True)), (), None, None),
        (BootWays(replace(NOTHING, has_boot_code=True), is_code_complete=True), (BIOS,), BIOS, UEFI),
        (BootWays(replace(NOTHING, has_boot_code=True, has_bios_boot=True)), (BIOS,), BIOS, UEFI),
        (BootWays(replace(NOTHING, has_active_partition=True)), (), None, None),
        (BootWays(NOTHING, disc_platforms=frozenset({0, 0xEF})), (BIOS, UEFI), BIOS, UEFI),
        (BootWays(NOTHING, disc_platforms=frozenset({0xEF})), (UEFI,), UEFI, UEFI),
        (BootWays(NOTHING, disc_platforms=frozenset()), (), None, None),
    ],
)
def test_boot_modes_follow_from_what_is_there(
    ways: BootWays, modes: tuple[BootMode, ...], on_x86: BootMode | None, on_arm: BootMode | None
) -> None:
    assert ways.modes() == modes
    assert ways.default_mode("x86") is on_x86
    assert ways.default_mode("arm") is on_arm


def layout(*places: Place, table: TableKind = "gpt") -> DiskLayout:
    return DiskLayout(table, (), (), BIOS_BOOTABLE, places, ())


def esp(content: str | Broken) -> Place:
    subject = place(1, {"/EFI/BOOT/BOOTX64.EFI": "MZ"} if content == "good" else {"/EFI": "no directory"})
    assert subject.partition is not None
    return replace(subject, partition=replace(subject.partition, type=ESP_GUID))


def test_loaders_of_all_efi_system_partitions_are_found_and_of_no_other() -> None:
    other = place(2, {"/EFI/BOOT/BOOTX64.EFI": "MZ"})
    disk = BytesVolume(bytes(512))
    assert boot_ways(disk, layout(esp("bad"), esp("good"), other)).fallback_loaders == LOADER
    assert boot_ways(disk, layout(other)).fallback_loaders == ()


def test_the_code_of_grub_needs_no_active_partition() -> None:
    assert boot_ways(BytesVolume(b"\xeb" * 300 + b"GRUB" + bytes(208)), layout()).is_code_complete
    assert not boot_ways(BytesVolume(bytes(512)), layout()).is_code_complete
    assert boot_ways(BytesVolume(b""), layout(table="none")).is_code_complete


def test_a_tree_in_memory_is_a_tree() -> None:
    node = Tree(MemoryFileSystem({"/a/b": "c"})).find("/a")
    assert node is not None
    assert node.kind is Kind.DIRECTORY

"""FAT as mkfs.fat and mtools make it, and structures that are damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from imsd.guest.fat import FatFileSystem
from imsd.guest.fat_layout import parse_entries
from imsd.guest.file_system import Tree
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.guest_disks import KIB, MIB, in_guest, make_fat, on_host, run, sparse, volume_of

SIZES = {"12": 2 * MIB, "16": 24 * MIB, "32": 40 * MIB}


def efi_tree(folder: Path) -> Path:
    (folder / "EFI/BOOT").mkdir(parents=True)
    (folder / "EFI/BOOT/BOOTX64.EFI").write_bytes(bytes(range(256)) * 3000)
    (folder / "EFI/debian").mkdir()
    (folder / "EFI/debian/grub.cfg").write_text("search\n")
    (folder / "A folder with a long name").mkdir()
    (folder / "A folder with a long name/Grüße an alle, die lange Namen mögen.text").write_text("hello")
    (folder / "lower.txt").write_bytes(b"")
    for number in range(120):
        (folder / f"EFI/debian/a longer name {number}.conf").write_text(str(number))
    return folder


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("sectors", ["1", "4"])
def test_all_of_a_tree_is_read_back(tmp_path: Path, width: str, sectors: str) -> None:
    folder = efi_tree(tmp_path / "tree")
    size = SIZES[width] * (1 if width == "12" else int(sectors))
    options = ("-F", width, "-s", sectors, "-n", "MY LABEL", "-i", "12ab34cd")
    opened = FatFileSystem.open(make_fat(tmp_path / "disk", folder, *options, size_bytes=size))
    assert opened is not None
    assert in_guest(opened) == on_host(folder)
    assert (opened.name, opened.label, opened.uuid) == ("vfat", "MY LABEL", "12AB-34CD")


def test_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    folder = efi_tree(tmp_path / "tree")
    opened = FatFileSystem.open(make_fat(tmp_path / "disk", folder, "-F", "32", size_bytes=40 * MIB))
    assert opened is not None
    assert opened.label == ""
    node = Tree(opened).find("/efi/Boot/bootx64.efi")
    assert node is not None
    content = (folder / "EFI/BOOT/BOOTX64.EFI").read_bytes()
    for offset, length in ((0, 10), (300 * KIB + 5, 5000), (767_999, 10), (768_000, 1)):
        assert opened.read(node, offset, length) == content[offset : offset + length]
    with pytest.raises(GuestUnreadable):
        opened.link_target(node)


def scattered(tmp_path: Path) -> bytearray:
    """A file system of 2 MiB with two files whose clusters lie between each other."""
    path = sparse(tmp_path / "disk", 2 * MIB)
    run("mkfs.fat", "-F", "12", "-s", "1", path)
    for name in ("first", "hole", "second"):
        (tmp_path / name).write_bytes(name.encode() * 200)
        run("mcopy", "-i", path, tmp_path / name, "::/")
    run("mdel", "-i", path, "::/hole")
    (tmp_path / "third").write_bytes(b"third" * 4000)
    run("mcopy", "-i", path, tmp_path / "third", "::/")
    volume = volume_of(path)
    return bytearray(volume.read(0, volume.size_bytes))


def test_a_scattered_file_and_a_deleted_one(tmp_path: Path) -> None:
    opened = FatFileSystem.open(BytesVolume(bytes(scattered(tmp_path))))
    assert opened is not None
    tree = Tree(opened)
    assert tree.read_file("third") == b"third" * 4000
    assert tree.read_file("second") == b"second" * 200
    assert tree.find("hole") is None


@pytest.mark.parametrize("value", [0, 1, 0xFFF, 2, 0xFF0])
def test_a_chain_that_ends_early_or_leads_outside_is_refused(tmp_path: Path, value: int) -> None:
    disk = scattered(tmp_path)
    place = 512 + 2 * 3 // 2  # the entry of cluster 2, where the first file starts
    disk[place : place + 2] = struct.pack("<H", disk[place + 1] << 8 & 0xF000 | value)
    size = disk.index(b"FIRST      ") + 28
    disk[size : size + 4] = struct.pack("<I", 200 * MIB)
    opened = FatFileSystem.open(BytesVolume(bytes(disk)))
    assert opened is not None
    node = Tree(opened).find("first")
    assert node is not None
    with pytest.raises(GuestUnreadable):
        opened.read(node, 199 * MIB, 100)


def test_a_directory_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    (folder / "loop").mkdir(parents=True)
    (folder / "loop/file").write_text("x")
    volume = make_fat(tmp_path / "disk", folder, "-F", "32", "-s", "1", size_bytes=40 * MIB)
    disk = bytearray(volume.read(0, volume.size_bytes))
    entry = disk.index(b"LOOP       ")
    cluster = struct.unpack("<H", disk[entry + 26 : entry + 28])[0]
    first = struct.unpack("<H", disk[14:16])[0] * 512
    disk[first + cluster * 4 : first + cluster * 4 + 4] = struct.pack("<I", cluster)
    place = disk.index(b"FILE       ")
    disk[place : place + 512 - place % 512] = b"\xe5" * (512 - place % 512)
    opened = FatFileSystem.open(BytesVolume(bytes(disk)))
    assert opened is not None
    with pytest.raises(GuestUnreadable, match="no end"):
        Tree(opened).list("loop")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (22, b"\1\0"),  # too short a table
        (19, b"\1\0"),  # fewer sectors than the tables take
        (19, b"\xff\xff"),  # more clusters than the table has
        (14, b"\xff\xff"),  # where the tables start
    ],
)
def test_a_boot_sector_that_contradicts_itself_is_refused(tmp_path: Path, place: int, value: bytes) -> None:
    disk = scattered(tmp_path)
    disk[place : place + len(value)] = value
    with pytest.raises(GuestUnreadable):
        FatFileSystem.open(BytesVolume(bytes(disk)))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, b"\0"),
        (11, b"\0\0"),
        (11, b"\0\x40"),
        (13, b"\0"),
        (13, b"\3"),
        (16, b"\0"),
        (510, b"\0"),
        (3, b"NTFS    "),
    ],
)
def test_another_boot_sector_is_no_fat(tmp_path: Path, place: int, value: bytes) -> None:
    disk = scattered(tmp_path)
    disk[place : place + len(value)] = value
    assert FatFileSystem.open(BytesVolume(bytes(disk))) is None


def entry(name: bytes, *, attributes: int = 0x20, case: int = 0) -> bytes:
    return name + bytes((attributes, case)) + bytes(19)


def piece(number: int, text: str, checksum: int) -> bytes:
    raw = text.encode("utf-16-le").ljust(26, b"\xff")
    return bytes((number,)) + raw[:10] + bytes((0x0F, 0, checksum)) + raw[10:22] + bytes(2) + raw[22:]


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ([entry(b"NAME    TXT")], "NAME.TXT"),
        ([entry(b"NAME    TXT", case=0x18)], "name.txt"),
        ([entry(b"\x05AME    TXT")], "σAME.TXT"),
        ([entry(b"\xe5AME    TXT"), entry(b"NEXT       ")], "NEXT"),
        ([piece(0x41, "long\0", 0x07), entry(b"LONG~1     ")], "LONG~1"),  # another checksum
        ([piece(2, "long\0", 0x07), entry(b"LONG~1     ")], "LONG~1"),  # no last piece
        ([piece(0x5F, "long\0", 0x07), entry(b"LONG~1     ")], "LONG~1"),  # too many pieces
        ([piece(0x42, "long\0", 0x07), entry(b"LONG~1     ")], "LONG~1"),  # one is missing
    ],
)
def test_names_of_entries(entries: list[bytes], name: str) -> None:
    assert [found.name for found in parse_entries([(0, b"".join(entries) + bytes(32))])] == [name]

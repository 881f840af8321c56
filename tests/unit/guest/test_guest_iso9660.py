"""ISO 9660 as genisoimage makes it: names of all kinds, El Torito; and structures that are damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.guest.file_system import Kind, Tree
from imsd.guest.iso9660 import Iso9660FileSystem
from imsd.guest.iso9660_layout import read_catalogue
from imsd.guest.rock_ridge import read_unix_record
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.guest_disks import (
    KIB,
    OS_RELEASE,
    in_guest,
    make_fat,
    make_iso,
    on_host,
    run,
    sample_tree,
)


def opened_disc(path: Path, folder: Path, *options: str) -> Iso9660FileSystem:
    opened = Iso9660FileSystem.open(make_iso(path, folder, *options))
    assert opened is not None
    return opened


def test_all_of_a_tree_is_read_back_with_rock_ridge(tmp_path: Path) -> None:
    folder = sample_tree(tmp_path / "tree")
    (folder / ("n" * 240)).write_text("a name that goes on elsewhere")
    opened = opened_disc(tmp_path / "disc", folder, "-R", "-J", "-joliet-long", "-V", "MY_DISC")
    assert in_guest(opened) == on_host(folder)
    assert (opened.name, opened.label, opened.is_case_sensitive) == ("iso9660", "MY_DISC", True)
    assert f'UUID="{opened.uuid}"' in run("blkid", "-p", tmp_path / "disc")
    assert opened.boot_entries == ()


def plain_tree(folder: Path) -> Path:
    (folder / "sources/inner").mkdir(parents=True)
    (folder / "sources/install.wim").write_bytes(b"windows" * 1000)
    (folder / "sources/inner/Größe.txt").write_text("umlaut")
    (folder / "no extension").write_text("x")
    return folder


def test_joliet_names_are_read(tmp_path: Path) -> None:
    folder = plain_tree(tmp_path / "tree")
    opened = opened_disc(tmp_path / "disc", folder, "-J", "-input-charset", "utf-8")
    assert in_guest(opened) == on_host(folder)
    assert Tree(opened).read_file("SOURCES/Install.WIM") == b"windows" * 1000


def test_plain_names_are_read_without_versions(tmp_path: Path) -> None:
    folder = plain_tree(tmp_path / "tree")
    (folder / "sources/inner/Größe.txt").unlink()
    opened = opened_disc(tmp_path / "disc", folder)
    assert set(in_guest(opened)) == {"NO_EXTEN", "SOURCES", "SOURCES/INNER", "SOURCES/INSTALL.WIM"}
    assert Tree(opened).read_file("/sources/install.wim") == b"windows" * 1000


def bootable(tmp_path: Path) -> Iso9660FileSystem:
    folder = sample_tree(tmp_path / "tree")
    (tmp_path / "esp/EFI/BOOT").mkdir(parents=True)
    (tmp_path / "esp/EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ" * 500)
    make_fat(folder / "efi.img", tmp_path / "esp", "-F", "12", size_bytes=200 * KIB)
    (folder / "bios.bin").write_bytes(b"\xeb\xfe" * 1024)
    bios = ("-b", "bios.bin", "-no-emul-boot", "-boot-load-size", "4", "-c", "boot.cat")
    return opened_disc(
        tmp_path / "disc", folder, "-R", *bios, "-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot"
    )


def test_what_el_torito_boots_is_listed(tmp_path: Path) -> None:
    opened = bootable(tmp_path)
    bios, efi = opened.boot_entries
    assert (bios.platform, bios.is_bootable, bios.loaded_bytes) == (0, True, 2048)
    assert (efi.platform, efi.is_bootable, efi.loaded_bytes) == (0xEF, True, 200 * KIB)
    assert opened.boot_volume(bios).read(0, 4) == b"\xeb\xfe\xeb\xfe"
    assert opened.boot_volume(efi).read(510, 2) == b"\x55\xaa"


def test_os_release_costs_few_reads(tmp_path: Path) -> None:
    volume = make_iso(tmp_path / "disc", sample_tree(tmp_path / "tree"), "-R")
    opened = Iso9660FileSystem.open(volume)
    assert opened is not None
    assert Tree(opened).read_file("/etc/os-release") == OS_RELEASE
    assert volume.reads < 25


@pytest.mark.parametrize("size", [0, 32 * KIB, 34 * KIB - 1, 64 * KIB])
def test_no_descriptor_is_no_disc(size: int) -> None:
    assert Iso9660FileSystem.open(BytesVolume(bytes(size))) is None


Change = Callable[[bytearray], None]
PRIMARY = 32 * KIB


def patch(place: int, value: bytes) -> Change:
    def change(disc: bytearray) -> None:
        disc[place : place + len(value)] = value

    return change


def root_record(disc: bytearray) -> int:
    return int(struct.unpack("<I", disc[PRIMARY + 158 : PRIMARY + 162])[0]) * 2048


def root_entry(offset: int, value: bytes) -> Change:
    """Changes the third record of the root: the first that is neither itself nor its parent."""

    def change(disc: bytearray) -> None:
        place = root_record(disc)
        for _ in range(2):
            place += disc[place]
        disc[place + offset : place + offset + len(value)] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        patch(PRIMARY + 128, b"\0\3"),  # size of a block
        patch(PRIMARY + 158, b"\xff\xff\xff\xff"),  # where the root is
        patch(PRIMARY + 166, b"\xff\xff\xff\x7f"),  # how long it is
        patch(PRIMARY + 156, b"\x05"),  # length of its record
        patch(PRIMARY + 181, b"\0"),  # no directory
        root_entry(0, b"\x10"),  # a record that is too short
        root_entry(32, b"\xff"),  # a name beyond its record
    ],
)
def test_a_damaged_disc_is_refused(tmp_path: Path, change: Change) -> None:
    disc = make_iso(tmp_path / "disc", plain_tree(tmp_path / "tree"), "-R")
    content = bytearray(disc.read(0, disc.size_bytes))
    change(content)
    with pytest.raises(GuestUnreadable):
        in_guest(Iso9660FileSystem.open(BytesVolume(bytes(content))))  # type: ignore[arg-type]


def test_a_file_in_endless_parts_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:03}").write_bytes(b"%03d" % number)
    disc = make_iso(tmp_path / "disc", folder)
    content = bytearray(disc.read(0, disc.size_bytes))
    place = root_record(content)
    for count in range(102):
        if count >= 2:
            content[place + 25] |= 0x80 if count < 101 else 0
        place += content[place]
        place = place if content[place] else -(-place // 2048) * 2048
    opened = Iso9660FileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    [(name, node)] = Tree(opened).list("/")
    assert (name, node.size_bytes) == ("000", 300)
    assert opened.read(node, 7, 10) == b"0200300400"
    with pytest.raises(GuestUnreadable):
        opened.read(node, 0, 300)


def susp(kind: bytes, content: bytes) -> bytes:
    return kind + bytes((len(content) + 4, 1)) + content


@pytest.mark.parametrize(
    ("entries", "name", "target"),
    [
        (susp(b"NM", b"\0name"), b"name", b""),
        (susp(b"NM", b"\1long ") + susp(b"NM", b"\0name"), b"long name", b""),
        (susp(b"NM", b"\2"), None, b""),
        (susp(b"SL", b"\0\x08\0\0\3usr\0\3lib"), None, b"/usr/lib"),
        (susp(b"SL", b"\1\4\0\1\3par") + susp(b"SL", b"\0\0\1t\2\0"), None, b"../part/."),
        (susp(b"SL", b"\0\0\xff"), None, b""),
        (susp(b"ST", b"") + susp(b"NM", b"\0name"), None, b""),
        (b"NM\3\1name", None, b""),
    ],
)
def test_entries_of_rock_ridge(entries: bytes, name: bytes | None, target: bytes) -> None:
    found = read_unix_record(BytesVolume(b""), entries, 2048)
    assert (found.name, found.target, found.is_link) == (name, target, bool(target))


@pytest.mark.parametrize("length", [0, 28, 4096, 0xFFFFFFFF])
def test_continuations_that_go_on_for_ever_are_refused(length: int) -> None:
    again = susp(b"CE", struct.pack("<IIIIII", 0, 0, 0, 0, length, 0))
    with pytest.raises(GuestUnreadable):
        read_unix_record(BytesVolume(again.ljust(2048, b"\0")), again, 2048)


def test_an_entry_beyond_its_record_is_refused() -> None:
    with pytest.raises(GuestUnreadable):
        read_unix_record(BytesVolume(b""), b"NM\xff\1\0name", 2048)


def catalogue(*entries: bytes) -> BytesVolume:
    validation = b"\1" + bytes(29) + b"\x55\xaa"
    return BytesVolume(validation + b"".join(entry.ljust(32, b"\0") for entry in entries))


def test_sections_of_a_catalogue_are_bounded() -> None:
    section = struct.pack("<BBH", 0x90, 0xEF, 0xFFFF)
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 9)
    found = read_catalogue(catalogue(entry, section, *[entry, b"\x44"] * 100), 0)
    assert len(found) == 32
    assert {boot.platform for boot in found} == {0, 0xEF}
    assert {boot.start for boot in found} == {9 * 2048}


@pytest.mark.parametrize("content", [bytes(64), b"\2".ljust(64, b"\0")])
def test_what_is_no_catalogue_lists_nothing(content: bytes) -> None:
    assert read_catalogue(BytesVolume(content), 0) == ()


def test_a_catalogue_beyond_the_end_is_refused() -> None:
    with pytest.raises(GuestUnreadable):
        read_catalogue(BytesVolume(bytes(64)), 4096)


def test_a_link_is_a_link_and_a_file_is_none(tmp_path: Path) -> None:
    opened = opened_disc(tmp_path / "disc", sample_tree(tmp_path / "tree"), "-R")
    link, file = Tree(opened).find_link("etc/os-release"), Tree(opened).find("short")
    assert link is not None
    assert file is not None
    assert (link.kind, file.kind) == (Kind.LINK, Kind.FILE)
    with pytest.raises(GuestUnreadable):
        opened.link_target(file)

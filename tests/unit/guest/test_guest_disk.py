"""A disk as a whole: what lies where, what is only recognised, and what is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.guest.cached import MAX_PAGES, PAGE_BYTES, CachedVolume, cached
from imsd.guest.disk import DiskLayout, read_layout
from imsd.guest.file_system import Tree
from imsd.guest.probe import find_file_system
from imsd.guest.striped import StripedVolume
from imsd.guest.volume import BytesVolume, GuestUnreadable, JoinedVolume, PartVolume, Piece, Volume
from tests.unit.guest.guest_disks import (
    KIB,
    MIB,
    OS_RELEASE,
    SparseVolume,
    gpt_entry,
    group_text,
    logical_text,
    make_ext,
    make_fat,
    make_iso,
    mbr_entry,
    mbr_sector,
    physical_volume,
    sample_tree,
    segment_text,
    sound_gpt,
)

ESP = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
BIOS_BOOT = b"Hah!IdontNeedEFI"
LINUX = bytes.fromhex("af3dc60f838472478e793d69d8477de4")


def codes(layout: DiskLayout) -> list[str]:
    return [finding.code for finding in layout.findings]


def put_together(size: int, *parts: tuple[bytes, int, Volume]) -> SparseVolume:
    """A disk with a GPT whose partitions, given with their type and start in MiB, hold volumes."""
    sector = 512
    entries = [
        gpt_entry(kind, start * MIB // sector, (start * MIB + volume.size_bytes) // sector - 1)
        for kind, start, volume in parts
    ]
    table = sound_gpt(size_bytes=size * MIB, entries=entries)
    pieces = {0: bytes(table[: 64 * KIB]), size * MIB - 64 * KIB: bytes(table[-64 * KIB :])}
    return SparseVolume(size * MIB, pieces | {start * MIB: v.read(0, v.size_bytes) for _, start, v in parts})


def test_a_disk_with_a_root_in_a_logical_volume(tmp_path: Path) -> None:
    (tmp_path / "esp/EFI").mkdir(parents=True)
    esp = make_fat(tmp_path / "esp.img", tmp_path / "esp", "-F", "12", size_bytes=2 * MIB)
    tree = sample_tree(tmp_path / "tree")
    root = make_ext(tmp_path / "root.img", tree, "-t", "ext4", "-b", "1024", size="4M")
    text = group_text(logical_text("root", segment_text(0, 64, [("pv0", 0)])))
    physical = JoinedVolume([Piece(BytesVolume(physical_volume(text)), 0, MIB), Piece(root, 0, 4 * MIB)])
    disk = put_together(16, (ESP, 1, esp), (BIOS_BOOT, 4, BytesVolume(b"GRUB" * KIB)), (LINUX, 5, physical))
    layout = read_layout(disk)
    assert (layout.table_kind, codes(layout)) == ("gpt", [])
    assert [(place.name, place.content) for place in layout.places] == [
        ("partition 1", "vfat"),
        ("partition 2", ""),
        ("partition 3", "LVM2_member"),
        ("vg/root", "ext4"),
    ]
    assert (layout.boot.has_esp, layout.boot.has_bios_boot, layout.boot.has_active_partition) == (
        True,
        True,
        False,
    )
    assert [logical.name for logical in layout.logical_volumes] == ["vg/root"]
    file_system = layout.places[3].file_system
    assert file_system is not None
    assert Tree(file_system).read_file("/etc/os-release") == OS_RELEASE
    assert disk.reads < 100
    assert disk.read_bytes < MIB


def test_a_disk_without_a_table_is_one_volume(tmp_path: Path) -> None:
    disk = make_ext(tmp_path / "disk", sample_tree(tmp_path / "tree"), "-t", "ext3")
    layout = read_layout(disk)
    assert (layout.table_kind, layout.partitions, codes(layout)) == ("none", (), [])
    assert [(place.name, place.content) for place in layout.places] == [("disk", "ext3")]


def test_a_hybrid_disc_is_a_disc_and_partitions(tmp_path: Path) -> None:
    disc = make_iso(tmp_path / "disc", sample_tree(tmp_path / "tree"), "-R")
    content = bytearray(disc.read(0, disc.size_bytes))
    content[:512] = mbr_sector(mbr_entry(0x17, 0x40, 100, 0x80), code=b"isolinux")
    layout = read_layout(BytesVolume(bytes(content)))
    assert [(place.name, place.content) for place in layout.places] == [
        ("disk", "iso9660"),
        ("partition 1", ""),
    ]
    assert (layout.boot.has_boot_code, layout.boot.has_active_partition) == (True, True)


@pytest.mark.parametrize(
    ("place", "signature", "content", "found"),
    [
        (0, b"LUKS\xba\xbe\0\2", "crypto_LUKS", ["DISK_ENCRYPTED"]),
        (3, b"-FVE-FS-", "BitLocker", ["DISK_ENCRYPTED"]),
        (3, b"EXFAT   ", "exfat", []),
        (0, b"hsqs", "squashfs", []),
        (4086, b"SWAPSPACE2", "swap", []),
        (16374, b"SWAPSPACE2", "swap", []),
        (65526, b"SWAPSPACE2", "swap", []),
        (0, b"\xfc\x4e\x2b\xa9", "linux_raid_member", ["RAID_MEMBER"]),
        (4096, b"\xfc\x4e\x2b\xa9", "linux_raid_member", ["RAID_MEMBER"]),
        (MIB - 8 * KIB, b"\xfc\x4e\x2b\xa9", "linux_raid_member", ["RAID_MEMBER"]),
        (MIB - 64 * KIB, b"\xfc\x4e\x2b\xa9", "linux_raid_member", ["RAID_MEMBER"]),
        (100, b"nothing", "", []),
    ],
)
def test_what_is_only_recognised(place: int, signature: bytes, content: str, found: list[str]) -> None:
    layout = read_layout(SparseVolume(MIB, {place: signature}))
    assert [(p.content, p.file_system, p.problem) for p in layout.places] == [(content, None, "")]
    assert codes(layout) == found
    assert layout.places[0].is_encrypted is ("DISK_ENCRYPTED" in found)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 4095, 4096, 8192, 65535, 65536])
def test_disks_of_any_size_are_looked_at(size: int) -> None:
    layout = read_layout(BytesVolume(bytes(size)))
    assert [(place.name, place.content) for place in layout.places] == [("disk", "")]
    assert codes(layout) == []


def test_a_broken_file_system_is_a_finding_and_hides_no_other(tmp_path: Path) -> None:
    broken = BytesVolume(b"XFSB" + bytes(MIB - 4))
    root = make_ext(tmp_path / "root", sample_tree(tmp_path / "tree"), "-t", "ext4", "-b", "1024", size="4M")
    layout = read_layout(put_together(8, (LINUX, 1, broken), (LINUX, 2, root)))
    assert codes(layout) == ["VOLUME_UNREADABLE"]
    assert [place.content for place in layout.places] == ["", "ext4"]
    assert "XFS version 0" in layout.places[0].problem
    stale = bytearray(root.read(0, root.size_bytes))
    stale[:4] = b"XFSB"
    found = find_file_system(BytesVolume(bytes(stale)))
    assert found is not None
    assert found.name == "ext4"


def test_logical_volumes_that_cannot_be_read_are_places() -> None:
    text = group_text(logical_text("pool", 'start_extent = 0\nextent_count = 1\ntype = "thin"'))
    layout = read_layout(SparseVolume(8 * MIB, {0: physical_volume(text)}))
    assert codes(layout) == ["VOLUME_UNREADABLE"]
    assert [(p.name, p.volume, p.content) for p in layout.places[1:]] == [("vg/pool", None, "")]
    broken = read_layout(SparseVolume(8 * MIB, {0: physical_volume(b"vg {")}))
    assert codes(broken) == ["LVM_DAMAGED"]


def test_the_cache_reads_pages_once_and_forgets_the_oldest() -> None:
    disk = SparseVolume(8 * MIB + 100, {8 * MIB: b"the end"})
    volume = cached(disk)
    assert cached(PartVolume(volume, 0, MIB)).is_cached
    for _ in range(3):
        assert volume.read(8 * MIB + 4, 3) == b"end"
    assert (disk.reads, disk.read_bytes) == (1, 100)
    for page in range(MAX_PAGES + 1):
        volume.read(page * PAGE_BYTES, 10)
    disk.reads = 0
    assert volume.read(8 * MIB, 7) == b"the end"
    assert volume.read(MAX_PAGES * PAGE_BYTES, 10) == bytes(10)
    assert disk.reads == 1
    assert isinstance(volume, CachedVolume)
    volume.read(0, MIB)
    assert disk.read_bytes > MIB
    with pytest.raises(GuestUnreadable):
        volume.read(8 * MIB, 101)


def test_a_cached_read_across_pages_is_the_volume_itself() -> None:
    content = bytes(range(251)) * 300
    volume = cached(BytesVolume(content))
    for offset, length in ((4090, 10), (0, 60_000), (4095, 8194), (75_000, 300), (8192, 4096)):
        assert volume.read(offset, length) == content[offset : offset + length]


@pytest.mark.parametrize(
    "build",
    [
        lambda v: StripedVolume([Piece(v, 0, 8192), Piece(v, 0, 4096)], 4096),
        lambda v: StripedVolume([Piece(v, 0, 8192)], 0),
        lambda v: StripedVolume([Piece(v, 0, 8192)], 512),
        lambda v: StripedVolume([Piece(v, 0, 8192)], 12288),
    ],
)
def test_stripes_that_do_not_fit_are_refused(build: Callable[[Volume], Volume]) -> None:
    with pytest.raises(GuestUnreadable):
        build(BytesVolume(bytes(16384)))


def test_many_partitions_are_looked_at_in_few_reads() -> None:
    entries = [gpt_entry(LINUX, 2048 + 256 * n, 2048 + 256 * n + 255) for n in range(64)]
    table = sound_gpt(size_bytes=16 * MIB, entries=entries)
    disk = SparseVolume(16 * MIB, {0: bytes(table[: 64 * KIB])})
    layout = read_layout(disk)
    assert len(layout.places) == 64
    assert disk.reads < 64 * 20

"""btrfs: what is damaged or winding is refused; copies stand in where there are any."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from imsd.guest.btrfs import BtrfsFileSystem
from imsd.guest.btrfs_layout import MAX_CHUNKS
from imsd.guest.btrfs_trees import LogicalSpace
from imsd.guest.file_system import Tree
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.btrfs_disks import (
    DATA_CHUNK,
    METADATA_CHUNK,
    BtrfsWriter,
    chunk_item,
    make_btrfs,
    text,
)
from tests.unit.guest.damage import WatchedVolume, look_at_btrfs, open_btrfs, survives_damage, visit

SUPER = 64 << 10


def test_other_volumes_are_not_btrfs() -> None:
    assert BtrfsFileSystem.open(BytesVolume(b"")) is None
    assert BtrfsFileSystem.open(BytesVolume(bytes(1 << 20))) is None


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (0x88, struct.pack("<Q", 2), "several devices"),
        (0x88, bytes(8), "several devices"),
        (0x30, bytes(8), "says that it is at"),
        (0x90, bytes(4), "sector size"),
        (0x90, b"\xff" * 4, "sector size"),
        (0x94, struct.pack("<I", 1 << 20), "node size"),
        (0x94, struct.pack("<I", 5000), "not a power of two"),
        (0xA0, struct.pack("<I", 2049), "first chunks"),
        (0xA0, struct.pack("<I", 20), "first chunks"),
        (0xA0, bytes(4), "no chunk"),
        (0xBC, struct.pack("<Q", 1 << 12), "zoned"),
        (0xBC, struct.pack("<Q", 1 << 13), "extent tree v2"),
        (0xBC, struct.pack("<Q", 1 << 50), "unknown features"),
        (0xC6, b"\x08", "level of a tree"),
        (0xC7, b"\xff", "level of a tree"),
        (0xC9, struct.pack("<Q", 7), "another device"),
        (0x50, struct.pack("<Q", 1 << 63), "no chunk"),
        (0x58, b"\xff" * 8, "no chunk"),
        (0x48, struct.pack("<Q", 8), "another place, level or generation"),
        (0x32B + 8, b"\1", "of type"),
        (0x32B + 17 + 24, struct.pack("<Q", 0x42), "profile"),
        (0x32B + 17 + 44, struct.pack("<H", 2), "first chunks"),
        (0x32B + 17 + 44, bytes(2), "stripes of a chunk"),
        (0x32B + 17, bytes(8), "length of a chunk"),
    ],
)
def test_every_field_of_the_superblock_is_checked(offset: int, field: bytes, message: str) -> None:
    writer = BtrfsWriter()
    content = bytearray(writer.finish())
    content[SUPER + offset : SUPER + offset + len(field)] = field
    with pytest.raises(GuestUnreadable, match=message):
        BtrfsFileSystem.open(WatchedVolume(content))


def test_a_copy_stands_in_for_a_superblock_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"content")
    content = bytearray(make_btrfs(tmp_path / "a.img", tmp_path / "source").read_bytes())
    content[SUPER + 0x94 : SUPER + 0x98] = bytes(4)
    assert Tree(open_btrfs(content)).read_file("/file") == b"content"
    content[SUPER : SUPER + 4096] = bytes(4096)
    assert BtrfsFileSystem.open(WatchedVolume(content)) is None


def test_a_second_copy_stands_in_for_a_damaged_node(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"content")
    content = bytearray(make_btrfs(tmp_path / "a.img", tmp_path / "source", "-m", "dup").read_bytes())
    volume = WatchedVolume(content)
    whole = BtrfsFileSystem.open(volume)
    assert whole is not None
    assert Tree(whole).read_file("/file") == b"content"
    places = {offset for offset, length in volume.reads if length == 16_384}
    for place in places:
        content[place : place + 16_384] = bytes(16_384)
    assert Tree(open_btrfs(content)).read_file("/file") == b"content"


def nodes(content: bytes | bytearray, owner: int) -> list[int]:
    """Places of the nodes of a tree, on the disk."""
    start, end = METADATA_CHUNK[1], METADATA_CHUNK[1] + METADATA_CHUNK[2]
    return [
        place
        for place in range(start, end, 4096)
        if content[place + 32 : place + 48] == bytes(range(16))
        and struct.unpack_from("<Q", content, place + 0x58)[0] == owner
    ]


def top_node(content: bytes | bytearray, owner: int) -> int:
    return max(nodes(content, owner), key=lambda place: content[place + 0x64])


def test_a_node_that_leads_to_itself_is_refused(suse: bytes) -> None:
    damaged = bytearray(suse)
    top = top_node(suse, 259)
    own = struct.unpack_from("<Q", suse, top + 0x30)[0]
    for index in range(struct.unpack_from("<I", suse, top + 0x60)[0]):
        struct.pack_into("<Q", damaged, top + 101 + 33 * index + 17, own)
    with pytest.raises(GuestUnreadable, match="another place, level"):
        Tree(open_btrfs(damaged)).find("/etc/os-release")


def test_nodes_that_lead_to_the_same_leaf_are_refused(suse: bytes) -> None:
    damaged = bytearray(suse)
    top = top_node(suse, 259)
    (first,) = struct.unpack_from("<Q", suse, top + 101 + 17)
    for index in range(struct.unpack_from("<I", suse, top + 0x60)[0]):
        struct.pack_into("<Q", damaged, top + 101 + 33 * index + 17, first)
    with pytest.raises(GuestUnreadable, match="leaves do not ascend"):
        visit(open_btrfs(damaged))


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (0x60, bytes(4), "is empty"),
        (0x60, b"\xff" * 4, "items of"),
        (0x64, b"\x07", "another place, level"),
        (0x50, bytes(8), "another place, level or generation"),
        (101 + 25, bytes(17), "keys that do not ascend"),
        (101 + 17, b"\xff" * 4, "items outside"),
        (101 + 21, b"\xff" * 4, "items outside"),
    ],
)
def test_every_field_of_a_leaf_is_checked(suse: bytes, offset: int, field: bytes, message: str) -> None:
    damaged = bytearray(suse)
    for place in nodes(suse, 259):
        if suse[place + 0x64] == 0:
            damaged[place + offset : place + offset + len(field)] = field
    with pytest.raises(GuestUnreadable, match=message):
        visit(open_btrfs(damaged))


@pytest.mark.parametrize("compression", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1 << 20, 1 << 62])
def test_a_compressed_extent_is_never_larger_than_linux_makes_it(compression: int, size: int) -> None:
    writer = BtrfsWriter()
    content = text(100_000)
    inode = writer.top_level.file("file", bytes(100_000))
    writer.top_level.extent(inode, 0, content, compression=compression)
    key, item = writer.top_level.items[-1]
    writer.top_level.items[-1] = key, item[:8] + struct.pack("<Q", size) + item[16:]
    with pytest.raises(GuestUnreadable, match="size of a compressed extent"):
        Tree(open_btrfs(writer.finish())).read_file("/file")


@pytest.mark.parametrize("compression", [1, 2, 3])
def test_what_decompresses_to_more_than_it_says_is_cut(compression: int) -> None:
    writer = BtrfsWriter()
    inode = writer.top_level.file("file", bytes(4096))
    writer.top_level.extent(inode, 0, bytes(800 << 10), compression=compression)
    key, item = writer.top_level.items[-1]
    writer.top_level.items[-1] = key, item[:8] + struct.pack("<Q", 4096) + item[16:]
    assert Tree(open_btrfs(writer.finish())).read_file("/file") == bytes(4096)


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (16, b"\4", "of compression 4"),
        (17, b"\1", "encoding that is not known"),
        (18, b"\1\0", "encoding that is not known"),
        (20, b"\7", "extent of type 7"),
        (21, b"\xff" * 8, "outside a volume"),
        (29, b"\xff" * 8, "compressed size"),
        (37, b"\xff" * 8, "compressed extent"),
    ],
)
def test_every_field_of_an_extent_is_checked(offset: int, field: bytes, message: str) -> None:
    writer = BtrfsWriter()
    inode = writer.top_level.file("file", bytes(8192))
    writer.top_level.extent(inode, 0, text(8192), compression=1)
    key, item = writer.top_level.items[-1]
    writer.top_level.items[-1] = key, item[:offset] + field + item[offset + len(field) :]
    with pytest.raises(GuestUnreadable, match=message):
        Tree(open_btrfs(writer.finish())).read_file("/file")


@pytest.mark.parametrize("name", ["zlib", "lzo", "zstd"])
def test_damaged_compression_is_unreadable(ubuntu: bytes, name: str) -> None:
    damaged = bytearray(ubuntu)
    for place in range(DATA_CHUNK[1], DATA_CHUNK[1] + (1 << 20), 97):
        damaged[place] ^= 0x55
    with pytest.raises(GuestUnreadable):
        Tree(open_btrfs(damaged)).read_file(f"/@/bin/{name}")


def test_subvolumes_that_lie_in_one_another_are_left_out() -> None:
    writer = BtrfsWriter()
    writer.top_level.subvolume("a", 256).subvolume("b", 257)
    reference = struct.pack("<QQH", 256, 2, 1) + b"a"
    writer.root_items = [item for item in writer.root_items if item[0] != (256, 144, 5)]
    writer.root_items.append(((256, 144, 257), reference))
    system = open_btrfs(writer.finish())
    assert system.subvolumes() == []
    assert Tree(system).find("/a/b") is not None


def test_a_default_subvolume_that_is_not_there_is_refused() -> None:
    writer = BtrfsWriter()
    writer.default = 300
    system = open_btrfs(writer.finish())
    with pytest.raises(GuestUnreadable, match="subvolume 300 is not there"):
        system.root()


@pytest.mark.parametrize(
    ("profile", "places", "message"),
    [
        (0x08, [0, 4096], "several devices"),
        (0x10, [0, 4096], "several devices"),
        (0x80, [0], "profile"),
        (0x10, [0], "profile"),
        (0x20, [0] * 17, "stripes of a chunk"),
    ],
)
def test_chunks_of_several_devices_are_refused(profile: int, places: list[int], message: str) -> None:
    with pytest.raises(GuestUnreadable, match=message):
        LogicalSpace(BytesVolume(bytes(8192)), 1).add(0, chunk_item(profile | 1, 4096, places))


@pytest.mark.parametrize("profile", [0, 0x08, 0x20])
def test_chunks_of_one_device_are_read(profile: int) -> None:
    space = LogicalSpace(BytesVolume(bytes(4096) + b"x" * 4096), 1)
    space.add(1 << 40, chunk_item(profile | 1, 4096, [4096, 0] if profile == 0x20 else [4096]))
    assert space.read((1 << 40) + 4090, 6) == b"x" * 6
    with pytest.raises(GuestUnreadable, match="no chunk"):
        space.read((1 << 40) + 4090, 7)


def test_more_chunks_than_a_disk_has_are_refused() -> None:
    space = LogicalSpace(BytesVolume(bytes(8192)), 1)
    for number in range(MAX_CHUNKS):
        space.add(number * 4096, chunk_item(1, 4096, [0]))
    with pytest.raises(GuestUnreadable, match="number of chunks"):
        space.add(MAX_CHUNKS * 4096, chunk_item(1, 4096, [0]))


@pytest.mark.parametrize("make", ["ubuntu", "suse"])
def test_damage_is_only_ever_unreadable(make: str, request: pytest.FixtureRequest) -> None:
    content: bytes = request.getfixturevalue(make)
    assert survives_damage(content, look_at_btrfs, range(250)) > 30

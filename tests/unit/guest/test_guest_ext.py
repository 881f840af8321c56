"""ext2, ext3 and ext4 as mke2fs makes them, and structures that are damaged."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from imsd.guest.ext import ExtFileSystem
from imsd.guest.file_system import MAX_FILE_BYTES, Kind, Node, Tree
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.guest_disks import (
    KIB,
    MIB,
    OS_RELEASE,
    SparseVolume,
    in_guest,
    make_ext,
    on_host,
    run,
    sample_tree,
    sparse_sample,
    volume_of,
)

VARIANTS = {
    "ext2 1k": ("ext2", "-t", "ext2", "-b", "1024"),
    "ext2 revision 0": ("ext2", "-r", "0", "-O", "none"),
    "ext3 4k": ("ext3", "-t", "ext3", "-b", "4096"),
    "ext4": ("ext4", "-t", "ext4"),
    "ext4 4k": ("ext4", "-t", "ext4", "-b", "4096"),
    "ext4 without extents": ("ext4", "-t", "ext4", "-O", "^extent,^64bit", "-b", "1024"),
    "ext4 32 bit": ("ext4", "-t", "ext4", "-O", "^64bit,^metadata_csum"),
    "ext4 inline data": ("ext4", "-t", "ext4", "-O", "inline_data", "-I", "512"),
    "ext4 meta groups": (
        "ext4",
        "-t",
        "ext4",
        "-O",
        "meta_bg,^resize_inode,^flex_bg",
        "-b",
        "1024",
        "-g",
        "256",
    ),
    "ext4 two backups": (
        "ext4",
        "-t",
        "ext4",
        "-O",
        "sparse_super2,meta_bg,^resize_inode",
        "-g",
        "256",
        "-b",
        "1024",
    ),
    "ext4 clusters": ("ext4", "-t", "ext4", "-O", "bigalloc"),
    "ext4 large directories": ("ext4", "-t", "ext4", "-O", "large_dir,casefold,encrypt"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_of_a_tree_is_read_back(tmp_path: Path, variant: str) -> None:
    folder = sample_tree(tmp_path / "tree")
    sparse_sample(folder / "sparse")
    name, *options = VARIANTS[variant]
    volume = make_ext(tmp_path / "disk", folder, *options, "-L", "my label", "-N", "2000")
    opened = ExtFileSystem.open(volume)
    assert opened is not None
    assert in_guest(opened) == on_host(folder)
    assert (opened.name, opened.label) == (name, "my label")
    assert opened.uuid in run("dumpe2fs", "-h", tmp_path / "disk")


def test_os_release_costs_few_reads(tmp_path: Path) -> None:
    volume = make_ext(tmp_path / "disk", sample_tree(tmp_path / "tree"), "-t", "ext4")
    opened = ExtFileSystem.open(volume)
    assert opened is not None
    assert Tree(opened).read_file("/etc/os-release") == OS_RELEASE
    assert volume.reads < 20
    assert volume.read_bytes < 128 * KIB


def test_parts_of_a_file_are_read(tmp_path: Path) -> None:
    folder = sample_tree(tmp_path / "tree")
    content = (folder / "big").read_bytes()
    opened = ExtFileSystem.open(make_ext(tmp_path / "disk", folder, "-t", "ext2", "-b", "1024"))
    assert opened is not None
    node = Tree(opened).find("big")
    assert node is not None
    for offset, length in (
        (0, 1),
        (1000, 5000),
        (12 * KIB - 1, 2),
        (268 * KIB, 4 * KIB),
        (399_999, 100),
        (500_000, 1),
    ):
        assert opened.read(node, offset, length) == content[offset : offset + length]
    with pytest.raises(GuestUnreadable):
        opened.read(node, -1, 10)


def small(tmp_path: Path, *options: str) -> tuple[SparseVolume, bytearray]:
    """A file system with one file of four extents and a link, and its bytes to be changed."""
    folder = tmp_path / "tree"
    folder.mkdir()
    sparse_sample(folder / "file")
    (folder / "link").symlink_to("x" * 100)
    volume = make_ext(tmp_path / "disk", folder, "-b", "1024", *options, size="8M")
    return volume, bytearray(volume.read(0, volume.size_bytes))


def inode_place(path: Path, name: str) -> int:
    """Where in the disk the inode of a file is, as debugfs says."""
    found = re.search(r"at block (\d+), offset (\w+)", run("debugfs", "-R", f"imap {name}", path))
    assert found is not None
    return int(found[1]) * KIB + int(found[2], 16)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (24, struct.pack("<I", 7)),  # log of the block size
        (32, struct.pack("<I", 0)),  # blocks of a group
        (40, struct.pack("<I", 0)),  # inodes of a group
        (40, struct.pack("<I", 1 << 30)),
        (0, struct.pack("<I", 1)),  # inodes: no root among them
        (88, struct.pack("<H", 64)),  # size of an inode
        (88, struct.pack("<H", 8192)),
        (254, struct.pack("<H", 2048)),  # size of a descriptor
        (254, struct.pack("<H", 8)),
        (96, struct.pack("<I", 1 << 20)),  # an unknown feature
        (96, struct.pack("<I", 8)),  # a journal's own device
        (20, struct.pack("<I", 9)),  # first block
        (4, struct.pack("<I", 0)),  # blocks
    ],
)
def test_a_superblock_beyond_the_limits_is_refused(tmp_path: Path, offset: int, value: bytes) -> None:
    _, content = small(tmp_path, "-t", "ext4")
    content[1024 + offset : 1024 + offset + len(value)] = value
    with pytest.raises(GuestUnreadable):
        ExtFileSystem.open(BytesVolume(bytes(content)))


def test_no_superblock_is_no_file_system() -> None:
    assert ExtFileSystem.open(BytesVolume(bytes(4096))) is None
    assert ExtFileSystem.open(BytesVolume(b"")) is None


@pytest.mark.parametrize("change", ["magic", "depth", "count", "loop"])
def test_a_damaged_extent_tree_is_refused(tmp_path: Path, change: str) -> None:
    _, content = small(tmp_path, "-t", "ext4")
    place = inode_place(tmp_path / "disk", "/file") + 40
    if change == "magic":
        content[place] ^= 1
    elif change == "depth":
        content[place + 6] = 6
    elif change == "count":
        content[place + 2] = 200
    else:
        # An index whose block is an index at the same depth, which names itself.
        node = struct.pack("<HHHHI", 0xF30A, 1, 4, 1, 0) + struct.pack("<IIHH", 0, 8000, 0, 0)
        content[place : place + 24] = node
        content[8000 * KIB : 8000 * KIB + 24] = node
    opened = ExtFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    with pytest.raises(GuestUnreadable):
        Tree(opened).read_file("file")


def test_indirect_blocks_that_name_themselves_end(tmp_path: Path) -> None:
    _, content = small(tmp_path, "-t", "ext2")
    place = inode_place(tmp_path / "disk", "/file") + 40
    content[place + 56 : place + 60] = struct.pack("<I", 8000)  # three levels
    content[8000 * KIB : 8001 * KIB] = struct.pack("<I", 8000) * 256
    content[place - 36 : place - 32] = struct.pack("<I", 0xFFFFFFFF)
    opened = ExtFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    node = Tree(opened).find("file")
    assert node is not None
    assert opened.read(node, 100 * MIB, 4 * KIB) == bytes(content[8000 * KIB : 8001 * KIB]) * 4


def test_a_file_beyond_the_limit_is_not_read_at_once(tmp_path: Path) -> None:
    _, content = small(tmp_path, "-t", "ext4")
    place = inode_place(tmp_path / "disk", "/file")
    content[place + 108 : place + 112] = struct.pack("<I", 1 << 20)
    opened = ExtFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    node = Tree(opened).find("file")
    assert node is not None
    with pytest.raises(GuestUnreadable):
        opened.read(node, 0, node.size_bytes)
    assert opened.read(node, 1 << 40, MAX_FILE_BYTES) == bytes(MAX_FILE_BYTES)


def test_a_long_link_is_refused(tmp_path: Path) -> None:
    _, content = small(tmp_path, "-t", "ext4")
    place = inode_place(tmp_path / "disk", "/link")
    content[place + 4 : place + 8] = struct.pack("<I", 5000)
    opened = ExtFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    node = Tree(opened).find_link("link")
    assert node is not None
    assert node.kind is Kind.LINK
    with pytest.raises(GuestUnreadable):
        opened.link_target(node)


def test_a_directory_that_holds_itself_is_walked_once_for_each_step(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    (folder / "inner").mkdir(parents=True)
    volume = make_ext(tmp_path / "disk", folder, "-t", "ext2", "-b", "1024", size="2M")
    content = bytearray(volume.read(0, volume.size_bytes))
    entry = content.index(b"inner") - 8
    content[entry : entry + 4] = struct.pack("<I", 2)
    opened = ExtFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    tree = Tree(opened)
    assert tree.find("inner/inner/inner") == opened.root()
    assert tree.find("/".join(["inner"] * 100)) is None


@pytest.mark.parametrize("number", [0, 1 << 31])
def test_an_inode_that_does_not_exist_is_refused(tmp_path: Path, number: int) -> None:
    volume, _ = small(tmp_path, "-t", "ext4")
    opened = ExtFileSystem.open(volume)
    assert opened is not None
    with pytest.raises(GuestUnreadable):
        opened.read(Node(number, Kind.FILE, 10), 0, 10)


def test_a_directory_with_too_many_blocks_is_refused(tmp_path: Path) -> None:
    volume, content = small(tmp_path, "-t", "ext4")
    place = inode_place(tmp_path / "disk", "/")
    content[place + 4 : place + 8] = struct.pack("<I", 5000 * KIB)
    opened = ExtFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    with pytest.raises(GuestUnreadable):
        opened.lookup(opened.root(), "missing")
    assert volume_of(tmp_path / "disk").size_bytes == volume.size_bytes


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    _, content = small(tmp_path, "-t", "ext4")
    content[inode_place(tmp_path / "disk", "/file") + 33] |= 0x08
    opened = ExtFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    with pytest.raises(GuestUnreadable, match="encrypted"):
        Tree(opened).read_file("file")

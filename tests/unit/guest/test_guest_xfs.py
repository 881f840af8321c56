"""XFS as mkfs.xfs and Linux make it, and structures that are damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from imsd.guest.file_system import Kind, Tree
from imsd.guest.volume import BytesVolume, GuestUnreadable
from imsd.guest.xfs import XfsFileSystem
from imsd.guest.xfs_directory import short_names
from imsd.guest.xfs_layout import parse_inode, read_superblock
from tests.unit.guest.guest_disks import (
    KIB,
    OS_RELEASE,
    in_guest,
    make_xfs,
    on_host,
    run,
    sample_tree,
    vector,
)

# Written by Linux: a file in 566 extents, one mostly reserved, a directory of 1500 names, a long link.
# (mkfs.xfs 6.1 itself writes long links without the header that Linux wants.)
# Made on a device of 20 MiB; the log was cleared.
FRAGMENTED = "xfs-fragmented.img.gz"


@pytest.mark.parametrize(
    "options",
    [
        ("-m", "crc=1"),
        ("-m", "crc=0", "-n", "ftype=0"),
        ("-m", "crc=0", "-n", "ftype=1", "-b", "size=1024"),
        ("-b", "size=1024", "-i", "size=512"),
        ("-b", "size=2048", "-i", "size=1024", "-n", "size=8192"),
        ("-i", "nrext64=1,sparse=1"),
    ],
    ids=" ".join,
)
def test_all_of_a_tree_is_read_back(tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = sample_tree(tmp_path / "tree")
    volume = make_xfs(tmp_path / "disk", folder, *options, "-L", "my_label")
    opened = XfsFileSystem.open(volume)
    assert opened is not None
    assert in_guest(opened) == on_host(folder)
    assert (opened.name, opened.label) == ("xfs", "my_label")
    assert opened.uuid in run("xfs_db", "-r", "-c", "uuid", tmp_path / "disk")


def test_os_release_costs_few_reads(tmp_path: Path) -> None:
    volume = make_xfs(tmp_path / "disk", sample_tree(tmp_path / "tree"))
    opened = XfsFileSystem.open(volume)
    assert opened is not None
    assert Tree(opened).read_file("/etc/os-release") == OS_RELEASE
    assert volume.reads < 20
    assert volume.read_bytes < 128 * KIB


def fragmented() -> tuple[XfsFileSystem, Tree]:
    opened = XfsFileSystem.open(BytesVolume(vector(FRAGMENTED)))
    assert opened is not None
    return opened, Tree(opened)


def test_a_tree_of_extents_is_followed() -> None:
    _, tree = fragmented()
    content = tree.read_file("fragmented")
    assert content is not None
    assert content == b"".join((b"%06d" % n).ljust(2 * KIB, b"\0") for n in range(300))[: len(content)]
    assert len(content) == 299 * 2 * KIB + 6


def test_what_is_reserved_but_not_written_reads_as_zeros() -> None:
    _, tree = fragmented()
    assert tree.read_file("reserved") == (bytes(8 * KIB) + b"written").ljust(20 * KIB, b"\0")


def test_a_large_directory_is_read() -> None:
    opened, tree = fragmented()
    entries = tree.list("huge")
    assert sorted(name for name, _ in entries) == [f"name-{n:04}" for n in range(1500)]
    assert {node for _, node in entries} == {tree.find("reserved")}
    assert opened.lookup(opened.root(), "missing") is None
    assert opened.lookup(opened.root(), "\ud800 is no text") is None


def test_a_long_link_is_read() -> None:
    opened, tree = fragmented()
    node = tree.find_link("link")
    assert node is not None
    assert opened.link_target(node) == "far/" * 225 + "away"


def changed(place: int, value: bytes) -> BytesVolume:
    content = bytearray(vector(FRAGMENTED))
    content[place : place + len(value)] = value
    return BytesVolume(bytes(content))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (100, b"\0\3"),  # version
        (216, struct.pack(">I", 1 << 20)),  # an unknown feature
        (120, b"\x20"),  # log of the block size
        (122, b"\x0c"),  # log of the inode size
        (122, b"\x08"),  # which contradicts the inodes of a block
        (124, b"\x3f"),  # log of the blocks of a group
        (4, struct.pack(">I", 3)),  # block size
        (84, struct.pack(">I", 0)),  # blocks of a group
        (84, struct.pack(">I", 0xFFFFFFFF)),
        (88, struct.pack(">I", 0)),  # groups
        (88, struct.pack(">I", 0xFFFFFFFF)),
        (56, struct.pack(">Q", 1 << 60)),  # inode of the root
        (192, b"\xf0"),  # log of a directory block
    ],
)
def test_a_superblock_beyond_the_limits_is_refused(place: int, value: bytes) -> None:
    with pytest.raises(GuestUnreadable):
        XfsFileSystem.open(changed(place, value))


def test_no_superblock_is_no_file_system() -> None:
    assert XfsFileSystem.open(BytesVolume(bytes(4096))) is None
    assert XfsFileSystem.open(BytesVolume(b"")) is None


def place_of(path: str) -> int:
    """Where in the vector the inode of a file is."""
    opened, tree = fragmented()
    node = tree.find_link(path)
    superblock = read_superblock(BytesVolume(vector(FRAGMENTED)))
    assert node is not None
    assert superblock is not None
    assert opened.root().kind is Kind.DIRECTORY
    return superblock.inode_place(node.number)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"XX"),  # magic
        (4, b"\x09"),  # version
        (5, b"\x07"),  # format
        (82, b"\xff"),  # where attributes start
        (90, b"\0\1"),  # on another device
        (176, b"\0\x20"),  # levels of the tree
        (176, b"\0\0"),
        (176, b"\0\2"),  # more than there are
        (178, b"\xff\xff"),  # records of the root
        (5, b"\x02"),  # a list, which is too long
    ],
)
def test_a_damaged_inode_is_refused(offset: int, value: bytes) -> None:
    opened = XfsFileSystem.open(changed(place_of("fragmented") + offset, value))
    assert opened is not None
    with pytest.raises(GuestUnreadable):
        Tree(opened).read_file("fragmented")


def test_a_tree_that_names_itself_ends() -> None:
    disk = vector(FRAGMENTED)
    root = parse_inode(disk[place_of("fragmented") : place_of("fragmented") + 512])
    room = (len(root.fork.content) - 4) // 16
    leaf = root.fork.u64(4 + room * 8)
    superblock = read_superblock(BytesVolume(disk))
    assert superblock is not None
    content = bytearray(disk)
    place = superblock.block_place(leaf)
    content[place + 4 : place + 8] = b"\0\1\0\1"
    half = (superblock.block_bytes - 72) // 16 * 8
    content[place + 72 + half : place + 80 + half] = struct.pack(">Q", leaf)
    opened = XfsFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    with pytest.raises(GuestUnreadable):
        Tree(opened).read_file("fragmented")


def test_a_directory_of_holes_ends() -> None:
    place = place_of("huge")
    content = bytearray(vector(FRAGMENTED))
    fork = place + 176
    if content[place + 5] != 2:
        pytest.fail("the directory of the vector is no list of extents")
    # An unwritten extent of one block, from where each step finds another hole.
    content[place + 76 : place + 80] = struct.pack(">I", 1)
    content[place + 56 : place + 64] = struct.pack(">Q", 1 << 62)
    content[fork : fork + 16] = struct.pack(">QQ", 1 << 63 | 5 << 9, 1)
    opened = XfsFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    assert Tree(opened).list("huge") == []


def test_a_short_directory_that_is_cut_off_is_refused() -> None:
    inode = parse_inode(vector(FRAGMENTED)[place_of("link") :][:512])
    fork = inode.fork.within(0, 40)
    fork.content = b"\x09\x00" + fork.content[2:]
    with pytest.raises(GuestUnreadable):
        list(short_names(fork, True))


def test_a_directory_whose_free_space_has_no_length_is_refused() -> None:
    content = bytearray(vector(FRAGMENTED))
    place = content.index(b"XDD3") + 64
    content[place : place + 4] = b"\xff\xff\0\0"
    opened = XfsFileSystem.open(BytesVolume(bytes(content)))
    assert opened is not None
    with pytest.raises(GuestUnreadable):
        Tree(opened).list("huge")

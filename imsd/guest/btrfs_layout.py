"""btrfs on disk: structures, constants and limits; the superblock.

Source: "On-disk Format", btrfs.readthedocs.io, and include/uapi/linux/btrfs_tree.h of Linux. All numbers are
little-endian. Checksums are not looked at: each block says where it should be, at which level and of which
generation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from .record import check_power_of_two, check_range, cut, unpack
from .volume import GuestUnreadable, Volume

SUPER_OFFSETS = (64 << 10, 64 << 20, 256 << 30)
SUPER_BYTES = 4096
MAGIC_OFFSET = 0x40
MAGIC = b"_BHRfS_M"
# At 0x20: uuid, place of this block, flags, magic, generation, root tree, chunk tree, log tree, …, devices,
# sector, node size, …, bytes of the first chunks, generation of the chunk tree, …, incompatible features, …,
# levels of the root and the chunk tree
SUPER = struct.Struct("<16sQ8x8sQQQQ32xQII8xIQ16xQ2xBB")
SUPER_FIELDS_OFFSET = 0x20
DEVICE_ID = struct.Struct("<Q")
DEVICE_ID_OFFSET = 0xC9
LABEL_OFFSET, LABEL_BYTES = 0x12B, 256
FIRST_CHUNKS_OFFSET = 0x32B

KNOWN_FEATURES = 0xFFF | 1 << 16
FEATURES_ELSEWHERE = {1 << 12: "zoned", 1 << 13: "extent tree v2", 1 << 14: "RAID stripe tree"}

# …, place of this block, flags, …, generation, …, number of items, level
NODE = struct.Struct("<48xQ8x16xQ8xIB")
KEY = struct.Struct("<QBQ")
ITEM = struct.Struct("<QBQII")  # key, place behind the header, size
POINTER = struct.Struct("<QBQQQ")  # key, child, its generation

CHUNK = struct.Struct("<Q16xQ12xHH")  # length, …, profile, …, stripes, substripes
STRIPE = struct.Struct("<QQ16x")  # device, place on it
PROFILE_DUP = 0x20
PROFILE_RAID0 = 0x08
PROFILES = 0x7F8

INODE = struct.Struct("<16xQ28xI")  # …, size, …, mode
# …, generation, root directory, place, …, flags, references, …, level
ROOT = struct.Struct("<160xQQQ24x8xI18xB")
ROOT_BACKREF = struct.Struct("<QQH")  # directory in the parent, …, name length
INODE_REF = struct.Struct("<QH")  # …, name length
# key of what it names, …, length of attributes, name length, type
DIRECTORY_ENTRY = struct.Struct("<QBQ8xHHB")
# …, bytes of content, compression, encryption, other encoding, type
EXTENT = struct.Struct("<8xQBBHB")
EXTENT_PLACE = struct.Struct("<QQQQ")  # place, bytes on disk, offset in the content, bytes of the file

INODE_ITEM, INODE_REF_ITEM, DIRECTORY_ITEM, DIRECTORY_INDEX = 1, 12, 84, 96
EXTENT_ITEM, ROOT_ITEM, ROOT_BACKREF_ITEM, CHUNK_ITEM = 108, 132, 144, 228
EXTENT_INLINE, EXTENT_REGULAR, EXTENT_PREALLOCATED = 0, 1, 2
ENTRY_FILE, ENTRY_DIRECTORY, ENTRY_LINK = 1, 2, 7

TOP_LEVEL = 5  # the subvolume that holds the others
ROOT_DIRECTORY = 256  # of each subvolume
FIRST_CHUNK_OBJECT = 256
ROOTS_DIRECTORY = 6  # in the root tree: names the default subvolume
FIRST_SUBVOLUME = 256
LAST_SUBVOLUME = (1 << 64) - 257
MAX_NUMBER = (1 << 64) - 1
NAME_HASH_SEED = 0xFFFF_FFFE

MIN_SECTOR_BYTES, MAX_SECTOR_BYTES = 512, 65_536
MIN_NODE_BYTES, MAX_NODE_BYTES = 4096, 65_536
MAX_LEVEL = 7
MAX_FIRST_CHUNKS_BYTES = 2048
MAX_CHUNKS = 65_536
MAX_STRIPES = 16
# Of one search: a directory, or the extents of a file.
MAX_ITEMS = 131_072
MAX_SUBVOLUMES = 4096
MAX_NAME_BYTES = 255
MAX_COMPRESSED_BYTES = 128 << 10  # of an extent, before and after; as in Linux

Key = tuple[int, int, int]  # object, type, offset


@dataclass(frozen=True, slots=True)
class TreeRoot:
    """Where a tree begins."""

    place: int
    level: int
    generation: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says. ``first_chunks``: those that the chunk tree itself lies in."""

    uuid: bytes
    generation: int
    root_tree: TreeRoot
    chunk_tree: TreeRoot
    has_log: bool
    sector_bytes: int
    node_bytes: int
    device: int
    label: str
    first_chunks: bytes

    @classmethod
    def read(cls, volume: Volume) -> Self | None:
        """The first that can be read. None when this is no btrfs. Raises `GuestUnreadable`."""
        problem: GuestUnreadable | None = None
        for offset in SUPER_OFFSETS:
            if offset + SUPER_BYTES > volume.size_bytes:
                break
            content = volume.read(offset, SUPER_BYTES)
            if content[MAGIC_OFFSET : MAGIC_OFFSET + len(MAGIC)] == MAGIC:
                try:
                    return cls._parse(content, offset)
                except GuestUnreadable as error:
                    problem = problem or error
            elif problem is None:
                return None  # a copy alone may be left from an earlier use of the disk
        if problem is not None:
            raise problem
        return None

    @classmethod
    def _parse(cls, content: bytes, offset: int) -> Self:
        fields = unpack(SUPER, content, SUPER_FIELDS_OFFSET, "superblock")
        uuid, place, _, generation, root, chunks, log, devices, sector, node = fields[:10]
        first_bytes, chunk_generation, features, root_level, chunk_level = fields[10:]
        if place != offset:
            raise GuestUnreadable(f"a superblock at {offset} says that it is at {place}")
        if devices != 1:
            raise GuestUnreadable(f"a btrfs that is spread over several devices ({devices})")
        _check_features(features)
        check_range(first_bytes, 0, MAX_FIRST_CHUNKS_BYTES, "length of the first chunks")
        label = cut(content, LABEL_OFFSET, LABEL_BYTES, "superblock").partition(b"\0")[0]
        return cls(
            uuid=uuid,
            generation=generation,
            root_tree=tree_root(root, root_level, generation),
            chunk_tree=tree_root(chunks, chunk_level, chunk_generation),
            has_log=log != 0,
            sector_bytes=check_power_of_two(sector, MIN_SECTOR_BYTES, MAX_SECTOR_BYTES, "sector size"),
            node_bytes=check_power_of_two(node, MIN_NODE_BYTES, MAX_NODE_BYTES, "node size"),
            device=unpack(DEVICE_ID, content, DEVICE_ID_OFFSET, "superblock")[0],
            label=label.decode("utf-8", "replace"),
            first_chunks=cut(content, FIRST_CHUNKS_OFFSET, first_bytes, "superblock"),
        )


def tree_root(place: int, level: int, generation: int) -> TreeRoot:
    """Raises `GuestUnreadable` for a tree that is too high."""
    return TreeRoot(place, check_range(level, 0, MAX_LEVEL, "level of a tree"), generation)


def _check_features(features: int) -> None:
    for bit, name in FEATURES_ELSEWHERE.items():
        if features & bit:
            raise GuestUnreadable(f"a btrfs with a feature that is not read: {name}")
    if features & ~KNOWN_FEATURES:
        raise GuestUnreadable(f"a btrfs with unknown features: {features:#x}")

"""Structures of XFS versions 4 and 5: superblock, inodes, extents.

Reference: XFS Algorithms & Data Structures, 3rd edition; Linux, fs/xfs/libxfs/xfs_format.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from .record import Record, check_range, uuid_text
from .volume import GuestUnreadable, Volume

SUPERBLOCK_BYTES = 512
MAGIC = b"XFSB"
VERSIONS = (4, 5)

# sb_features2 of version 4, and sb_features_incompat of version 5. Known: ftype, sparse inodes, meta_uuid,
# bigtime, needsrepair, nrext64, exchange ranges, parent pointers, metadata directories.
HAS_FILE_TYPE_4 = 0x200
HAS_FILE_TYPE_5 = 0x1
KNOWN_INCOMPATIBLE = 0x1FF

MAX_LOG_BLOCK = 16
MAX_LOG_INODE = 11
MAX_LOG_GROUP_BLOCKS = 31
MAX_GROUPS = 1 << 20
MAX_DIRECTORY_BLOCK_BYTES = 64 << 10

INODE_MAGIC = b"IN"
CORE_BYTES = {1: 100, 2: 100, 3: 176}
ON_REALTIME_DEVICE = 1  # di_flags
WIDE_COUNTS = 1 << 4  # di_flags2
EXTENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Superblock:
    """``log_*`` are exponents of two."""

    version: int
    label: str
    uuid: str
    block_bytes: int
    log_block: int
    blocks: int
    group_blocks: int
    groups: int
    log_group_blocks: int
    log_inodes_per_block: int
    inode_bytes: int
    root_inode: int
    directory_block_bytes: int
    has_file_type: bool

    def block_place(self, block: int) -> int:
        """Where, in bytes, a block with its group in the upper bits is. Raises `GuestUnreadable`."""
        group, inside = block >> self.log_group_blocks, block & ((1 << self.log_group_blocks) - 1)
        check_range(group, 0, self.groups - 1, "the allocation group of a block")
        check_range(inside, 0, self.group_blocks - 1, "a block of an allocation group")
        return (group * self.group_blocks + inside) << self.log_block

    def inode_place(self, number: int) -> int:
        """Where, in bytes, an inode is. Raises `GuestUnreadable`."""
        block, index = number >> self.log_inodes_per_block, number & ((1 << self.log_inodes_per_block) - 1)
        return self.block_place(block) + index * self.inode_bytes


def read_superblock(volume: Volume) -> Superblock | None:
    """The first superblock; None when its signature is not there. Raises `GuestUnreadable`."""
    if volume.size_bytes < SUPERBLOCK_BYTES:
        return None
    record = Record(volume.read(0, SUPERBLOCK_BYTES), "big", "a superblock of XFS")
    if record.raw(0, 4) != MAGIC:
        return None
    version = record.u16(100) & 0xF
    incompatible = record.u32(216) if version == 5 else 0
    if version not in VERSIONS or incompatible & ~KNOWN_INCOMPATIBLE:
        raise GuestUnreadable(f"XFS version {version} with features {incompatible:#x} is not known here")
    log_block = check_range(record.u8(120), 9, MAX_LOG_BLOCK, "the block size of XFS")
    log_inode = check_range(record.u8(122), 8, min(MAX_LOG_INODE, log_block), "the inode size of XFS")
    log_group = check_range(record.u8(124), 1, MAX_LOG_GROUP_BLOCKS, "the group size of XFS")
    directory_block = record.u8(192) + log_block
    check_range(1 << min(directory_block, 64), 512, MAX_DIRECTORY_BLOCK_BYTES, "a directory block of XFS")
    if record.u32(4) != 1 << log_block or record.u8(123) != log_block - log_inode:
        raise GuestUnreadable("the superblock of XFS contradicts itself")
    return Superblock(
        version=version,
        label=record.text(108, 12),
        uuid=uuid_text(record.raw(32, 16)),
        block_bytes=1 << log_block,
        log_block=log_block,
        blocks=record.u64(8),
        group_blocks=check_range(record.u32(84), 1, 1 << log_group, "the blocks of an allocation group"),
        groups=check_range(record.u32(88), 1, MAX_GROUPS, "the number of allocation groups"),
        log_group_blocks=log_group,
        log_inodes_per_block=log_block - log_inode,
        inode_bytes=1 << log_inode,
        root_inode=record.u64(56),
        directory_block_bytes=1 << directory_block,
        has_file_type=bool(
            incompatible & HAS_FILE_TYPE_5 if version == 5 else record.u32(200) & HAS_FILE_TYPE_4
        ),
    )


@dataclass(frozen=True, slots=True)
class Inode:
    """``fork`` holds the file's map, or itself when ``format`` is local."""

    mode: int
    format: int
    size_bytes: int
    extents: int
    fork: Record


def parse_inode(content: bytes) -> Inode:
    """The inode in ``content``. Raises `GuestUnreadable`."""
    record = Record(content, "big", "an inode of XFS")
    version = record.u8(4)
    core = CORE_BYTES.get(version)
    if record.raw(0, 2) != INODE_MAGIC or core is None:
        raise GuestUnreadable("an inode of XFS is damaged")
    if record.u16(90) & ON_REALTIME_DEVICE:
        raise GuestUnreadable("a file on the realtime device of XFS")
    is_wide = version == 3 and record.u64(120) & WIDE_COUNTS
    count = record.u64(24) if is_wide else record.u32(76)
    attributes = core + record.u8(82) * 8 if record.u8(82) else len(content)
    fork = record.within(core, check_range(attributes, core, len(content), "the fork of an inode") - core)
    return Inode(record.u16(2), record.u8(5), record.u64(56), count, fork)


@dataclass(frozen=True, slots=True)
class Extent:
    """``count`` blocks of a file from ``first``, at ``block`` of the file system."""

    first: int
    count: int
    block: int
    is_written: bool


def parse_extent(record: Record, place: int) -> Extent:
    """The extent at ``place``. Raises `GuestUnreadable`."""
    high, low = record.u64(place), record.u64(place + 8)
    first, block = high >> 9 & (1 << 54) - 1, (high & 0x1FF) << 43 | low >> 21
    return Extent(first, low & (1 << 21) - 1, block, not high >> 63)

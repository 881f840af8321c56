"""Structures of ext2, ext3 and ext4: superblock, group descriptors, inodes.

Reference: Linux, Documentation/filesystems/ext4 and fs/ext4/ext4.h.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

from .record import Record, check_range, uuid_text
from .volume import GuestUnreadable, Volume

SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_BYTES = 1024
MAGIC_OFFSET = 56
MAGIC = b"\x53\xef"

# Features that a reader must know (s_feature_incompat).
FILETYPE = 0x2
RECOVER = 0x4
META_GROUPS = 0x10
EXTENTS = 0x40
WIDE = 0x80  # 64bit
LARGE_DIRECTORIES = 0x4000
# These change nothing for a reader: mmp, flex_bg, ea_inode, metadata_csum_seed, casefold. What encryption and
# inline_data change is told by the flags of each inode.
HARMLESS = 0x100 | 0x200 | 0x400 | 0x2000 | 0x8000 | 0x10000 | 0x20000
READABLE = FILETYPE | RECOVER | META_GROUPS | EXTENTS | WIDE | LARGE_DIRECTORIES | HARMLESS
HAS_JOURNAL = 4  # s_feature_compat
SPARSE_BACKUPS_2 = 0x200
SPARSE_BACKUPS = 1  # s_feature_ro_compat
# What of the ro_compat features ext3 knows: sparse_super, large_file, btree_dir.
KNOWN_TO_EXT3 = 7

MIN_INODE_BYTES = 128
MAX_INODES = 1 << 32
MAX_LOG_BLOCK = 6  # 64 KiB
MAX_BLOCKS_PER_GROUP = 1 << 19
ROOT_INODE = 2

# Flags of an inode.
INODE_ENCRYPTED, INODE_EXTENTS, INODE_INLINE, INODE_COMPRESSED = 0x800, 0x80000, 0x10000000, 4


@dataclass(frozen=True, slots=True)
class Superblock:
    """What of the superblock is needed to find inodes; sizes in bytes, places in blocks."""

    name: str
    label: str
    uuid: str
    block_bytes: int
    blocks: int
    first_block: int
    blocks_per_group: int
    inodes: int
    inodes_per_group: int
    inode_bytes: int
    descriptor_bytes: int
    first_meta_group: int | None
    has_sparse_backups: bool
    backup_groups: tuple[int, int] | None

    def descriptor_place(self, group: int) -> int:
        """Where, in bytes, the descriptor of ``group`` is."""
        per_block = self.block_bytes // self.descriptor_bytes
        block, index = divmod(group, per_block)
        if self.first_meta_group is None or block < self.first_meta_group:
            place = SUPERBLOCK_OFFSET // self.block_bytes + 1 + block
            return place * self.block_bytes + index * self.descriptor_bytes
        first_group = block * per_block
        place = self.first_block + first_group * self.blocks_per_group + self._has_backup(first_group)
        if not block and not self.first_block and self.block_bytes == SUPERBLOCK_OFFSET:
            place += 1  # bigalloc counts from 0 even then
        return place * self.block_bytes + index * self.descriptor_bytes

    def _has_backup(self, group: int) -> bool:
        """Whether the group starts with a superblock."""
        if group == 0:
            return True
        if self.backup_groups is not None:
            return group in self.backup_groups
        return not self.has_sparse_backups or group == 1 or any(_is_power(group, n) for n in (3, 5, 7))


def _is_power(number: int, factor: int) -> bool:
    while number > 1 and number % factor == 0:
        number //= factor
    return number == 1


def read_superblock(volume: Volume) -> Superblock | None:
    """The first superblock; None when its signature is not there. Raises `GuestUnreadable`."""
    if volume.size_bytes < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES:
        return None
    record = Record(volume.read(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES), "little", "a superblock of ext4")
    if record.raw(MAGIC_OFFSET, 2) != MAGIC:
        return None
    compatible, needed, read_only = record.u32(92), record.u32(96), record.u32(100)
    if needed & ~READABLE:
        raise GuestUnreadable(f"ext4 with features that are not known here: {needed & ~READABLE:#x}")
    is_old = record.u32(76) == 0
    block_bytes = 1024 << check_range(record.u32(24), 0, MAX_LOG_BLOCK, "the block size of ext4")
    inode_bytes = MIN_INODE_BYTES if is_old else record.u16(88)
    check_range(inode_bytes, MIN_INODE_BYTES, block_bytes, "the size of an inode")
    descriptor_bytes = record.u16(254) if needed & WIDE else 32
    check_range(descriptor_bytes, 64 if needed & WIDE else 32, block_bytes, "the size of a group descriptor")
    return Superblock(
        name=_name(compatible, needed, read_only),
        label=record.text(120, 16),
        uuid=uuid_text(record.raw(104, 16)),
        block_bytes=block_bytes,
        blocks=record.u32(4) | (record.u32(336) << 32 if needed & WIDE else 0),
        first_block=check_range(record.u32(20), 0, 1, "the first block of ext4"),
        blocks_per_group=check_range(record.u32(32), 8, MAX_BLOCKS_PER_GROUP, "the blocks of a group"),
        inodes=check_range(record.u32(0), 1, MAX_INODES, "the number of inodes"),
        inodes_per_group=check_range(record.u32(40), 1, 8 * block_bytes, "the inodes of a group"),
        inode_bytes=inode_bytes,
        descriptor_bytes=descriptor_bytes,
        first_meta_group=record.u32(260) if needed & META_GROUPS else None,
        has_sparse_backups=bool(read_only & SPARSE_BACKUPS),
        backup_groups=(record.u32(588), record.u32(592)) if compatible & SPARSE_BACKUPS_2 else None,
    )


def _name(compatible: int, needed: int, read_only: int) -> str:
    """As blkid tells them apart: ext4 by a feature that ext3 does not know, ext3 by its journal."""
    if needed & ~(FILETYPE | RECOVER | META_GROUPS) or read_only & ~KNOWN_TO_EXT3:
        return "ext4"
    return "ext3" if compatible & HAS_JOURNAL else "ext2"


@dataclass(frozen=True, slots=True)
class Inode:
    """``blocks`` are the 60 bytes that hold a map, a short link or the start of inline data."""

    mode: int
    size_bytes: int
    flags: int
    blocks: bytes
    record: Record


def parse_inode(content: bytes) -> Inode:
    """The inode in ``content``. Raises `GuestUnreadable`."""
    record = Record(content, "little", "an inode of ext4")
    mode = record.u16(0)
    # In a directory of ext2 the upper half is something else, and no directory here is that long.
    size = record.u32(4) | (record.u32(108) << 32 if stat.S_ISREG(mode) else 0)
    return Inode(mode, size, record.u32(32), record.raw(40, 60), record)


# In the inode after its fixed part: attributes, each a name and where its value is.
EXTRA_OFFSET = 128
ATTRIBUTES_MAGIC = 0xEA020000
SYSTEM_INDEX = 7
INLINE_NAME = b"data"
MAX_ATTRIBUTES = 64


def inline_content(inode: Inode) -> bytes:
    """The whole content of a file that is kept in its inode. Raises `GuestUnreadable`."""
    content = inode.blocks + _inline_attribute(inode.record)
    if inode.size_bytes > len(content):
        raise GuestUnreadable(f"a file of {inode.size_bytes} bytes has {len(content)} in its inode")
    return content[: inode.size_bytes]


def _inline_attribute(record: Record) -> bytes:
    start = EXTRA_OFFSET + record.u16(EXTRA_OFFSET)
    if start + 4 > len(record.content) or record.u32(start) != ATTRIBUTES_MAGIC:
        return b""
    values = start + 4
    place = values
    for _ in range(MAX_ATTRIBUTES):
        if place + 16 > len(record.content) or not record.u32(place):
            return b""
        length, index = record.u8(place), record.u8(place + 1)
        if index == SYSTEM_INDEX and record.raw(place + 16, length) == INLINE_NAME:
            return record.raw(values + record.u16(place + 2), record.u32(place + 8))
        place += 16 + (length + 3 & ~3)
    return b""

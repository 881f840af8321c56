"""Where the blocks of a file of ext2, ext3 and ext4 are: extent trees and indirect blocks.

Reference: Linux, Documentation/filesystems/ext4 (ifork), fs/ext4/ext4_extents.h.
"""

from __future__ import annotations

from .ext_layout import INODE_EXTENTS, Inode, Superblock
from .record import Record, check_range
from .runs import Run
from .volume import GuestUnreadable, Volume

# A header of 12 bytes, then entries of 12: extents in leaves, indexes above.
EXTENT_MAGIC = 0xF30A
EXTENT_BYTES = 12
MAX_EXTENT_DEPTH = 5
# Longer extents are allocated but not written.
MAX_WRITTEN_BLOCKS = 32768
MAX_FILE_BLOCKS = 1 << 32

DIRECT_BLOCKS = 12
MAX_INDIRECTIONS = 3


class BlockMap:
    """The runs of one file; nothing is read before it is asked for."""

    def __init__(self, volume: Volume, superblock: Superblock, inode: Inode) -> None:
        self._volume = volume
        self._block_bytes = superblock.block_bytes
        self._blocks = superblock.blocks
        self._inode = inode

    def find(self, offset: int) -> Run:
        """The run that holds byte ``offset``. Raises `GuestUnreadable`."""
        block = check_range(offset // self._block_bytes, 0, MAX_FILE_BLOCKS - 1, "a block of a file")
        if self._inode.flags & INODE_EXTENTS:
            first, count, place = self._find_extent(block)
        else:
            first, count, place = self._find_indirect(block)
        size = self._block_bytes
        return Run(first * size, count * size, None if place is None else self._checked(place) * size)

    def _checked(self, block: int) -> int:
        return check_range(block, 1, self._blocks - 1, "a block of the file system")

    def _read_block(self, block: int) -> bytes:
        return self._volume.read(self._checked(block) * self._block_bytes, self._block_bytes)

    def _find_extent(self, block: int) -> tuple[int, int, int | None]:
        """First block and count of the run with ``block`` in the file, and where it is; None for a hole."""
        content, end = self._inode.blocks, MAX_FILE_BLOCKS
        last_depth = MAX_EXTENT_DEPTH + 1
        while True:
            node = Record(content, "little", "an extent tree")
            depth = check_range(node.u16(6), 0, last_depth - 1, "the depth of an extent tree")
            count = check_range(node.u16(2), 0, len(content) // EXTENT_BYTES - 1, "the extents of a node")
            if node.u16(0) != EXTENT_MAGIC:
                raise GuestUnreadable("an extent tree is damaged")
            index = _last_not_above(node, count, block)
            if index < count:
                end = min(end, node.u32(EXTENT_BYTES * (index + 1)))
            if index == 0:
                return block, max(1, end - block), None
            entry = node.within(EXTENT_BYTES * index, EXTENT_BYTES)
            if depth == 0:
                return _of_extent(entry, block, end)
            content = self._read_block(entry.u32(4) | entry.u16(8) << 32)
            last_depth = depth

    def _find_indirect(self, block: int) -> tuple[int, int, int | None]:
        if block < DIRECT_BLOCKS:
            return _of_pointers(self._inode.blocks[: DIRECT_BLOCKS * 4], block, block)
        per_block = self._block_bytes // 4
        inside, reach, levels = block - DIRECT_BLOCKS, per_block, 1
        while inside >= reach:
            inside, reach, levels = inside - reach, reach * per_block, levels + 1
            if levels > MAX_INDIRECTIONS:
                raise GuestUnreadable("a file that is too long for its block map")
        pointer = _pointer(self._inode.blocks, DIRECT_BLOCKS + levels - 1)
        while pointer:
            content = self._read_block(pointer)
            reach //= per_block
            index, inside = divmod(inside, reach)
            if reach == 1:
                return _of_pointers(content, index, block)
            pointer = _pointer(content, index)
        return block - inside, reach, None


def _last_not_above(node: Record, count: int, block: int) -> int:
    """The number, from 1, of the last entry that starts at ``block`` or before; 0 when there is none."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if node.u32(EXTENT_BYTES * middle) <= block:
            low = middle
        else:
            high = middle - 1
    return low


def _of_extent(entry: Record, block: int, end: int) -> tuple[int, int, int | None]:
    first, count = entry.u32(0), entry.u16(4)
    is_written = count <= MAX_WRITTEN_BLOCKS
    count -= 0 if is_written else MAX_WRITTEN_BLOCKS
    if block >= first + count:
        return block, max(1, end - block), None
    place = entry.u32(8) | entry.u16(6) << 32
    return first, count, place if is_written else None


def _of_pointers(content: bytes, index: int, block: int) -> tuple[int, int, int | None]:
    """The run that starts with pointer ``index``, which stands for ``block`` of the file."""
    place = _pointer(content, index)
    step = 1 if place else 0
    most = len(content) // 4 - index
    count = 1
    while count < most and _pointer(content, index + count) == place + count * step:
        count += 1
    return block, count, place or None


def _pointer(content: bytes, index: int) -> int:
    return int.from_bytes(content[index * 4 : index * 4 + 4], "little")

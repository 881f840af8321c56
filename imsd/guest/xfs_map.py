"""Where the blocks of a file of XFS are: lists of extents, and trees of them.

Reference: XFS Algorithms & Data Structures, "Data Extents".
"""

from __future__ import annotations

from .record import Record, check_range
from .runs import Run
from .volume import GuestUnreadable, Volume
from .xfs_layout import EXTENT_BYTES, Extent, Inode, Superblock, parse_extent

IN_LIST, IN_TREE = 2, 3  # di_format

# A block of the tree: magic, level at 4, records at 6; the header is longer in version 5. The root lies in
# the inode: level, records, then keys and pointers of 8 bytes, each in half of the room.
TREE_MAGIC = {4: b"BMAP", 5: b"BMA3"}
TREE_HEADER_BYTES = {4: 24, 5: 72}
ROOT_HEADER_BYTES = 4
POINTER_BYTES = 8
MAX_LEVELS = 9
MAX_FILE_BLOCKS = 1 << 54


class _Leaf:
    """Extents in order, which are only parsed when they are looked at."""

    def __init__(self, record: Record, header: int, count: int) -> None:
        self._record = record
        self._header = header
        self._count = count

    def _at(self, index: int) -> Extent:
        return parse_extent(self._record, self._header + index * EXTENT_BYTES)

    def around(self, block: int, end: int) -> tuple[Extent | None, int]:
        """The extent with ``block``; else None and where the hole around it ends."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            if self._at(middle).first <= block:
                low = middle + 1
            else:
                high = middle
        extent = self._at(low - 1) if low else None
        if extent is not None and block < extent.first + extent.count:
            return extent, end
        return None, self._at(low).first if low < self._count else end


class BlockMap:
    """The runs of one file; nothing is read before it is asked for."""

    def __init__(self, volume: Volume, superblock: Superblock, inode: Inode) -> None:
        if inode.format not in (IN_LIST, IN_TREE):
            raise GuestUnreadable(f"a file of XFS with a map of format {inode.format}")
        self._volume = volume
        self._superblock = superblock
        self._inode = inode
        # The leaf that was used last, and which blocks of the file it speaks of.
        self._leaf = _Leaf(inode.fork, 0, 0)
        self._leaf_start, self._leaf_end = 0, 0

    def find(self, offset: int) -> Run:
        """The run that holds byte ``offset``. Raises `GuestUnreadable`."""
        block = offset >> self._superblock.log_block
        if not self._leaf_start <= block < self._leaf_end:
            self._load(block)
        extent, end = self._leaf.around(block, self._leaf_end)
        shift = self._superblock.log_block
        if extent is None:
            return Run(block << shift, max(1, end - block) << shift, None)
        place = self._superblock.block_place(extent.block) if extent.is_written else None
        return Run(extent.first << shift, extent.count << shift, place)

    def _load(self, block: int) -> None:
        """Makes the leaf around ``block`` the one in use."""
        fork = self._inode.fork
        if self._inode.format == IN_LIST:
            most = len(fork.content) // EXTENT_BYTES
            count = check_range(self._inode.extents, 0, most, "the extents of an inode")
            self._leaf = _Leaf(fork, 0, count)
            self._leaf_start, self._leaf_end = 0, MAX_FILE_BLOCKS
            return
        level = check_range(fork.u16(0), 1, MAX_LEVELS, "the depth of a tree of extents")
        node, header, start, end = fork, ROOT_HEADER_BYTES, 0, MAX_FILE_BLOCKS
        while level:
            count, most = node.u16(header - 2 if node is fork else 6), _room(node, header)
            check_range(count, 1, most, "the records of a tree of extents")
            index = _last_not_above(node, header, count, block)
            start = max(start, node.u64(header + index * POINTER_BYTES)) if index else start
            if index + 1 < count:
                end = min(end, node.u64(header + (index + 1) * POINTER_BYTES))
            level -= 1
            node = self._tree_block(node.u64(header + (most + index) * POINTER_BYTES), level)
            header = TREE_HEADER_BYTES[self._superblock.version]
        count = check_range(node.u16(6), 0, _room(node, header), "the records of a tree of extents")
        self._leaf = _Leaf(node, header, count)
        self._leaf_start, self._leaf_end = start, max(end, block + 1)

    def _tree_block(self, block: int, level: int) -> Record:
        place = self._superblock.block_place(block)
        node = Record(self._volume.read(place, self._superblock.block_bytes), "big", "a tree of extents")
        if node.raw(0, 4) != TREE_MAGIC[self._superblock.version] or node.u16(4) != level:
            raise GuestUnreadable("a tree of extents is damaged")
        return node


def _room(node: Record, header: int) -> int:
    """How many records fit; an extent is as long as a key and a pointer."""
    return (len(node.content) - header) // EXTENT_BYTES


def _last_not_above(node: Record, header: int, count: int, block: int) -> int:
    """The number, from 0, of the last key that is ``block`` or below; 0 when there is none."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if node.u64(header + middle * POINTER_BYTES) <= block:
            low = middle
        else:
            high = middle - 1
    return low

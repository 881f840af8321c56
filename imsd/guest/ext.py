"""ext2, ext3 and ext4, read as they lie on the disk: the journal is not replayed.

Directories with a hash index are walked like plain ones, which their blocks allow.
Reference: Linux, Documentation/filesystems/ext4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from .cached import cached
from .ext_layout import (
    INODE_COMPRESSED,
    INODE_ENCRYPTED,
    INODE_EXTENTS,
    INODE_INLINE,
    ROOT_INODE,
    Inode,
    Superblock,
    inline_content,
    parse_inode,
    read_superblock,
)
from .ext_map import BlockMap
from .file_system import MAX_DIRECTORY_BLOCKS, Node
from .inodes import InodeFileSystem, Name, node_of
from .record import Record, check_range
from .runs import read_runs
from .volume import GuestUnreadable, Volume

# Links shorter than this lie in the inode, where a file has its map.
SHORT_LINK_BYTES = 60

# In an entry of a directory: inode at 0, length at 4, length of the name at 6, name at 8.
ENTRY_HEADER_BYTES = 8
INLINE_PARENT_BYTES = 4


class ExtFileSystem(InodeFileSystem):
    name = "ext4"
    root_number = ROOT_INODE

    def __init__(self, volume: Volume, superblock: Superblock) -> None:
        self._volume = cached(volume)
        self._superblock = superblock
        self.name = superblock.name
        self.label = superblock.label
        self.uuid = superblock.uuid
        self.root()

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        superblock = read_superblock(volume)
        return None if superblock is None else cls(volume, superblock)

    def _inode(self, number: int) -> Inode:
        superblock = self._superblock
        check_range(number, 1, superblock.inodes, "the number of an inode")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        width = superblock.descriptor_bytes
        place = superblock.descriptor_place(group)
        descriptor = Record(self._volume.read(place, width), "little", "a group descriptor of ext4")
        table = descriptor.u32(8) | (descriptor.u32(40) << 32 if width >= 64 else 0)
        check_range(table, 1, superblock.blocks - 1, "the place of an inode table")
        place = table * superblock.block_bytes + index * superblock.inode_bytes
        return parse_inode(self._volume.read(place, superblock.inode_bytes))

    def _node(self, number: int) -> Node:
        inode = self._inode(number)
        return node_of(number, inode.mode, inode.size_bytes)

    def _content(self, number: int, offset: int, length: int) -> bytes:
        inode = self._inode(number)
        if inode.flags & (INODE_ENCRYPTED | INODE_COMPRESSED):
            raise GuestUnreadable("the file is encrypted or compressed by ext4")
        if inode.flags & INODE_INLINE:
            return inline_content(inode)[offset : offset + length]
        return read_runs(self._volume, self._map(inode).find, offset, length)

    def _target(self, number: int, length: int) -> bytes:
        inode = self._inode(number)
        is_short = length < SHORT_LINK_BYTES and not inode.flags & (INODE_EXTENTS | INODE_INLINE)
        return inode.blocks[:length] if is_short else self._content(number, 0, length)

    def _map(self, inode: Inode) -> BlockMap:
        return BlockMap(self._volume, self._superblock, inode)

    def _names(self, directory: Node) -> Iterator[Name]:
        for block in self._directory_blocks(self._inode(directory.number)):
            yield from _entries_of(block)

    def _directory_blocks(self, inode: Inode) -> Iterator[bytes]:
        if inode.flags & INODE_INLINE:
            content = inline_content(inode)
            yield content[INLINE_PARENT_BYTES:SHORT_LINK_BYTES]
            yield content[SHORT_LINK_BYTES:]
            return
        step = self._superblock.block_bytes
        size = check_range(inode.size_bytes, 0, MAX_DIRECTORY_BLOCKS * step, "the size of a directory")
        find = self._map(inode).find
        for offset in range(0, size - step + 1, step):
            yield read_runs(self._volume, find, offset, step)


def _entries_of(block: bytes) -> Iterator[Name]:
    """The used entries of one block."""
    place = 0
    while place + ENTRY_HEADER_BYTES <= len(block):
        number = int.from_bytes(block[place : place + 4], "little")
        length = int.from_bytes(block[place + 4 : place + 6], "little")
        if length in (0, 0xFFFF) and len(block) == 1 << 16:  # it does not fit in 16 bits
            length = 1 << 16
        name_bytes = block[place + 6]
        end = place + length
        if length < ENTRY_HEADER_BYTES or end > len(block):
            raise GuestUnreadable("a directory of ext4 is damaged")
        if number:
            start = place + ENTRY_HEADER_BYTES
            yield block[start : min(end, start + name_bytes)], number
        place = end

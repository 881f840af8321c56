"""XFS versions 4 and 5, read as it lies on the disk: the log is not replayed.

Reference: XFS Algorithms & Data Structures, 3rd edition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from .cached import cached
from .file_system import MAX_DIRECTORY_BLOCKS, Node
from .inodes import InodeFileSystem, Name, node_of
from .runs import read_runs
from .volume import GuestUnreadable, Volume
from .xfs_directory import DATA_END, block_names, short_names
from .xfs_layout import Inode, Superblock, parse_inode, read_superblock
from .xfs_map import BlockMap

LOCAL = 1  # di_format

# Each block of a link in version 5 starts with a header.
LINK_MAGIC = b"XSLM"
LINK_HEADER_BYTES = 56


class XfsFileSystem(InodeFileSystem):
    name = "xfs"

    def __init__(self, volume: Volume, superblock: Superblock) -> None:
        self._volume = cached(volume)
        self._superblock = superblock
        self.root_number = superblock.root_inode
        self.label, self.uuid = superblock.label, superblock.uuid
        self.root()

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        superblock = read_superblock(volume)
        return None if superblock is None else cls(volume, superblock)

    def _content(self, number: int, offset: int, length: int) -> bytes:
        return read_runs(self._volume, self._map(self._inode(number)).find, offset, length)

    def _target(self, number: int, length: int) -> bytes:
        inode = self._inode(number)
        return inode.fork.raw(0, length) if inode.format == LOCAL else self._remote_link(inode, length)

    def _remote_link(self, inode: Inode, size: int) -> bytes:
        step = self._superblock.block_bytes
        header = LINK_HEADER_BYTES if self._superblock.version == 5 else 0
        room = step - header
        find = self._map(inode).find
        blocks = [read_runs(self._volume, find, index * step, step) for index in range(-(-size // room))]
        if header and any(block[: len(LINK_MAGIC)] != LINK_MAGIC for block in blocks):
            raise GuestUnreadable("a link of XFS is damaged")
        return b"".join(block[header:] for block in blocks)[:size]

    def _inode(self, number: int) -> Inode:
        superblock = self._superblock
        return parse_inode(self._volume.read(superblock.inode_place(number), superblock.inode_bytes))

    def _node(self, number: int) -> Node:
        inode = self._inode(number)
        return node_of(number, inode.mode, inode.size_bytes)

    def _map(self, inode: Inode) -> BlockMap:
        return BlockMap(self._volume, self._superblock, inode)

    def _names(self, directory: Node) -> Iterator[Name]:
        inode = self._inode(directory.number)
        has_file_type = self._superblock.has_file_type
        if inode.format == LOCAL:
            yield from short_names(inode.fork, has_file_type)
            return
        find = self._map(inode).find
        step = self._superblock.directory_block_bytes
        end = min(inode.size_bytes, DATA_END)
        offset = 0
        for _ in range(MAX_DIRECTORY_BLOCKS):
            if offset >= end:
                return
            run = find(offset)
            if run.place is None:
                offset = run.start + run.length
                continue
            yield from block_names(read_runs(self._volume, find, offset, step), has_file_type)
            offset += step
        raise GuestUnreadable(f"a directory of more than {MAX_DIRECTORY_BLOCKS} blocks")

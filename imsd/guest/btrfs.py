"""btrfs on one device, read-only: the default subvolume, others by name, files also when compressed.

What a log tree holds (files that were synced just before a crash) is not replayed. Source: as in
btrfs_layout.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Self
from uuid import UUID

from . import btrfs_layout as layout
from .btrfs_extents import Extents
from .btrfs_layout import Superblock, TreeRoot, tree_root
from .btrfs_trees import Trees
from .crc32c import crc32c
from .file_system import (
    MAX_ENTRIES,
    MAX_FILE_BYTES,
    MAX_PATH_PARTS,
    FileSystem,
    Kind,
    Node,
    check_link_length,
)
from .record import check_range, cut, unpack
from .volume import GuestUnreadable, Volume

CACHED_ROOTS = 256
INODE_BITS = 64  # of a node's number; above them, it is the subvolume
# Subvolumes beside the default one in which a system is looked for.
MAX_ROOTS = 16
DEFAULT_NAME = b"default"


@dataclass(frozen=True, slots=True)
class Subvolume:
    """``path``: from the top level, without a leading slash, as ``subvol=`` names it."""

    number: int
    path: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a directory: an inode, or (by the type of its key) another subvolume."""

    name: str
    target: int
    key_type: int
    type: int


class BtrfsFileSystem(FileSystem):
    """A btrfs, seen from one of its subvolumes; those below are directories."""

    name = "btrfs"

    def __init__(self, volume: Volume, superblock: Superblock) -> None:
        """Raises `GuestUnreadable`."""
        self._roots = superblock.root_tree
        self._trees = Trees(volume, superblock)
        self._extents = Extents(self._trees, superblock.sector_bytes)
        self._tree = lru_cache(CACHED_ROOTS)(self._find_tree)
        self.label = superblock.label
        self.uuid = str(UUID(bytes=superblock.uuid))
        if superblock.has_log:
            self.noticed = ("the btrfs was not cleanly unmounted: what was synced last is not seen",)
        self.subvolume = self._default()

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        """As `FileSystem.open`; more than one device raises `GuestUnreadable`."""
        superblock = Superblock.read(volume)
        return None if superblock is None else cls(volume, superblock)

    def open_subvolume(self, path: str) -> Self | None:
        """The same file system, seen from a subvolume; empty: from the top level. None when it is not there.

        ``path``: from the top level, as in the mount option ``subvol=``. Raises `GuestUnreadable`.
        """
        node = self._root_of(layout.TOP_LEVEL)
        for part in [part for part in path.split("/") if part][:MAX_PATH_PARTS]:
            found = self.lookup(node, part) if node.kind is Kind.DIRECTORY else None
            if found is None:
                return None
            node = found
        number, inode = divmod(node.number, 1 << INODE_BITS)
        if node.kind is not Kind.DIRECTORY or inode != self._tree(number)[1]:
            return None
        seen_from = copy.copy(self)
        seen_from.subvolume = number
        return seen_from

    def subvolumes(self) -> list[Subvolume]:
        """All but the top level, by their paths. Raises `GuestUnreadable`."""
        found: dict[int, tuple[int, int, str]] = {}  # parent, directory in it, name
        first, last = (layout.FIRST_SUBVOLUME, 0, 0), (layout.LAST_SUBVOLUME, 255, layout.MAX_NUMBER)
        for (number, kind, parent), item in self._trees.items(self._roots, first, last):
            if kind == layout.ROOT_BACKREF_ITEM:
                check_range(len(found), 0, layout.MAX_SUBVOLUMES - 1, "number of subvolumes")
                directory, _, length = unpack(layout.ROOT_BACKREF, item, 0, "subvolume")
                name = _name(item, layout.ROOT_BACKREF.size, length)
                found[number] = (parent, directory, name)
        paths = ((number, self._path(number, found)) for number in found)
        listed = [Subvolume(number, path) for number, path in paths if path is not None]
        return sorted(listed, key=lambda subvolume: subvolume.path)

    def roots(self) -> list[Self]:
        """This subvolume, then the other ones but for snapshots. Raises `GuestUnreadable`."""
        found = [self]
        for subvolume in self.subvolumes():
            if (
                subvolume.number != self.subvolume
                and "snapshot" not in subvolume.path
                and len(found) < MAX_ROOTS
            ):
                seen_from = copy.copy(self)
                seen_from.subvolume = subvolume.number
                found.append(seen_from)
        return found

    def root(self) -> Node:
        return self._root_of(self.subvolume)

    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        number, inode = divmod(directory.number, 1 << INODE_BITS)
        first = (inode, layout.DIRECTORY_INDEX, 0)
        last = (inode, layout.DIRECTORY_INDEX, layout.MAX_NUMBER)
        count = 0
        for _, item in self._trees.items(self._tree(number)[0], first, last):
            for entry in _entries(item):
                count = check_range(count + 1, 1, MAX_ENTRIES, "number of names in a directory")
                yield entry.name, self._named(number, entry)

    def lookup(self, directory: Node, name: str) -> Node | None:
        number, inode = divmod(directory.number, 1 << INODE_BITS)
        try:
            hashed = crc32c(name.encode("utf-8", "surrogateescape"), layout.NAME_HASH_SEED)
        except UnicodeEncodeError:
            return None
        item = self._trees.item(self._tree(number)[0], (inode, layout.DIRECTORY_ITEM, hashed))
        found = next((entry for entry in _entries(item or b"") if entry.name == name), None)
        return None if found is None else self._named(number, found)

    def read(self, node: Node, offset: int, length: int) -> bytes:
        check_range(length, 0, MAX_FILE_BYTES, "bytes to read at once")
        check_range(offset, 0, layout.MAX_NUMBER, "place to read at")
        length = min(length, node.size_bytes - offset)
        if length <= 0:
            return b""
        number, inode = divmod(node.number, 1 << INODE_BITS)
        return self._extents.read(self._tree(number)[0], inode, offset, length)

    def link_target(self, node: Node) -> str:
        target = self.read(node, 0, check_link_length(node.size_bytes))
        return target.decode("utf-8", "surrogateescape")

    def _default(self) -> int:
        """The subvolume that is mounted when none is named."""
        key = (layout.ROOTS_DIRECTORY, layout.DIRECTORY_ITEM, crc32c(DEFAULT_NAME, layout.NAME_HASH_SEED))
        item = self._trees.item(self._roots, key)
        if item is None:
            return layout.TOP_LEVEL
        number: int = unpack(layout.DIRECTORY_ENTRY, item, 0, "default subvolume")[0]
        return number

    def _find_tree(self, number: int) -> tuple[TreeRoot, int]:
        """The tree of a subvolume, and the inode of its root directory."""
        first = (number, layout.ROOT_ITEM, 0)
        last = (number, layout.ROOT_ITEM, layout.MAX_NUMBER)
        item = next((item for _, item in self._trees.items(self._roots, first, last)), None)
        if item is None:
            raise GuestUnreadable(f"subvolume {number} is not there")
        generation, directory, place, _, level = unpack(layout.ROOT, item, 0, "subvolume")
        return tree_root(place, level, generation), directory

    def _root_of(self, number: int) -> Node:
        return Node(number << INODE_BITS | self._tree(number)[1], Kind.DIRECTORY, 0)

    def _named(self, number: int, entry: _Entry) -> Node:
        """What an entry of a directory in subvolume ``number`` names."""
        if entry.key_type == layout.ROOT_ITEM:
            return Node(entry.target << INODE_BITS | layout.ROOT_DIRECTORY, Kind.DIRECTORY, 0)
        if entry.type == layout.ENTRY_DIRECTORY:
            return Node(number << INODE_BITS | entry.target, Kind.DIRECTORY, 0)
        return self._inode(number, entry.target)

    def _inode(self, number: int, inode: int) -> Node:
        item = self._trees.item(self._tree(number)[0], (inode, layout.INODE_ITEM, 0))
        if item is None:
            raise GuestUnreadable(f"inode {inode} of subvolume {number} is not there")
        size, mode = unpack(layout.INODE, item, 0, "inode")
        kind = Kind.OTHER
        for is_kind, known in ((S_ISREG, Kind.FILE), (S_ISDIR, Kind.DIRECTORY), (S_ISLNK, Kind.LINK)):
            if is_kind(mode):
                kind = known
        return Node(number << INODE_BITS | inode, kind, size)

    def _path(self, number: int, subvolumes: dict[int, tuple[int, int, str]]) -> str | None:
        """The path of a subvolume; None when it leads nowhere."""
        parts: list[str] = []
        while number != layout.TOP_LEVEL:
            if number not in subvolumes or len(parts) > MAX_PATH_PARTS:
                return None
            number, directory, name = subvolumes[number]
            parts.append(name)
            while directory != layout.ROOT_DIRECTORY:
                above = self._directory_above(number, directory)
                if above is None or len(parts) > MAX_PATH_PARTS:
                    return None
                directory, name = above
                parts.append(name)
        return "/".join(reversed(parts))

    def _directory_above(self, number: int, inode: int) -> tuple[int, str] | None:
        """Where a directory is, and its name there."""
        first = (inode, layout.INODE_REF_ITEM, 0)
        last = (inode, layout.INODE_REF_ITEM, layout.MAX_NUMBER)
        for key, item in self._trees.items(self._tree(number)[0], first, last):
            _, length = unpack(layout.INODE_REF, item, 0, "name of a directory")
            return key[2], _name(item, layout.INODE_REF.size, length)
        return None


def _entries(item: bytes) -> Iterator[_Entry]:
    """The entries in one item; there are several when the hashes of their names are equal."""
    position = 0
    while position < len(item):
        fields = unpack(layout.DIRECTORY_ENTRY, item, position, "directory entry")
        target, key_type, _, attributes, length, kind = fields
        position += layout.DIRECTORY_ENTRY.size
        yield _Entry(_name(item, position, length), target, key_type, kind)
        position += length + attributes


def _name(item: bytes, offset: int, length: int) -> str:
    check_range(length, 1, layout.MAX_NAME_BYTES, "length of a name")
    return cut(item, offset, length, "name").decode("utf-8", "surrogateescape")

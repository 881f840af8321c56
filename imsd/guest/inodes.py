"""What file systems share whose directories only hold names and numbers of inodes."""

from __future__ import annotations

import stat
from abc import abstractmethod
from collections.abc import Iterator

from .file_system import MAX_ENTRIES, FileSystem, Kind, Node, check_link_length
from .runs import part_of_file
from .volume import GuestUnreadable

KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.LINK}

Name = tuple[bytes, int]


def node_of(number: int, mode: int, size_bytes: int) -> Node:
    """The node of an inode with a Unix mode."""
    return Node(number, KINDS.get(stat.S_IFMT(mode), Kind.OTHER), size_bytes)


class InodeFileSystem(FileSystem):
    """A node's number is that of its inode. Subclasses read inodes and the names in a directory."""

    root_number: int

    @abstractmethod
    def _node(self, number: int) -> Node:
        """What an inode is. Raises `GuestUnreadable`."""

    @abstractmethod
    def _names(self, directory: Node) -> Iterator[Name]:
        """Names and inodes in a directory, which may have ``.`` and ``..`` among them."""

    @abstractmethod
    def _content(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a file, which has them all. Raises `GuestUnreadable`."""

    @abstractmethod
    def _target(self, number: int, length: int) -> bytes:
        """The ``length`` bytes of a link. Raises `GuestUnreadable`."""

    def root(self) -> Node:
        node = self._node(self.root_number)
        if node.kind is not Kind.DIRECTORY:
            raise GuestUnreadable(f"the root of {self.name} is no directory")
        return node

    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        for name, number in self._limited_names(directory):
            yield name.decode("utf-8", "surrogateescape"), self._node(number)

    def lookup(self, directory: Node, name: str) -> Node | None:
        # Decoded, for not every text can be encoded again.
        for found, number in self._limited_names(directory):
            if found.decode("utf-8", "surrogateescape") == name:
                return self._node(number)
        return None

    def read(self, node: Node, offset: int, length: int) -> bytes:
        count = part_of_file(node.size_bytes, offset, length)
        return self._content(node.number, offset, count) if count else b""

    def link_target(self, node: Node) -> str:
        target = self._target(node.number, check_link_length(node.size_bytes))
        return target.decode("utf-8", "surrogateescape")

    def _limited_names(self, directory: Node) -> Iterator[Name]:
        # A name may have led to another kind of inode than its directory says.
        if self._node(directory.number).kind is not Kind.DIRECTORY:
            raise GuestUnreadable("what should be a directory is none")
        left = MAX_ENTRIES
        for name in self._names(directory):
            if not left:
                raise GuestUnreadable(f"a directory with more than {MAX_ENTRIES} entries")
            left -= 1
            if name[0] not in (b"", b".", b".."):
                yield name

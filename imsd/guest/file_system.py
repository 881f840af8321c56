"""What every reader of a guest's file system offers, and walking its paths.

A file system is found by its bytes, opened read-only, and never trusted: whatever is wrong raises
`GuestUnreadable`, and no call works longer than its limits allow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

from .volume import GuestUnreadable, Volume

MAX_LINKS = 12
MAX_NAME_BYTES = 1020  # 255 characters of UTF-8
MAX_PATH_PARTS = 64
MAX_LINK_BYTES = 4096
# Entries of one directory that are looked at; more make it unreadable.
MAX_ENTRIES = 65_536
MAX_DIRECTORY_BLOCKS = 4096
MAX_FILE_BYTES = 32 << 20


class Kind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"  # devices, sockets, pipes


@dataclass(frozen=True, slots=True)
class Node:
    """A file, directory or link. ``number`` tells it apart in its file system (an inode, a record)."""

    number: int
    kind: Kind
    size_bytes: int


class FileSystem(ABC):
    """One opened file system. ``label`` and ``uuid`` (as blkid prints it) are empty when it has none.

    ``noticed``: sentences about its state that a user should know, such as that it was not unmounted.
    """

    name: str  # as in fstab: ext4, xfs, btrfs, vfat, ntfs, iso9660
    is_case_sensitive: bool = True
    label: str = ""
    uuid: str = ""
    noticed: Sequence[str] = ()

    @classmethod
    @abstractmethod
    def open(cls, volume: Volume) -> Self | None:
        """The file system on ``volume``; None when its signature is not there. Raises `GuestUnreadable`."""

    def roots(self) -> Sequence[FileSystem]:
        """This file system as seen from each place in which a system may lie; first, as it is mounted.

        Raises `GuestUnreadable`.
        """
        return [self]

    @abstractmethod
    def root(self) -> Node: ...

    @abstractmethod
    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        """Names and nodes, without ``.`` and ``..``; names that are no UTF-8 with surrogate escapes."""

    def lookup(self, directory: Node, name: str) -> Node | None:
        """One entry. Formats with an index may do better than to walk the directory."""
        wanted = name if self.is_case_sensitive else name.casefold()
        for found, node in self.entries(directory):
            if (found if self.is_case_sensitive else found.casefold()) == wanted:
                return node
        return None

    @abstractmethod
    def read(self, node: Node, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes of a file; fewer only at its end. Holes read as zeros."""

    @abstractmethod
    def link_target(self, node: Node) -> str: ...


class FileVolume(Volume):
    """A file as a volume, for what lies in it: a registry hive, a program, an image."""

    def __init__(self, file_system: FileSystem, node: Node) -> None:
        self._file_system = file_system
        self._node = node
        self.size_bytes = node.size_bytes

    def _read(self, offset: int, length: int) -> bytes:
        found = self._file_system.read(self._node, offset, length)
        if len(found) != length:
            raise GuestUnreadable(f"a file of {self.size_bytes} bytes ends at {offset + len(found)}")
        return found


class Tree:
    """A file system seen from its root; links are followed inside it, as the guest would."""

    def __init__(self, file_system: FileSystem) -> None:
        self.file_system = file_system

    def find(self, path: str) -> Node | None:
        """What ``path`` names (links followed), or None when there is nothing or it is too winding.

        Raises `GuestUnreadable`.
        """
        return self._walk(path, follow_last=True)

    def find_link(self, path: str) -> Node | None:
        """As `find`, but a link at the end is itself the answer."""
        return self._walk(path, follow_last=False)

    def read_file(self, path: str, most_bytes: int = MAX_FILE_BYTES) -> bytes | None:
        """The first ``most_bytes`` of a file; None when there is no such file. Raises `GuestUnreadable`."""
        node = self.find(path)
        if node is None or node.kind is not Kind.FILE:
            return None
        return self.file_system.read(node, 0, min(node.size_bytes, most_bytes, MAX_FILE_BYTES))

    def read_text(self, path: str, most_bytes: int = 1 << 20) -> str | None:
        """A text file, decoded as UTF-8; wrong bytes are replaced."""
        content = self.read_file(path, most_bytes)
        return None if content is None else content.decode("utf-8", "replace")

    def list(self, path: str) -> list[tuple[str, Node]]:
        """The entries of a directory; empty when there is no such directory."""
        node = self.find(path)
        if node is None or node.kind is not Kind.DIRECTORY:
            return []
        return list(self.file_system.entries(node))

    def _walk(self, path: str, *, follow_last: bool) -> Node | None:
        parents: list[Node] = []
        node = self.file_system.root()
        parts = [part for part in path.split("/") if part]
        links = 0
        while parts:
            name = parts.pop(0)
            if len(parts) > MAX_PATH_PARTS:
                return None
            if name == ".":
                continue
            if name == "..":
                node = parents.pop() if parents else node
                continue
            if node.kind is not Kind.DIRECTORY:
                return None
            found = self.file_system.lookup(node, name)
            if found is None:
                return None
            if found.kind is Kind.LINK and (parts or follow_last):
                links += 1
                if links > MAX_LINKS:
                    return None
                target = self.file_system.link_target(found)
                if target.startswith("/"):
                    parents, node = [], self.file_system.root()
                parts = [part for part in target.split("/") if part] + parts
                continue
            parents.append(node)
            node = found
        return node


def check_link_length(size_bytes: int) -> int:
    """Raises `GuestUnreadable` for a link that is longer than any system makes."""
    if not 0 <= size_bytes <= MAX_LINK_BYTES:
        raise GuestUnreadable(f"a link of {size_bytes} bytes")
    return size_bytes

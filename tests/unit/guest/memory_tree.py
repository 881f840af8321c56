"""A file system in memory, for tests of rules: paths and what they hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from imsd.guest.file_system import FileSystem, Kind, Node, Tree
from imsd.guest.volume import GuestUnreadable, Volume


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Broken:
    """A file that is listed, but cannot be read."""

    error: type[Exception] = GuestUnreadable


Content = str | bytes | Link | Broken | None
Paths = Mapping[str, Content]


class MemoryFileSystem(FileSystem):
    """``paths``: text, bytes, a link; None for an empty directory."""

    def __init__(self, paths: Paths, *, uuid: str = "", label: str = "", name: str = "ext4") -> None:
        self.uuid = uuid
        self.label = label
        self.name = name
        self.is_case_sensitive = name == "ext4"
        self._directories: dict[int, dict[str, Node]] = {0: {}}
        self._contents: dict[int, Content] = {}
        for path, content in paths.items():
            self._add([part for part in path.split("/") if part], content)

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        return None

    def root(self) -> Node:
        return Node(0, Kind.DIRECTORY, 0)

    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        yield from self._directories[directory.number].items()

    def read(self, node: Node, offset: int, length: int) -> bytes:
        content = self._contents[node.number]
        if isinstance(content, Broken):
            raise content.error("damaged for a test")
        assert isinstance(content, bytes)
        return content[offset : offset + length]

    def link_target(self, node: Node) -> str:
        content = self._contents[node.number]
        assert isinstance(content, Link)
        return content.target

    def _add(self, parts: list[str], content: Content) -> None:
        directory = 0
        for part in parts[:-1] if content is not None else parts:
            node = self._directories[directory].get(part)
            if node is None:
                node = self._directories[directory][part] = Node(self._next_number(), Kind.DIRECTORY, 0)
                self._directories[node.number] = {}
            directory = node.number
        if content is not None:
            self._directories[directory][parts[-1]] = self._node(content)

    def _node(self, content: Content) -> Node:
        number = self._next_number()
        kept = content.encode() if isinstance(content, str) else content
        self._contents[number] = kept
        kind = Kind.LINK if isinstance(kept, Link) else Kind.FILE
        return Node(number, kind, len(kept) if isinstance(kept, bytes) else 100)

    def _next_number(self) -> int:
        return len(self._directories) + len(self._contents)


def tree(paths: Paths) -> Tree:
    """A tree with ``paths`` in it."""
    return Tree(MemoryFileSystem(paths))


def elf(machine: int = 62, bits: int = 64) -> bytes:
    """The start of a program: 62 and 3 are x86, 183 and 40 arm."""
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    return ident + struct.pack("<HH", 3, machine) + bytes(44)


ELF_X86 = elf()
# As distributions lay it out since they merged /usr; the links are absolute inside the guest.
MERGED_USR: Paths = {
    "/bin": Link("/usr/bin"),
    "/sbin": Link("usr/sbin"),
    "/lib": Link("usr/lib"),
    "/usr/lib/modules": None,
    "/usr/sbin": None,
    "/usr/bin/sh": Link("/bin/dash"),
    "/usr/bin/dash": ELF_X86,
}

"""Volumes that count their reads, and damage where a reader looks."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from imsd.guest.file_system import FileSystem, Kind
from imsd.guest.volume import GuestUnreadable, Volume

# What inspection of a whole disk may take; a damaged one must not take more.
MAX_READS = 20_000
MAX_READ_BYTES = 64 << 20

INTERESTING = (0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF)


class WatchedVolume(Volume):
    """Bytes in memory. ``reads``: offset and length of each read; too many end the test."""

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = content
        self.size_bytes = len(content)
        self.reads: list[tuple[int, int]] = []
        self.read_bytes = 0

    def _read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        self.read_bytes += length
        if len(self.reads) > MAX_READS or self.read_bytes > MAX_READ_BYTES:
            pytest.fail(f"{len(self.reads)} reads, {self.read_bytes} bytes")
        return bytes(self._content[offset : offset + length])


def visit(file_system: FileSystem, most_directories: int = 200) -> dict[str, int]:
    """Looks at everything below the root. Returns sizes by path: what was read of files and links."""
    found: dict[str, int] = {}
    waiting = [("", file_system.root())]
    seen: set[int] = set()
    while waiting and len(seen) < most_directories:
        path, directory = waiting.pop()
        if directory.number in seen:
            continue
        seen.add(directory.number)
        for name, listed in file_system.entries(directory):
            node = file_system.lookup(directory, name) or listed
            if node.kind is Kind.DIRECTORY:
                waiting.append((f"{path}/{name}", node))
                found[f"{path}/{name}"] = 0
            elif node.kind is Kind.FILE:
                found[f"{path}/{name}"] = len(file_system.read(node, 0, min(node.size_bytes, 1 << 16)))
            elif node.kind is Kind.LINK:
                found[f"{path}/{name}"] = len(file_system.link_target(node))
    return found


def survives_damage(
    content: bytes, look: Callable[[Volume], object], seeds: range, most_bytes: int = 8
) -> int:
    """Damages what ``look`` reads of ``content``, once for each seed; returns how often that was noticed.

    Anything but `GuestUnreadable` comes out and fails the test.
    """
    watched = WatchedVolume(content)
    look(watched)
    unreadable = 0
    for seed in seeds:
        chosen = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(chosen.randint(1, most_bytes)):
            offset, length = chosen.choice(watched.reads)
            # Structures begin where reads do.
            inside = chosen.randrange(min(length, chosen.choice((64, 256, 1024, length))))
            damaged[offset + inside] = chosen.choice((*INTERESTING, chosen.randrange(256)))
        try:
            look(WatchedVolume(damaged))
        except GuestUnreadable:
            unreadable += 1
    return unreadable

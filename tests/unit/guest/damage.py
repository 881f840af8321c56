"""Volumes that count their reads, what looks at them, and damage where it looked."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from imsd.guest.btrfs import BtrfsFileSystem
from imsd.guest.file_system import FileSystem, FileVolume, Kind, Tree
from imsd.guest.ntfs import NtfsFileSystem
from imsd.guest.registry import Hive, Key
from imsd.guest.volume import GuestUnreadable, Volume

# What inspection of a whole disk may take; a damaged one must not take more.
MAX_READS = 20_000
MAX_READ_BYTES = 64 << 20

MAX_KEYS = 200
MAX_DEPTH = 8

INTERESTING = (0, 1, 2, 3, 7, 16, 255, 256, 512, 4096, 1 << 16, 1 << 31, 1 << 32, 1 << 63)


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


def open_btrfs(content: bytes | bytearray | Path) -> BtrfsFileSystem:
    """Opens a volume that must be btrfs, its reads counted."""
    found = BtrfsFileSystem.open(
        WatchedVolume(content.read_bytes() if isinstance(content, Path) else content)
    )
    assert found is not None
    return found


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


def look_at_hive(volume: Volume) -> None:
    """Every key and value, down to a depth."""
    waiting: list[tuple[int, Key]] = [(0, Hive(volume).root())]
    seen = 0
    while waiting and seen < MAX_KEYS:
        depth, key = waiting.pop()
        seen += 1
        for value in key.values().values():
            assert (value.text(), value.texts(), value.number()) != ("", [], 0)
        if depth < MAX_DEPTH:
            waiting += [(depth + 1, found) for found in key.subkeys()]


def look_at_ntfs(volume: Volume) -> None:
    """All files, and what the hive says."""
    system = NtfsFileSystem.open(volume)
    if system is None:
        return
    visit(system)
    node = Tree(system).find("/Windows/System32/config/SOFTWARE")
    if node is not None:
        look_at_hive(FileVolume(system, node))


def look_at_btrfs(volume: Volume) -> None:
    """All files, seen from every subvolume."""
    system = BtrfsFileSystem.open(volume)
    for seen_from in system.roots() if system is not None else []:
        visit(seen_from)
        Tree(seen_from).read_text("/etc/os-release")


def damaged(content: bytes, reads: Sequence[tuple[int, int]], chosen: random.Random) -> bytearray:
    """``content`` with a few fields changed in places that were read."""
    changed = bytearray(content)
    for _ in range(chosen.randint(1, chosen.choice((2, 8, 40)))):
        offset, length = chosen.choice(reads)
        # Structures begin where reads do.
        place = offset + chosen.randrange(min(length, chosen.choice((64, 256, 1024, length))))
        other, _ = chosen.choice(reads)
        size = chosen.choice((1, 1, 2, 4, 8))
        field = chosen.choice(
            (
                chosen.choice(INTERESTING).to_bytes(8, "little")[:size],
                bytes([chosen.choice((0, 0x7F, 0x80, 0xFF))]) * size,
                chosen.randbytes(size),
                bytes(changed[other : other + 128][8 * chosen.randrange(16) :][:size]),
            )
        )
        changed[place : place + len(field)] = field
    return changed


def survives_damage(content: bytes, look: Callable[[Volume], object], seeds: range) -> int:
    """Damages what ``look`` reads of ``content``, once for each seed; returns how often that was noticed.

    Anything but `GuestUnreadable` comes out and fails the test.
    """
    watched = WatchedVolume(content)
    look(watched)
    unreadable = 0
    for seed in seeds:
        try:
            look(WatchedVolume(damaged(content, watched.reads, random.Random(seed))))
        except GuestUnreadable:
            unreadable += 1
    return unreadable

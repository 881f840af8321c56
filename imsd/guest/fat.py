"""FAT12, FAT16 and FAT32 with long names, such as EFI system partitions have.

Reference: Microsoft, FAT32 File System Specification 1.03 (fatgen103).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from .cached import cached
from .fat_layout import (
    DIRECTORY,
    ENTRY_BYTES,
    VOLUME_LABEL,
    BootSector,
    Entry,
    parse_entries,
    parse_entry,
    read_boot_sector,
)
from .file_system import MAX_ENTRIES, FileSystem, Kind, Node
from .record import check_range
from .runs import Run, part_of_file, read_runs
from .volume import GuestUnreadable, Volume

# No entry of a directory lies there, so it can stand for the root.
ROOT_NUMBER = 0
# Clusters that are followed from the start of a file.
MAX_CHAIN_CLUSTERS = 1 << 18
MAX_RUN_CLUSTERS = 1024
# The specification's own limit.
MAX_DIRECTORY_BYTES = 2 << 20
# Of the root, which has the label of the volume among its first entries.
LABEL_BYTES = 16 << 10
END_OF_CHAIN = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}
ENTRY_MASK = {12: 0xFFF, 16: 0xFFFF, 32: 0x0FFFFFFF}


class FatFileSystem(FileSystem):
    """A node's number is the place of its entry on the volume."""

    name = "vfat"
    is_case_sensitive = False

    def __init__(self, volume: Volume, boot: BootSector) -> None:
        self._volume = cached(volume)
        self._boot = boot
        self.uuid = boot.uuid
        place, content = next(self._directory_pieces(self.root()), (0, b""))
        first = parse_entries([(place, content[:LABEL_BYTES])])
        self.label = next((entry.name for entry in first if entry.attributes & VOLUME_LABEL), boot.label)

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        boot = read_boot_sector(volume)
        return None if boot is None else cls(volume, boot)

    def root(self) -> Node:
        return Node(ROOT_NUMBER, Kind.DIRECTORY, 0)

    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        for entry in self._all_entries(directory):
            if entry.attributes & VOLUME_LABEL or entry.name in (".", ".."):
                continue
            kind = Kind.DIRECTORY if entry.attributes & DIRECTORY else Kind.FILE
            yield entry.name, Node(entry.place, kind, entry.size_bytes)

    def read(self, node: Node, offset: int, length: int) -> bytes:
        entry = self._entry(node)
        count = part_of_file(entry.size_bytes, offset, length)
        if not count:
            return b""
        return read_runs(self._volume, _Chain(self, self._cluster(entry)).find, offset, count)

    def link_target(self, node: Node) -> str:
        raise GuestUnreadable("FAT has no links")

    def following(self, cluster: int) -> int | None:
        """The cluster after another one; None at the end of a file. Raises `GuestUnreadable`."""
        width = self._boot.width
        raw = self._volume.read(self._boot.fat_place + cluster * width // 8, 4 if width == 32 else 2)
        value = int.from_bytes(raw, "little")
        if width == 12 and cluster & 1:
            value >>= 4
        value &= ENTRY_MASK[width]
        return None if value >= END_OF_CHAIN[width] else value

    def run(self, index: int, count: int, cluster: int) -> Run:
        """``count`` clusters of a file from number ``index``, which lie from ``cluster`` on the volume.

        Raises `GuestUnreadable`.
        """
        check_range(cluster, 2, self._boot.clusters + 1, "a cluster of FAT")
        size = self._boot.cluster_bytes
        return Run(index * size, count * size, self._boot.first_cluster_place + (cluster - 2) * size)

    def _entry(self, node: Node) -> Entry:
        return parse_entry(self._volume.read(node.number, ENTRY_BYTES), node.number)

    def _cluster(self, entry: Entry) -> int:
        return entry.cluster if self._boot.width == 32 else entry.cluster & 0xFFFF

    def _all_entries(self, directory: Node) -> Iterator[Entry]:
        left = MAX_ENTRIES
        for entry in parse_entries(self._directory_pieces(directory)):
            if not left:
                raise GuestUnreadable(f"a directory with more than {MAX_ENTRIES} entries")
            left -= 1
            yield entry

    def _directory_pieces(self, directory: Node) -> Iterator[tuple[int, bytes]]:
        boot = self._boot
        cluster: int | None = boot.root_cluster
        if directory.number != ROOT_NUMBER:
            cluster = self._cluster(self._entry(directory))
        elif boot.width != 32:
            end = boot.root_place + boot.root_bytes
            for place in range(boot.root_place, end, LABEL_BYTES):
                yield place, self._volume.read(place, min(LABEL_BYTES, end - place))
            return
        seen: set[int] = set()
        while cluster is not None:
            if cluster in seen or len(seen) * boot.cluster_bytes >= MAX_DIRECTORY_BYTES:
                raise GuestUnreadable("a directory of FAT that has no end")
            seen.add(cluster)
            place = self.run(0, 1, cluster).place or 0
            yield place, self._volume.read(place, boot.cluster_bytes)
            cluster = self.following(cluster)


class _Chain:
    """The clusters of one file, followed as far as they are needed."""

    def __init__(self, file_system: FatFileSystem, cluster: int) -> None:
        self._file_system = file_system
        self._following: int | None = cluster
        self._end = 0

    def find(self, offset: int) -> Run:
        """The run that holds byte ``offset``, which never lies before the last one asked for."""
        run = self._next()
        while offset >= run.start + run.length:
            run = self._next()
        return run

    def _next(self) -> Run:
        first, start = self._following, self._end
        if first is None or start > MAX_CHAIN_CLUSTERS:
            raise GuestUnreadable("a file of FAT has fewer clusters than its size needs, or too many")
        count = 1
        run = self._file_system.run(start, count, first)
        self._following = self._file_system.following(first)
        while self._following == first + count and count < MAX_RUN_CLUSTERS:
            run = self._file_system.run(start, count + 1, first)
            self._following = self._file_system.following(first + count)
            count += 1
        self._end = start + count
        return run

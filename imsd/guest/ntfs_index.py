"""The directories of NTFS: a B+ tree of names, in the order of their upper-case characters.

Source: as in ntfs_layout.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from . import ntfs_layout as layout
from .file_system import MAX_ENTRIES
from .ntfs_layout import repaired
from .record import check_power_of_two, check_range, cut, unpack
from .volume import GuestUnreadable, Volume

MIN_CHILD_UNIT_BYTES = 512

Folded = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory, and what the directory knows of the file. ``name`` as stored (UTF-16).

    An entry without name ends a block. ``child``: the block of the names before this one.
    """

    record: int
    name: bytes
    name_space: int
    attributes: int
    reparse_tag: int
    size_bytes: int
    child: int | None


class Index:
    """The names of one directory. ``fold``: gives a name's upper-case characters."""

    def __init__(
        self, root: bytes, blocks: Volume | None, cluster_bytes: int, fold: Callable[[bytes], Folded]
    ) -> None:
        """Raises `GuestUnreadable`."""
        _, _, size = unpack(layout.INDEX_ROOT_FIELDS, root, 0, "index root")
        least, most = layout.MIN_INDEX_BLOCK_BYTES, layout.MAX_INDEX_BLOCK_BYTES
        self._block_bytes = check_power_of_two(size, least, most, "size of an index block")
        self._unit_bytes = cluster_bytes if cluster_bytes <= self._block_bytes else MIN_CHILD_UNIT_BYTES
        self._root = root
        self._blocks = blocks
        self._fold = fold

    def find(self, name: bytes) -> Entry | None:
        """The entry of a name, whatever its case. Raises `GuestUnreadable`."""
        wanted = self._fold(name)
        entries = self._root_entries()
        for _ in range(layout.MAX_INDEX_DEPTH):
            entry = next((e for e in entries if not e.name or self._fold(e.name) >= wanted), None)
            if entry is None:
                raise GuestUnreadable("an index block without end")
            if entry.name and self._fold(entry.name) == wanted:
                return entry
            if entry.child is None:
                return None
            entries = self._block(entry.child)
        raise GuestUnreadable(f"a directory of more than {layout.MAX_INDEX_DEPTH} levels")

    def walk(self) -> Iterator[Entry]:
        """All names, in order. Raises `GuestUnreadable`, also for more than `MAX_ENTRIES`."""
        seen: set[int] = set()
        waiting = [iter(self._root_entries())]
        count = 0
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif entry.child is not None:
                if entry.child in seen or len(waiting) > 2 * layout.MAX_INDEX_DEPTH:
                    raise GuestUnreadable("a directory whose blocks lead to one another")
                seen.add(entry.child)
                waiting.append(iter([replace(entry, child=None)]))
                waiting.append(iter(self._block(entry.child)))
            elif entry.name:
                count = check_range(count + 1, 1, MAX_ENTRIES, "number of names in a directory")
                yield entry

    def _root_entries(self) -> Sequence[Entry]:
        return _entries(self._root, layout.INDEX_ROOT_FIELDS.size, "index root")

    def _block(self, number: int) -> Sequence[Entry]:
        what = f"index block {number}"
        if self._blocks is None:
            raise GuestUnreadable(f"{what} of a directory without blocks")
        content = self._blocks.read(number * self._unit_bytes, self._block_bytes)
        content = repaired(content, layout.INDEX_BLOCK_MAGIC, what)
        found = unpack(layout.INDEX_BLOCK, content, 0, what)[3]
        if found != number:
            raise GuestUnreadable(f"{what} says that it is {found}")
        return _entries(content, layout.INDEX_BLOCK.size, what)


def _entries(content: bytes, header: int, what: str) -> Sequence[Entry]:
    """The entries behind the index header at ``header``, to the last, which has no name."""
    start, used, _ = unpack(layout.INDEX_HEADER, content, header, what)
    content = cut(content, header, used, what)
    position = start
    entries: list[Entry] = []
    while True:
        record, length, key_length, flags = unpack(layout.INDEX_ENTRY, content, position, what)
        check_range(length, layout.INDEX_ENTRY.size, len(content) - position, f"length of an entry of {what}")
        entry = content[position : position + length]
        child = None
        if flags & layout.INDEX_HAS_CHILD:
            (child,) = unpack(layout.CHILD, entry, length - layout.CHILD.size, what)
        is_last = bool(flags & layout.INDEX_END)
        key = b"" if is_last else cut(entry, layout.INDEX_ENTRY.size, key_length, what)
        entries.append(_entry(record & layout.REFERENCE_MASK, key, child, what))
        if is_last:
            return entries
        position += length


def _entry(record: int, key: bytes, child: int | None, what: str) -> Entry:
    if not key:
        return Entry(record, b"", 0, 0, 0, 0, child)
    size, attributes, tag, characters, name_space = unpack(layout.FILE_NAME, key, 0, what)
    check_range(characters, 1, 255, f"length of a name in {what}")
    name = cut(key, layout.FILE_NAME.size, 2 * characters, what)
    return Entry(record, name, name_space, attributes, tag, size, child)


def fold_with(upcase: Callable[[], bytes]) -> Callable[[bytes], Folded]:
    """What gives a name's upper-case characters. The volume's own table is read only for other than ASCII."""

    def fold(name: bytes) -> Folded:
        units = struct.unpack(f"<{len(name) // 2}H", name[: len(name) & ~1])
        if max(units, default=0) < 128:
            return tuple(unit - 32 if 97 <= unit <= 122 else unit for unit in units)
        table = upcase()
        return tuple(int.from_bytes(table[2 * unit : 2 * unit + 2], "little") for unit in units)

    return fold

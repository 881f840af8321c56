"""btrfs: logical addresses, the nodes of its trees, and what lies between two keys.

Source: as in btrfs_layout.py.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from . import btrfs_layout as layout
from .btrfs_layout import Key, Superblock, TreeRoot
from .record import check_range, cut, unpack
from .volume import GuestUnreadable, Volume

CACHED_NODES = 64
LOGICAL_BYTES = 1 << 64
END = (layout.MAX_NUMBER, 255, layout.MAX_NUMBER)


class LogicalSpace(Volume):
    """The addresses that btrfs uses, put together from chunks of one device."""

    def __init__(self, volume: Volume, device: int) -> None:
        self.size_bytes = LOGICAL_BYTES
        self._volume = volume
        self._device = device
        # Start, length, places of its copies.
        self._chunks: list[tuple[int, int, tuple[int, ...]]] = []

    def add(self, start: int, item: bytes) -> None:
        """A chunk as its item says; one that is known already is passed over. Raises `GuestUnreadable`."""
        length, profile, count, _ = unpack(layout.CHUNK, item, 0, "chunk")
        check_range(count, 1, layout.MAX_STRIPES, "stripes of a chunk")
        check_range(length, 1, LOGICAL_BYTES - start, "length of a chunk")
        profile &= layout.PROFILES
        if count > 1 and profile != layout.PROFILE_DUP:
            raise GuestUnreadable("a btrfs with chunks that are spread over several devices")
        if profile & ~(layout.PROFILE_DUP | layout.PROFILE_RAID0):
            raise GuestUnreadable(f"a chunk of profile {profile:#x}")
        places = []
        for index in range(count):
            offset = layout.CHUNK.size + index * layout.STRIPE.size
            device, place = unpack(layout.STRIPE, item, offset, "stripe")
            if device != self._device:
                raise GuestUnreadable(f"a chunk on another device ({device})")
            places.append(place)
        if self._chunk(start) is None:
            check_range(len(self._chunks), 0, layout.MAX_CHUNKS - 1, "number of chunks")
            insort(self._chunks, (start, length, tuple(places)))

    def read_copies(self, offset: int, length: int) -> Iterator[bytes]:
        """Each copy of bytes that lie in one chunk. Raises `GuestUnreadable`."""
        chunk = self._chunk(offset)
        if chunk is None or offset + length > chunk[0] + chunk[1]:
            raise GuestUnreadable(f"no chunk holds {length} bytes at {offset}")
        for place in chunk[2]:
            yield self._volume.read(place + offset - chunk[0], length)

    def _read(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            chunk = self._chunk(offset)
            if chunk is None:
                raise GuestUnreadable(f"no chunk holds what is at {offset}")
            part = min(length, chunk[0] + chunk[1] - offset)
            parts.append(self._volume.read(chunk[2][0] + offset - chunk[0], part))
            offset, length = offset + part, length - part
        return b"".join(parts)

    def _chunk(self, offset: int) -> tuple[int, int, tuple[int, ...]] | None:
        index = bisect_right(self._chunks, offset, key=lambda chunk: chunk[0]) - 1
        if index < 0 or offset >= self._chunks[index][0] + self._chunks[index][1]:
            return None
        return self._chunks[index]


@dataclass(frozen=True, slots=True)
class Node:
    """A node: keys in ascending order, and for each an item (level 0) or a child."""

    level: int
    keys: list[Key]
    items: list[tuple[int, int]]  # place and size in the content
    children: list[TreeRoot]
    content: bytes


class Trees:
    """The trees of one file system."""

    def __init__(self, volume: Volume, superblock: Superblock) -> None:
        """Reads the chunk tree. Raises `GuestUnreadable`."""
        self.space = LogicalSpace(volume, superblock.device)
        self._node_bytes = superblock.node_bytes
        self._node = lru_cache(CACHED_NODES)(self._read_node)
        self._add_first_chunks(superblock.first_chunks)
        first = (layout.FIRST_CHUNK_OBJECT, layout.CHUNK_ITEM, 0)
        last = (layout.FIRST_CHUNK_OBJECT, layout.CHUNK_ITEM, layout.MAX_NUMBER)
        for key, item in self.items(superblock.chunk_tree, first, last):
            self.space.add(key[2], item)

    def item(self, root: TreeRoot, key: Key) -> bytes | None:
        """The item of a key. Raises `GuestUnreadable`."""
        return next((item for _, item in self.items(root, key, key)), None)

    def items(
        self, root: TreeRoot, first: Key, last: Key, *, or_before: bool = False
    ) -> Iterator[tuple[Key, bytes]]:
        """Keys and items from ``first`` to ``last``. Raises `GuestUnreadable`.

        With ``or_before`` they begin with the last key that is not above ``first``, whatever it is of.
        """
        count = 0
        find = bisect_right if or_before else bisect_left
        for leaf in self._leaves(root, first):
            # In all leaves but the first, all keys are above it.
            start = max(find(leaf.keys, first) - or_before, 0)
            for index in range(start, len(leaf.keys)):
                if leaf.keys[index] > last:
                    return
                count = check_range(count + 1, 1, layout.MAX_ITEMS, "number of items")
                place, size = leaf.items[index]
                yield leaf.keys[index], leaf.content[place : place + size]

    def _leaves(self, root: TreeRoot, first: Key) -> Iterator[Node]:
        """The leaves from that which ``first`` belongs into, each once."""
        node = self._node(root)
        if node.level and not node.keys:
            raise GuestUnreadable("a tree without leaves")
        waiting: list[Iterator[TreeRoot]] = []
        latest: Key | None = None
        while True:
            while node.level:
                start = max(bisect_right(node.keys, first) - 1, 0)
                waiting.append(iter(node.children[start:]))
                node = self._full_node(next(waiting[-1]))
            if latest is not None and node.keys[0] <= latest:
                raise GuestUnreadable("a tree whose leaves do not ascend")
            yield node
            latest = node.keys[-1] if node.keys else None
            child = None
            while waiting and (child := next(waiting[-1], None)) is None:
                waiting.pop()
            if child is None:
                return
            node = self._full_node(child)

    def _full_node(self, root: TreeRoot) -> Node:
        """A node that is not the top one: only that may be empty."""
        node = self._node(root)
        if not node.keys:
            raise GuestUnreadable(f"the node at {root.place} is empty")
        return node

    def _read_node(self, root: TreeRoot) -> Node:
        """The first of its copies that is what it should be."""
        what = f"node at {root.place}"
        for content in self.space.read_copies(root.place, self._node_bytes):
            place, generation, count, level = unpack(layout.NODE, content, 0, what)
            if (place, generation, level) == (root.place, root.generation, root.level):
                return _parsed(content, count, level, what)
        raise GuestUnreadable(f"{what} is of another place, level or generation")

    def _add_first_chunks(self, content: bytes) -> None:
        position = 0
        while position < len(content):
            _, kind, start = unpack(layout.KEY, content, position, "first chunks")
            position += layout.KEY.size
            count = unpack(layout.CHUNK, content, position, "first chunks")[2]
            size = layout.CHUNK.size + count * layout.STRIPE.size
            if kind != layout.CHUNK_ITEM:
                raise GuestUnreadable(f"an item of type {kind} among the first chunks")
            self.space.add(start, cut(content, position, size, "first chunks"))
            position += size


def _parsed(content: bytes, count: int, level: int, what: str) -> Node:
    start = layout.NODE.size
    entry = layout.POINTER if level else layout.ITEM
    check_range(count, 0, (len(content) - start) // entry.size, f"items of {what}")
    fields = list(entry.iter_unpack(content[start : start + count * entry.size]))
    keys = [found[:3] for found in fields]
    if any(key >= following for key, following in pairwise(keys)):
        raise GuestUnreadable(f"{what} has keys that do not ascend")
    if level:
        children = [TreeRoot(place, level - 1, generation) for *_, place, generation in fields]
        return Node(level, keys, [], children, content)
    if any(place + size > len(content) - start for *_, place, size in fields):
        raise GuestUnreadable(f"{what} has items outside")
    return Node(level, keys, [(start + place, size) for *_, place, size in fields], [], content)

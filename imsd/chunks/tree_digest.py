"""The tree digest: the identity of a disk, the same for every format, chunk size and store.

It is the root of a BLAKE3 Merkle tree over the disk's bytes in guest order:

* leaf: 64 KiB of the disk, the last one padded with zeros, hashed in BLAKE3's derive-key mode with the
  context ``imsd tree leaf v1``;
* node: the digests of its two children, one after the other, with the context ``imsd tree node v1``;
* leaves of zeros are added until their number is a power of two (an empty disk has one);
* root: the size in bytes as a little-endian 64-bit number and the digest of the topmost node (or only
  leaf), with the context ``imsd tree root v1``. Written as ``b3t:`` and 64 hex digits.

Subtrees of zeros are constants, so holes cost nothing, and the work can be split anywhere. The size
need not be a multiple of anything.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from blake3 import blake3

from imsd.contract import Buffer

LEAF_BYTES = 64 << 10
DIGEST_BYTES = 32
PREFIX = "b3t:"
# Of the disk of an encrypted image, whose digest has a key; see `cipher`.
KEYED_PREFIX = "b3k:"

_LEAF = "imsd tree leaf v1"
_NODE = "imsd tree node v1"
_ROOT = "imsd tree root v1"

# Positions stay below 2**63, so a tree of 2**47 leaves is the largest.
MAX_POSITION = 2**63 - 1
_MAX_LEVEL = 47

# magic, position in bytes; then the stack, the started leaf, and 16 bytes of BLAKE3 of all that.
_STATE = struct.Struct("<8sQ")
_STATE_MAGIC = b"imsdtre1"
_CHECK_BYTES = 16


def leaf_digest(leaf: Buffer) -> bytes:
    """The digest of a leaf of exactly 64 KiB."""
    return blake3(leaf, derive_key_context=_LEAF).digest()


def leaf_digests(leaves: memoryview) -> list[bytes]:
    """The digests of whole leaves that lie one after the other."""
    return [
        blake3(leaves[start : start + LEAF_BYTES], derive_key_context=_LEAF).digest()
        for start in range(0, len(leaves), LEAF_BYTES)
    ]


class HashedWindow(NamedTuple):
    """The bytes from ``start`` as the tree needs them: whole leaves, and what is before and behind them."""

    start: int
    head: bytes
    leaves: Sequence[bytes]
    tail: bytes


def hash_window(start: int, content: memoryview) -> HashedWindow:
    """The work on ``content`` that can be done before it is its turn."""
    head = min(len(content), -start % LEAF_BYTES)
    tail = head + (len(content) - head) // LEAF_BYTES * LEAF_BYTES
    return HashedWindow(start, bytes(content[:head]), leaf_digests(content[head:tail]), bytes(content[tail:]))


def _node_digest(left: bytes, right: bytes) -> bytes:
    return blake3(left + right, derive_key_context=_NODE).digest()


def _zero_digests() -> list[bytes]:
    digests = [leaf_digest(bytes(LEAF_BYTES))]
    for _ in range(_MAX_LEVEL + 1):
        digests.append(_node_digest(digests[-1], digests[-1]))
    return digests


# The digest of a subtree of zeros, by its level; a leaf has level 0.
ZERO_DIGESTS: Sequence[bytes] = _zero_digests()


def parse_digest(text: str, prefix: str = PREFIX) -> bytes:
    """The 32 bytes of a digest in text form. Raises ValueError."""
    if not text.startswith(prefix) or len(text) != len(prefix) + 2 * DIGEST_BYTES:
        raise ValueError(f"{text[:80]!r} is not a tree digest that begins with {prefix}")
    return bytes.fromhex(text.removeprefix(prefix))


def format_digest(root: bytes, prefix: str = PREFIX) -> str:
    return prefix + root.hex()


class TreeHasher:
    """Hashes a disk whose bytes come in order, as bytes, zero runs or digests of leaves.

    Holds one digest a level and less than a leaf of bytes. ``position``: the bytes taken so far.
    """

    def __init__(self) -> None:
        self._leaves = 0
        self._stack: list[bytes] = []  # one subtree for every bit of _leaves that is set, largest first
        self._started = bytearray()  # of the leaf that is not complete yet

    @property
    def position(self) -> int:
        return self._leaves * LEAF_BYTES + len(self._started)

    def update(self, piece: Buffer) -> None:
        """The next bytes of the disk; they are hashed here (about 5 GB/s, mostly without the GIL)."""
        view = memoryview(piece).cast("B")
        if self._started:
            taken = min(len(view), LEAF_BYTES - len(self._started))
            self._started += view[:taken]
            view = view[taken:]
            if len(self._started) < LEAF_BYTES:
                return
            self._push(leaf_digest(self._started), 0)
            self._started = bytearray()
        whole = len(view) // LEAF_BYTES * LEAF_BYTES
        for digest in leaf_digests(view[:whole]):
            self._push(digest, 0)
        self._started += view[whole:]

    def add_window(self, window: HashedWindow) -> None:
        """The next bytes that are not zero; zeros lie between them and the position."""
        self.zeros(window.start - self.position)
        self.update(window.head)
        if window.leaves:  # else the head may end inside a leaf
            self.add_leaves(window.leaves)
        self.update(window.tail)

    def zeros(self, length: int) -> None:
        """The next ``length`` bytes are zero: O(log length). Raises ValueError beyond `MAX_POSITION`."""
        if length < 0 or self.position + length > MAX_POSITION:
            raise ValueError(f"{length} zero bytes at {self.position} are out of range")
        head = min(length, -self.position % LEAF_BYTES)
        self.update(bytes(head))
        leaves, tail = divmod(length - head, LEAF_BYTES)
        while leaves:
            # The largest subtree that fits at this place and is not too long.
            level = leaves.bit_length() - 1
            if self._leaves:
                level = min(level, (self._leaves & -self._leaves).bit_length() - 1)
            self._push(ZERO_DIGESTS[level], level)
            leaves -= 1 << level
        self.update(bytes(tail))

    def add_leaves(self, digests: Iterable[bytes]) -> None:
        """The next leaves, hashed elsewhere. Raises ValueError if a leaf is only partly there."""
        if self._started:
            raise ValueError(f"position {self.position} is inside a leaf")
        for digest in digests:
            self._push(digest, 0)

    def digest(self) -> str:
        """The tree digest of a disk that ends at ``position``; more may be added afterwards."""
        filled = self.whole_leaves()
        if self._started or not self._leaves:
            filled._push(leaf_digest(bytes(self._started).ljust(LEAF_BYTES, b"\0")), 0)
        root = self.position.to_bytes(8, "little") + filled._top()
        return format_digest(blake3(root, derive_key_context=_ROOT).digest())

    def state(self) -> bytes:
        """Everything needed to go on later; less than 66 KiB."""
        head = _STATE.pack(_STATE_MAGIC, self.position)
        content = b"".join((head, *self._stack, self._started))
        return content + blake3(content).digest(_CHECK_BYTES)

    @classmethod
    def from_state(cls, state: bytes) -> TreeHasher:
        """Raises ValueError if ``state`` is not what `state` returned."""
        content, check = state[:-_CHECK_BYTES], state[-_CHECK_BYTES:]
        if len(content) < _STATE.size or blake3(content).digest(_CHECK_BYTES) != check:
            raise ValueError("the state of a tree hasher is damaged")
        magic, position = _STATE.unpack_from(content)
        leaves, started = divmod(position, LEAF_BYTES)
        stack_end = _STATE.size + leaves.bit_count() * DIGEST_BYTES
        if magic != _STATE_MAGIC or position > MAX_POSITION or len(content) != stack_end + started:
            raise ValueError("the state of a tree hasher is of another kind")
        hasher = cls()
        hasher._leaves = leaves
        hasher._stack = [
            content[start : start + DIGEST_BYTES] for start in range(_STATE.size, stack_end, DIGEST_BYTES)
        ]
        hasher._started = bytearray(content[stack_end:])
        return hasher

    def whole_leaves(self) -> TreeHasher:
        """A hasher that stands where the leaf of the position starts."""
        hasher = TreeHasher()
        hasher._leaves, hasher._stack = self._leaves, list(self._stack)
        return hasher

    @property
    def started_leaf(self) -> bytes:
        """The bytes of the leaf that is not complete yet: less than 64 KiB."""
        return bytes(self._started)

    def _push(self, digest: bytes, level: int) -> None:
        """Add a subtree of 2**level leaves; the leaves before it are a multiple of that."""
        before = self._leaves
        self._leaves += 1 << level
        while before >> level & 1:
            digest = _node_digest(self._stack.pop(), digest)
            level += 1
        self._stack.append(digest)

    def _top(self) -> bytes:
        """The digest of the topmost node, once zero leaves are added up to a power of two."""
        stack = list(self._stack)
        digest, leaves = stack.pop(), self._leaves
        height = (leaves - 1).bit_length()
        for level in range((leaves & -leaves).bit_length() - 1, height):
            if leaves >> level & 1:  # a left child, whose right neighbour is all zeros
                digest = _node_digest(digest, ZERO_DIGESTS[level])
                leaves += 1 << level
            else:
                digest = _node_digest(stack.pop(), digest)
        return digest

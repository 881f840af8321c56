"""Where an ingest stands, in a form that survives the daemon."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blake3 import blake3

from .tree_digest import TreeHasher

# magic, chunk count, data size, new size, length of the undecided bytes; then these, the tree hasher's
# state and 16 bytes of BLAKE3.
_STATE = struct.Struct("<8sQQQQ")
_MAGIC = b"imsding1"
_CHECK_BYTES = 16


@dataclass(frozen=True, slots=True)
class IngestState:
    """All bytes before ``position`` are stored; their entries are with the sink.

    ``tree``: state of a `TreeHasher` at the position. The counters are those of
    `IngestResult`. ``undecided``: the bytes that were taken after the position, at most 516 KiB; whoever
    goes on from here gives them again first.
    """

    position: int
    tree: bytes
    chunk_count: int = 0
    data_size: int = 0
    new_size: int = 0
    undecided: bytes = b""

    @property
    def end(self) -> int:
        """Up to here nothing need be sent again."""
        return self.position + len(self.undecided)

    def to_bytes(self) -> bytes:
        """At most 582 KiB."""
        head = _STATE.pack(_MAGIC, self.chunk_count, self.data_size, self.new_size, len(self.undecided))
        content = head + self.undecided + self.tree
        return content + blake3(content).digest(_CHECK_BYTES)

    @classmethod
    def from_bytes(cls, state: bytes) -> IngestState:
        """Raises ValueError if ``state`` is not what `to_bytes` returned."""
        content, check = state[:-_CHECK_BYTES], state[-_CHECK_BYTES:]
        if len(content) < _STATE.size or blake3(content).digest(_CHECK_BYTES) != check:
            raise ValueError("the state of an ingest is damaged")
        magic, chunk_count, data_size, new_size, undecided_length = _STATE.unpack_from(content)
        tree_start = _STATE.size + undecided_length
        if magic != _MAGIC or tree_start > len(content):
            raise ValueError("the state of an ingest is of another kind")
        tree = content[tree_start:]
        position = TreeHasher.from_state(tree).position
        undecided = content[_STATE.size : tree_start]
        return cls(position, tree, chunk_count, data_size, new_size, undecided)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """A disk that is stored whole. ``digest``: its tree digest.

    ``data_size``: bytes of its chunks; ``new_size``: bytes this ingest and those it goes on from wrote.
    """

    size_bytes: int
    digest: str
    chunk_count: int
    data_size: int
    new_size: int

"""One chunk of a disk, and who takes the chunks of a disk in guest order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from .index import Location


class ChunkEntry(NamedTuple):
    """``length`` bytes of a disk from ``start``.

    ``digest``: 32 bytes, BLAKE3 of the plain bytes; of an encrypted disk, `ChunkCipher.chunk_digest`.
    """

    start: int
    length: int
    digest: bytes
    location: Location

    @property
    def end(self) -> int:
        return self.start + self.length


class EntrySink(ABC):
    """Takes the entries of one disk."""

    @abstractmethod
    async def add(self, entries: Sequence[ChunkEntry]) -> None:
        """The next entries, in guest order and without overlap with earlier ones.

        Their packs may not be committed yet. Raises what the sink's store raises.
        """

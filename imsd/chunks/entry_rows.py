"""The chunks of a disk as rows of `layout`: how they are recorded, many at once."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cipher import SEAL_BYTES
from .entry import ChunkEntry
from .index import SEALED, Codec, Location
from .layout import (
    CONTENT_ENTRY,
    LOCATION_ENTRY,
    MAX_CHUNK_BYTES,
    MAX_PACK_BYTES,
    MAX_RECORD_BYTES,
)

Rows = NDArray[Any]

# One row of each, for an entry at a time.
_CONTENT = struct.Struct("<QII32s")
_LOCATION = struct.Struct("<IIII16sII")
assert (_CONTENT.size, _LOCATION.size) == (CONTENT_ENTRY.itemsize, LOCATION_ENTRY.itemsize)


class EntryRows(NamedTuple):
    """Entries in guest order: rows of `CONTENT_ENTRY` and of `LOCATION_ENTRY`, as many of each.

    ``pack_ids``: what the numbers of packs in the locations stand for.
    """

    content: Rows
    locations: Rows
    pack_ids: Sequence[str]

    @classmethod
    def of(cls, entries: Sequence[ChunkEntry]) -> EntryRows:
        packs = PackTable()
        content = b"".join(_CONTENT.pack(e.start, e.length, 0, e.digest) for e in entries)
        locations = b"".join(_location_row(entry.location, packs) for entry in entries)
        return cls(np.frombuffer(content, CONTENT_ENTRY), np.frombuffer(locations, LOCATION_ENTRY), packs.ids)

    @property
    def ends(self) -> NDArray[np.uint64]:
        """Where each chunk ends on the disk."""
        ends: NDArray[np.uint64] = self.content["start"] + self.content["length"]
        return ends

    def digest_heads(self) -> NDArray[np.uint64]:
        """The first 64 bits of each digest."""
        digests = np.ascontiguousarray(self.content["digest"]).view(">u8").reshape(-1, 4)
        return digests[:, 0].astype(np.uint64)


class PackTable:
    """Numbers packs in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, pack_id: str) -> int:
        return self._numbers.setdefault(pack_id, len(self._numbers))

    def renumbered(self, rows: EntryRows) -> Rows:
        """The locations of ``rows`` with numbers of this table."""
        numbers = np.array([self.number(pack_id) for pack_id in rows.pack_ids], "<u4")
        locations = rows.locations.copy()
        if len(locations):
            locations["pack"] = numbers[locations["pack"]]
        return locations

    @property
    def ids(self) -> list[str]:
        return list(self._numbers)

    def to_bytes(self) -> bytes:
        return b"".join(map(bytes.fromhex, self._numbers))


def can_be(lengths: NDArray[np.uint32], locations: Rows, pack_count: int, *, is_sealed: bool = False) -> bool:
    """Whether chunks of these lengths can lie like this; for what was read back."""
    seal = np.uint32(SEALED if is_sealed else 0)
    codecs = locations["codec"] ^ seal  # of what is sealed, if they are; else there is no such codec
    # Shorter than a seal: wraps around, to more than any chunk has.
    stored = locations["stored_length"] - np.uint32(SEAL_BYTES if is_sealed else 0)
    first_length, first_stored = locations["first_length"], locations["first_stored"]
    is_frame, is_record = codecs == Codec.ZSTD, codecs == Codec.RECORD
    are_two = (first_length > 0) & (first_stored > 0) & (first_length < lengths) & (first_stored < stored)
    return bool(
        (locations["pack"] < pack_count).all()
        and (lengths <= np.where(is_frame, MAX_CHUNK_BYTES, MAX_RECORD_BYTES)).all()
        and ((stored > 0) & (stored <= lengths)).all()
        and (locations["offset"].astype(np.uint64) + locations["stored_length"] <= MAX_PACK_BYTES).all()
        and (is_frame | is_record | (codecs == Codec.RAW) & (stored == lengths)).all()
        and ((first_length == 0) & (first_stored == 0) | is_frame & are_two).all()
    )


def _location_row(place: Location, packs: PackTable) -> bytes:
    return _LOCATION.pack(
        packs.number(place.pack_id),
        place.offset,
        place.stored_length,
        place.codec,
        place.check,
        place.first_length,
        place.first_stored,
    )

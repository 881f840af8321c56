"""Reads manifests: which chunks make up a stored disk, and where they lie.

`layout` describes the bytes. Opening reads footers and tables; pages are fetched when a look-up needs
them (`NeedBytes`), checked against their digest, and the last few stay decoded. Every number is
checked before it is used: whatever a blob holds instead of a manifest is DataLoss that names it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from imsd.contract import BlobId, BlobStore, ByteRange, DataLoss, NotFound

from .cipher import MAC_BYTES, SEAL_BYTES, ChunkCipher
from .decode_pool import DecodePool
from .entry_rows import Rows, can_be
from .index import SEALED, content_blob, locations_blob
from .layout import (
    CONTENT_ENTRY,
    CONTENT_MAGIC,
    FOOTER,
    LOCATION_ENTRY,
    LOCATIONS_MAGIC,
    MANIFEST_LABEL,
    MAX_RECORD_BYTES,
    PAGE_ENTRIES,
    PAGE_RECORD,
    SEALED_CONTENT_MAGIC,
)
from .store_read import LOST_HINT, BlobSource, read_blob
from .tree_digest import MAX_POSITION

# A decoded page takes 352 KiB and describes half a GiB of data on average.
PAGES_KEPT = 8

PACK_ID_BYTES = 16

NO_PAGES: Rows = np.empty(0, PAGE_RECORD)


class StoredChunk(NamedTuple):
    """A chunk of a disk: ``length`` bytes from ``start``, and where it lies, as in `Location`.

    ``pack`` is an index into `ManifestReader.pack_ids`.
    """

    start: int
    length: int
    digest: bytes
    pack: int
    offset: int
    stored_length: int
    codec: int
    check: bytes
    first_length: int
    first_stored: int

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def form(self) -> int:
        """The codec of what is stored, apart from its seal."""
        return self.codec & ~SEALED

    @property
    def form_length(self) -> int:
        """How many bytes that has."""
        return self.stored_length - (SEAL_BYTES if self.codec & SEALED else 0)


class Footer(NamedTuple):
    """The fields of `FOOTER`; ``tables_at`` is where the pack table, then the page table begin."""

    magic: bytes
    entries: int
    pages: int
    packs: int
    tables_at: int
    size_bytes: int
    tree_digest: bytes
    tables_digest: bytes

    @property
    def tables_bytes(self) -> int:
        return self.packs * PACK_ID_BYTES + self.pages * PAGE_RECORD.itemsize

    @property
    def proof_bytes(self) -> int:
        return MAC_BYTES if self.magic == SEALED_CONTENT_MAGIC else 0


class ManifestPage:
    """Up to `PAGE_ENTRIES` chunks in guest order."""

    def __init__(self, content: Rows, locations: Rows) -> None:
        self._content = content
        self._locations = locations
        self._starts = content["start"]
        self._ends = self._starts + content["length"]

    def chunks(self, start: int, end: int) -> list[StoredChunk]:
        """Those that touch ``start`` to ``end``."""
        first = int(np.searchsorted(self._ends, np.uint64(start), "right"))
        last = int(np.searchsorted(self._starts, np.uint64(end), "left"))
        content = self._content[first:last]
        columns = (
            content["start"].tolist(),
            content["length"].tolist(),
            content["digest"].tolist(),
            *(self._locations[name][first:last].tolist() for name in LOCATION_ENTRY.names or ()),
        )
        return [StoredChunk(*row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """One blob of a manifest, its tables checked. ``pages`` holds `PAGE_RECORD`s.

    ``proved`` and ``proof``: the bytes of the footer, and what is to show that its writer had the image's
    key; that is empty unless this is the content of an encrypted image.
    """

    blob: BlobId
    source: BlobSource
    entry: np.dtype[Any]
    entries: int
    size_bytes: int  # of the disk
    tree_digest: bytes
    pages: Rows
    pack_ids: Sequence[str]
    proved: bytes = b""
    proof: bytes = b""

    def belongs_to(self, other: ManifestPart) -> bool:
        """Whether both are parts of one manifest."""
        mine, others = ((part.entries, part.size_bytes, part.tree_digest) for part in (self, other))
        return mine == others

    def page_range(self, number: int) -> ByteRange:
        stride = PAGE_ENTRIES * self.entry.itemsize
        return ByteRange(number * stride, int(self.pages["entries"][number]) * self.entry.itemsize)

    def rows(self, number: int) -> Rows:
        """The entries of a page, its digest checked. Raises `NeedBytes`, DataLoss."""
        place = self.page_range(number)
        raw = self.source.read(place.offset, place.length)
        if blake3(raw).digest() != self.pages["digest"][number].tobytes():
            raise _damaged(self.blob, f"page {number} does not have its digest")
        return np.frombuffer(raw, self.entry)


class ManifestReader:
    """A manifest whose tables are in memory. Thread-safe; look-ups run in the decode pool.

    ``pack_ids``: every pack the manifest lists. ``tree_digest``: 32 bytes, keyed if the disk
    ``is_encrypted``. To look where chunks lie needs no key, but what they hold is to be believed: `require`.
    """

    def __init__(self, content: ManifestPart, locations: ManifestPart) -> None:
        self.content = content
        self.locations = locations
        self.size_bytes = content.size_bytes
        self.tree_digest = content.tree_digest
        self.pack_ids = locations.pack_ids
        self.is_encrypted = bool(content.proof)
        self.page_count = len(content.pages)
        self.chunk_count = content.entries
        self._first_starts: NDArray[np.uint64] = content.pages["first_start"]
        self._lock = threading.Lock()
        self._decoded: OrderedDict[int, ManifestPage] = OrderedDict()

    @property
    def manifest_id(self) -> str:
        return self.content.blob.split("/")[1]

    def chunks(self, start: int, length: int) -> list[StoredChunk]:
        """The chunks that touch the range, in order; what lies between them is zero.

        Holds about 420 bytes a chunk while it works: ask for some GiB of disk at most.
        Raises `NeedBytes`, DataLoss.
        """
        end = start + length
        numbers = self._pages_of(start, end)
        with self._lock:
            lacking = [number for number in numbers if number not in self._decoded]
        for part in (self.content, self.locations):
            part.source.require([part.page_range(number) for number in lacking])
        return [chunk for number in numbers for chunk in self._page(number).chunks(start, end)]

    def require(self, cipher: ChunkCipher | None) -> None:
        """See that it is the manifest of this cipher's image, or of one without a cipher. Raises DataLoss."""
        blob = self.content.blob
        if cipher is None and self.is_encrypted:
            raise _damaged(blob, "it is that of an encrypted image, and this image is not encrypted")
        if cipher and not self.is_encrypted:
            raise _damaged(blob, "it is that of an image without encryption, and this image is encrypted")
        if cipher and not cipher.proves(MANIFEST_LABEL, self.content.proved, self.content.proof):
            raise DataLoss(
                f"blob {blob} was not written with the data key of {cipher.binding}, or altered since",
                reason="KEY_MISMATCH",
                hint=LOST_HINT,
            )

    def guest_range(self, number: int) -> ByteRange:
        """The part of the disk that a page describes: from its first chunk to the next page's."""
        start = int(self._first_starts[number])
        last = number + 1 == self.page_count
        end = self.size_bytes if last else int(self._first_starts[number + 1])
        return ByteRange(start, end - start)

    def _pages_of(self, start: int, end: int) -> range:
        first = int(np.searchsorted(self._first_starts, np.uint64(start), "right")) - 1
        last = int(np.searchsorted(self._first_starts, np.uint64(end), "left"))
        return range(max(0, first), last)

    def _page(self, number: int) -> ManifestPage:
        with self._lock:
            if page := self._decoded.get(number):
                self._decoded.move_to_end(number)
                return page
        content, locations = self.content.rows(number), self.locations.rows(number)
        self._check_content(number, content)
        self._check_locations(number, content, locations)
        page = ManifestPage(content, locations)
        with self._lock:
            self._decoded[number] = page
            while len(self._decoded) > PAGES_KEPT:
                self._decoded.popitem(last=False)
        return page

    def _check_content(self, number: int, rows: Rows) -> None:
        place = self.guest_range(number)
        starts, lengths = rows["start"], rows["length"]
        ends = starts + lengths
        if not (
            starts[0] == place.offset
            and ends[-1] <= place.end
            and (starts < np.uint64(place.end)).all()
            and ((lengths > 0) & (lengths <= MAX_RECORD_BYTES)).all()
            and (starts[1:] >= ends[:-1]).all()
        ):
            raise _damaged(self.content.blob, f"page {number} lists chunks that overlap or lie outside")

    def _check_locations(self, number: int, content: Rows, rows: Rows) -> None:
        if not can_be(content["length"], rows, len(self.pack_ids), is_sealed=self.is_encrypted):
            raise _damaged(self.locations.blob, f"page {number} lists places that cannot be")


async def open_manifest(
    store: BlobStore, manifest_id: str, pool: DecodePool, generation: int = 0
) -> ManifestReader:
    """Read footers and tables of both parts.

    Raises DataLoss when a blob is missing, cut short or altered, or when the two do not belong together;
    Unavailable.
    """
    content = await open_content(store, manifest_id, pool)
    locations = await open_locations(store, manifest_id, pool, generation)
    if not content.belongs_to(locations):
        raise _damaged(locations.blob, f"it does not belong to {content.blob}, or one of them was altered")
    starts = content.pages["first_start"]
    if len(starts) and not ((starts[1:] > starts[:-1]).all() and starts[-1] < content.size_bytes):
        raise _damaged(content.blob, "its pages are not in guest order")
    return ManifestReader(content, locations)


async def open_content(store: BlobStore, manifest_id: str, pool: DecodePool) -> ManifestPart:
    """The content alone. Raises as `open_manifest`."""
    magics = (CONTENT_MAGIC, SEALED_CONTENT_MAGIC)
    return await _open_part(store, content_blob(manifest_id), magics, CONTENT_ENTRY, pool)


async def open_locations(
    store: BlobStore, manifest_id: str, pool: DecodePool, generation: int = 0
) -> ManifestPart:
    """The locations alone: where the chunks lie, whatever is in them. Raises as `open_manifest`."""
    blob = locations_blob(manifest_id, generation)
    return await _open_part(store, blob, (LOCATIONS_MAGIC,), LOCATION_ENTRY, pool)


async def _open_part(
    store: BlobStore, blob: BlobId, magics: Sequence[bytes], entry: np.dtype[Any], pool: DecodePool
) -> ManifestPart:
    try:
        blob_bytes = (await store.stat(blob)).size_bytes
    except NotFound:
        raise DataLoss(f"blob {blob} is missing", hint=LOST_HINT) from None
    if blob_bytes < FOOTER.size:
        raise _damaged(blob, f"it has {blob_bytes} bytes, fewer than its footer")
    footer_at = blob_bytes - FOOTER.size
    (raw,) = await read_blob(store, blob, [ByteRange(footer_at, FOOTER.size)])
    footer = Footer(*FOOTER.unpack(raw))
    if footer.magic not in magics:
        raise _damaged(blob, "it does not end as a manifest does")
    if not (
        footer.pages == -(-footer.entries // PAGE_ENTRIES)
        and footer.tables_at == footer.entries * entry.itemsize
        and footer.tables_at + footer.tables_bytes + footer.proof_bytes == footer_at
        and footer.size_bytes <= MAX_POSITION
    ):
        raise _damaged(blob, "its footer contradicts its length")
    tables = b""
    if footer.tables_at < footer_at:
        (tables,) = await read_blob(store, blob, [ByteRange(footer.tables_at, footer_at - footer.tables_at)])
    tables, proof = tables[: footer.tables_bytes], tables[footer.tables_bytes :]
    page_table, pack_ids = await pool.run(_check_tables, blob, footer, tables)
    source = BlobSource(store, blob, blob_bytes)
    return ManifestPart(
        blob,
        source,
        entry,
        footer.entries,
        footer.size_bytes,
        footer.tree_digest,
        page_table,
        pack_ids,
        raw,
        proof,
    )


def _check_tables(blob: BlobId, footer: Footer, tables: bytes) -> tuple[Rows, Sequence[str]]:
    """The page table and the pack table. Raises DataLoss."""
    if blake3(tables).digest() != footer.tables_digest:
        raise _damaged(blob, "its tables do not have their digest")
    packs_bytes = footer.packs * PACK_ID_BYTES
    page_table = np.frombuffer(tables, PAGE_RECORD, offset=packs_bytes) if footer.pages else NO_PAGES
    counts = page_table["entries"]
    if footer.pages and not ((counts[:-1] == PAGE_ENTRIES).all() and counts.sum() == footer.entries):
        raise _damaged(blob, "its page table does not add up")
    return page_table, [tables[at : at + PACK_ID_BYTES].hex() for at in range(0, packs_bytes, PACK_ID_BYTES)]


def _damaged(blob: BlobId, why: str) -> DataLoss:
    return DataLoss(f"blob {blob} is damaged: {why}", hint=LOST_HINT)

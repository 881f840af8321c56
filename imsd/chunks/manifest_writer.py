"""Writes a manifest, whose bytes `layout` describes, while the disk flows into the store."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from blake3 import blake3

from imsd.contract import BlobId, BlobStore, Ingest

from .entry import ChunkEntry, EntrySink
from .index import Location, content_blob, locations_blob
from .layout import (
    CONTENT_ENTRY,
    CONTENT_MAGIC,
    FOOTER,
    LOCATION_ENTRY,
    LOCATIONS_MAGIC,
    PAGE_ENTRIES,
    PAGE_RECORD,
)
from .pack_writer import IngestTarget, commit_blob, new_random_id, settle_exit
from .stored_size import StoredSize
from .tree_digest import parse_digest


@dataclass(frozen=True, slots=True)
class WrittenManifest:
    """A durable manifest that is not published yet, and the ``packs`` it needs.

    Sizes in bytes: ``data_size`` of all chunks, ``stored_size`` of the distinct ones as they are stored
    (about, see `StoredSize`).
    """

    manifest_id: str
    packs: Sequence[str]
    chunk_count: int
    data_size: int
    stored_size: int


class PackTable:
    """Numbers packs in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, pack_id: str) -> int:
        return self._numbers.setdefault(pack_id, len(self._numbers))

    @property
    def ids(self) -> list[str]:
        return list(self._numbers)

    def to_bytes(self) -> bytes:
        return b"".join(map(bytes.fromhex, self._numbers))


# `CONTENT_ENTRY` and `LOCATION_ENTRY`, for one entry at a time.
_CONTENT = struct.Struct("<QII32s")
_LOCATION = struct.Struct("<IIII16sII")
assert (_CONTENT.size, _LOCATION.size) == (CONTENT_ENTRY.itemsize, LOCATION_ENTRY.itemsize)


def content_row(entry: ChunkEntry) -> bytes:
    return _CONTENT.pack(entry.start, entry.length, 0, entry.digest)


def location_row(place: Location, packs: PackTable) -> bytes:
    return _LOCATION.pack(
        packs.number(place.pack_id),
        place.offset,
        place.stored_length,
        place.codec,
        place.check,
        place.first_length,
        place.first_stored,
    )


class _PartWriter:
    """One of a manifest's two blobs."""

    def __init__(self, store: BlobStore, blob: BlobId, magic: bytes) -> None:
        self._store = store
        self._blob = blob
        self._magic = magic
        self._ingest: Ingest
        self._size_bytes = 0
        self._page_table: list[tuple[int, int, bytes]] = []

    async def open(self, undo: AsyncExitStack) -> None:
        self._ingest = await undo.enter_async_context(self._store.begin(self._blob))

    async def write_page(self, first_start: int, rows: Sequence[bytes]) -> None:
        page = b"".join(rows)
        await self._ingest.write([page])
        self._size_bytes += len(page)
        self._page_table.append((first_start, len(rows), blake3(page).digest()))

    async def commit(self, size_bytes: int, tree_digest: bytes, packs: bytes, pack_count: int) -> None:
        tables = packs + np.array(self._page_table, PAGE_RECORD).tobytes()
        footer = FOOTER.pack(
            self._magic,
            sum(entries for _, entries, _ in self._page_table),
            len(self._page_table),
            pack_count,
            self._size_bytes,
            size_bytes,
            tree_digest,
            blake3(tables).digest(),
        )
        await self._ingest.write([tables, footer])
        self._size_bytes += len(tables) + len(footer)
        await commit_blob(self._store, self._blob, self._ingest, self._size_bytes)


class ManifestWriter(EntrySink):
    """``async with``; leaving without `commit` discards the blobs (the row goes with its holder)."""

    def __init__(self, target: IngestTarget, manifest_id: str | None = None) -> None:
        self._target = target
        self.manifest_id = manifest_id or new_random_id()
        self._content = _PartWriter(target.store, content_blob(self.manifest_id), CONTENT_MAGIC)
        self._locations = _PartWriter(target.store, locations_blob(self.manifest_id), LOCATIONS_MAGIC)
        self._undo = AsyncExitStack()
        self._packs = PackTable()
        self._stored_size = StoredSize()
        self._page: list[ChunkEntry] = []
        self._content_rows: list[bytes] = []
        self._location_rows: list[bytes] = []
        self._chunk_count = 0
        self._data_size = 0

    async def __aenter__(self) -> Self:
        """Raises what the index and the store raise."""
        target = self._target
        await target.index.begin_manifest(target.holder, self.manifest_id, target.store_name)
        async with AsyncExitStack() as undo:
            await self._content.open(undo)
            await self._locations.open(undo)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await settle_exit(self._undo)

    async def add(self, entries: Sequence[ChunkEntry]) -> None:
        for entry in entries:
            # One by one: a page at once would hold up the event loop for milliseconds.
            self._page.append(entry)
            self._content_rows.append(content_row(entry))
            self._location_rows.append(location_row(entry.location, self._packs))
            if len(self._page) == PAGE_ENTRIES:
                await self._write_page()

    async def commit(self, size_bytes: int, digest: str) -> WrittenManifest:
        """Make both blobs durable. ``size_bytes`` and ``digest`` are those of the disk.

        The manifest's row stays `writing` until the image is published.
        """
        if self._page:
            await self._write_page()
        root = parse_digest(digest)
        await self._content.commit(size_bytes, root, b"", 0)
        packs = self._packs
        await self._locations.commit(size_bytes, root, packs.to_bytes(), len(packs.ids))
        return WrittenManifest(
            self.manifest_id, packs.ids, self._chunk_count, self._data_size, self._stored_size.size_bytes
        )

    async def _write_page(self) -> None:
        page, self._page = self._page, []
        content, self._content_rows = self._content_rows, []
        locations, self._location_rows = self._location_rows, []
        await self._content.write_page(page[0].start, content)
        await self._locations.write_page(0, locations)
        self._stored_size.add(page)
        self._chunk_count += len(page)
        self._data_size += sum(entry.length for entry in page)

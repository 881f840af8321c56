"""Writes a manifest, whose bytes `layout` describes, while the disk flows into the store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from blake3 import blake3

from imsd.contract import BlobId, BlobStore, DataLoss, Ingest

from .cipher import ChunkCipher
from .entry import ChunkEntry, EntrySink
from .entry_rows import EntryRows, PackTable, Rows
from .index import content_blob, locations_blob
from .layout import (
    CONTENT_MAGIC,
    FOOTER,
    LOCATIONS_MAGIC,
    MANIFEST_LABEL,
    PAGE_ENTRIES,
    PAGE_RECORD,
    SEALED_CONTENT_MAGIC,
)
from .pack_writer import IngestTarget, commit_blob, new_random_id, settle_exit
from .stored_size import StoredSize
from .tree_digest import KEYED_PREFIX, PREFIX, parse_digest


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


class PartWriter:
    """One of a manifest's two blobs, with a proof if there is a ``cipher``."""

    def __init__(
        self, store: BlobStore, blob: BlobId, magic: bytes, cipher: ChunkCipher | None = None
    ) -> None:
        self._store = store
        self._blob = blob
        self._magic = magic
        self._cipher = cipher
        self._ingest: Ingest
        self._size_bytes = 0
        self._page_table: list[tuple[int, int, bytes]] = []

    async def open(self, undo: AsyncExitStack) -> None:
        self._ingest = await undo.enter_async_context(self._store.begin(self._blob))

    async def write_page(self, first_start: int, rows: Rows) -> None:
        page = rows.tobytes()
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
        proof = self._cipher.mac(MANIFEST_LABEL, footer) if self._cipher else b""
        end = tables + proof + footer
        await self._ingest.write([end])
        self._size_bytes += len(end)
        await commit_blob(self._store, self._blob, self._ingest, self._size_bytes)


class ManifestWriter(EntrySink):
    """``async with``; leaving without `commit` discards the blobs (the row goes with its holder)."""

    def __init__(self, target: IngestTarget, manifest_id: str | None = None) -> None:
        target.require_cipher()
        self._target = target
        self.manifest_id = manifest_id or new_random_id()
        magic = SEALED_CONTENT_MAGIC if target.cipher else CONTENT_MAGIC
        blob = content_blob(self.manifest_id)
        self._content = PartWriter(target.store, blob, magic, target.cipher)
        self._locations = PartWriter(target.store, locations_blob(self.manifest_id), LOCATIONS_MAGIC)
        self._undo = AsyncExitStack()
        self._packs = PackTable()
        self._stored_size = StoredSize()
        self._content_rows: list[Rows] = []  # of the page that is not complete yet
        self._location_rows: list[Rows] = []
        self._row_count = 0
        self._end = 0  # of the last chunk
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
        await self.add_rows(EntryRows.of(entries))

    async def add_rows(self, rows: EntryRows) -> None:
        """As `add`, for many entries. Raises DataLoss if they do not follow those before them."""
        if not len(rows.content):
            return
        start = int(rows.content["start"][0])
        if start < self._end:
            raise DataLoss(
                f"the recorded chunk at {start} begins before the one before it ends, at {self._end}",
                hint="abort the upload and send it again",
            )
        self._end = int(rows.ends[-1])
        self._content_rows.append(rows.content)
        self._location_rows.append(self._packs.renumbered(rows))
        self._row_count += len(rows.content)
        self._stored_size.add(rows)
        self._data_size += int(rows.content["length"].sum(dtype=np.uint64))
        self._chunk_count += len(rows.content)
        while self._row_count >= PAGE_ENTRIES:
            await self._write_page()

    async def commit(self, size_bytes: int, digest: str) -> WrittenManifest:
        """Make both blobs durable. ``size_bytes`` and ``digest`` are those of the disk.

        The manifest's row stays `writing` until the image is published. Raises ValueError if the digest is
        keyed and the disk is not encrypted, or the other way.
        """
        root = parse_digest(digest, KEYED_PREFIX if self._target.cipher else PREFIX)
        if self._row_count:
            await self._write_page()
        await self._content.commit(size_bytes, root, b"", 0)
        packs = self._packs
        await self._locations.commit(size_bytes, root, packs.to_bytes(), len(packs.ids))
        return WrittenManifest(
            self.manifest_id, packs.ids, self._chunk_count, self._data_size, self._stored_size.size_bytes
        )

    async def _write_page(self) -> None:
        content, more_content = _cut(self._content_rows)
        locations, more_locations = _cut(self._location_rows)
        self._content_rows, self._location_rows = [more_content], [more_locations]
        self._row_count = len(more_content)
        await self._content.write_page(int(content["start"][0]), content)
        await self._locations.write_page(0, locations)


def _cut(rows: Sequence[Rows]) -> tuple[Rows, Rows]:
    """The rows of the next page, and those after it."""
    together = np.concatenate(rows)
    return together[:PAGE_ENTRIES], together[PAGE_ENTRIES:]

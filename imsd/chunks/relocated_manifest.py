"""The manifest of a disk whose chunks were moved: its content copied byte for byte, its locations new.

What a manifest says of a disk stays as its writer left it, so whatever vouches for that (digests of pages, a
MAC of an encrypted disk) still does.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from imsd.contract import BlobStore, ByteRange, Ingest

from .decode_pool import DecodePool
from .entry_rows import EntryRows, PackTable, Rows
from .index import content_blob, locations_blob
from .layout import LOCATIONS_MAGIC
from .manifest_reader import ManifestReader, open_manifest
from .manifest_writer import PartWriter, WrittenManifest
from .pack_writer import IngestTarget, commit_blob, settle_exit
from .store_read import read_blob
from .stored_size import StoredSize

# The tables at the end of a part: 48 bytes a page of some hundred MiB of disk.
TAIL_PIECE_BYTES = 1 << 20


class RelocatedManifest:
    """``async with``; leaving without `commit` discards the blobs (the row goes with its holder).

    ``source``: the store in which ``manifest`` lies.
    """

    def __init__(
        self, source: BlobStore, manifest: ManifestReader, target: IngestTarget, manifest_id: str
    ) -> None:
        self.manifest_id = manifest_id
        self._source = source
        self._manifest = manifest
        self._target = target
        self._blob = content_blob(self.manifest_id)
        self._content: Ingest
        self._locations = PartWriter(target.store, locations_blob(self.manifest_id), LOCATIONS_MAGIC)
        self._undo = AsyncExitStack()
        self._packs = PackTable()
        self._stored_size = StoredSize()
        self._data_size = 0

    async def __aenter__(self) -> Self:
        """Raises what the index and the store raise."""
        target = self._target
        await target.index.begin_manifest(target.holder, self.manifest_id, target.store_name)
        async with AsyncExitStack() as undo:
            self._content = await undo.enter_async_context(target.store.begin(self._blob))
            await self._locations.open(undo)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await settle_exit(self._undo)

    async def add_page(self, content: Rows, moved: EntryRows) -> None:
        """The next page: its ``content`` as it was read, and where the same chunks lie now."""
        await self._content.write([content.tobytes()])
        await self._locations.write_page(0, self._packs.renumbered(moved))
        self._stored_size.add(moved)
        self._data_size += int(moved.content["length"].sum(dtype="u8"))

    async def commit(self, pool: DecodePool) -> WrittenManifest:
        """Make both blobs durable, and read back what their tables say. The row stays `writing`.

        Raises DataLoss when that is not the same disk.
        """
        manifest, packs = self._manifest, self._packs
        await self._copy_tables()
        await commit_blob(self._target.store, self._blob, self._content, manifest.content.source.size_bytes)
        await self._locations.commit(
            manifest.size_bytes, manifest.tree_digest, packs.to_bytes(), len(packs.ids)
        )
        await open_manifest(self._target.store, self.manifest_id, pool)
        return WrittenManifest(
            self.manifest_id,
            packs.ids,
            manifest.chunk_count,
            self._data_size,
            self._stored_size.size_bytes,
        )

    async def _copy_tables(self) -> None:
        """What follows the pages."""
        part = self._manifest.content
        position, end = part.entries * part.entry.itemsize, part.source.size_bytes
        while position < end:
            length = min(TAIL_PIECE_BYTES, end - position)
            pieces = await read_blob(self._source, part.blob, [ByteRange(position, length)])
            await self._content.write(pieces)
            position += length

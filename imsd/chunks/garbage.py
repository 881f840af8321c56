"""Frees what nothing holds: the two-way sweep of a store.

*Rows without a holder.* The index condemns them in a transaction that sees that nobody holds them; from
then on no look-up finds them. Then their bytes are deleted, and only then their rows forgotten. After a
crash at any point the next sweep is told of the condemned rows again and goes on: deleting a missing
blob is no error.

*Blobs without a row.* They are left by a writer that had lost its hold and did not know it yet. A blob is
listed first and its row looked for afterwards. As a row precedes the first byte of its blob, a listed blob
had its row before it was listed; that the row is gone now means that a sweep forgot it, so nothing
refers to the blob, and nothing ever will: ids are random and never used again. The other order, rows
before blobs, would take a blob that was begun in between for an orphan.

A blob that cannot be deleted stops nothing else: it is counted and stays for the next sweep.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from imsd.contract import BlobId, BlobStore, ImsError, NotFound

from .index import ChunkIndex, Doomed, pack_blob
from .staged_source import STAGING_PREFIX

PACKS_PREFIX = "packs/"
MANIFESTS_PREFIX = "manifests/"

# Ids of packs and manifests; whatever else lies beside their blobs is somebody else's.
RANDOM_ID = re.compile("[0-9a-f]{32}")

# Blobs a look-up asks about, and rows a batch condemns.
BATCH = 500

KnownUploads = Callable[[list[str]], Awaitable[set[str]]]
KnownIds = Callable[[list[str]], Awaitable[set[str]]]


@dataclass(slots=True)
class SweepReport:
    """What a sweep removed. ``bytes_freed`` counts blobs of packs, manifests and orphans.

    ``failures``: blobs that could not be deleted, with the reason in words; the next sweep tries again.
    """

    manifests_removed: int = 0
    packs_removed: int = 0
    orphans_removed: int = 0
    bytes_freed: int = 0
    failure_count: int = 0
    first_failure: str = ""


async def sweep(
    store: BlobStore,
    store_name: str,
    index: ChunkIndex,
    *,
    find_orphans: bool = True,
    known_uploads: KnownUploads | None = None,
) -> SweepReport:
    """Free everything in ``store``, called ``store_name`` in ``index``, that nothing holds.

    ``find_orphans`` walks all blobs, too, as `sweep_orphans` does. At most one sweep of a store runs at a
    time; whatever else runs at the same time, `sweep_orphans` included, loses nothing it holds.

    Raises what the index raises, and Unavailable when the store cannot be listed; what was removed until
    then stays removed.
    """
    run = Sweep(store)
    await run.free_condemned(store_name, index)
    if find_orphans:
        await _walk(run, index, known_uploads)
    return run.report


async def sweep_orphans(
    store: BlobStore, index: ChunkIndex, *, known_uploads: KnownUploads | None = None
) -> SweepReport:
    """Walk all blobs of ``store`` and delete those without a row; this takes long in a large store.

    ``known_uploads`` says which of the given uploads have a row; without it staged parts are left alone.
    At most one walk of a store runs at a time. A `sweep` may run beside it: it forgets a row only when the
    bytes are gone, so at worst the walk deletes a blob that has just been deleted, which is no error.
    Raises as `sweep` does.
    """
    run = Sweep(store)
    await _walk(run, index, known_uploads)
    return run.report


async def _walk(run: Sweep, index: ChunkIndex, known_uploads: KnownUploads | None) -> None:
    await run.free_orphans(PACKS_PREFIX, _pack_of, _known_packs(index))
    await run.free_orphans(MANIFESTS_PREFIX, _manifest_of, _known_manifests(index))
    if known_uploads is not None:
        await run.free_orphans(STAGING_PREFIX, _folder_of, known_uploads)


class Sweep:
    """One sweep of one store."""

    def __init__(self, store: BlobStore) -> None:
        self.report = SweepReport()
        self._store = store

    async def free_condemned(self, store_name: str, index: ChunkIndex) -> None:
        """Batch after batch, until nothing is condemned but what could not be deleted."""
        tried: set[str] = set()
        while True:
            manifests, packs = await index.condemn(store_name, BATCH)
            fresh_manifests = [doomed for doomed in manifests if doomed.id not in tried]
            fresh_packs = [doomed for doomed in packs if doomed.id not in tried]
            if not fresh_manifests and not fresh_packs:
                return
            tried.update(doomed.id for doomed in (*fresh_manifests, *fresh_packs))
            gone_manifests = await self._delete_each(fresh_manifests, self._delete_manifest)
            gone_packs = await self._delete_each(fresh_packs, self._delete_pack)
            await index.forget(gone_manifests, gone_packs)
            self.report.manifests_removed += len(gone_manifests)
            self.report.packs_removed += len(gone_packs)

    async def free_orphans(
        self, prefix: str, owner_of: Callable[[BlobId], str | None], known: KnownIds
    ) -> None:
        """Delete the blobs under ``prefix`` whose owner has no row; blobs of no known form are left alone."""
        async for blobs in self._listed(prefix):
            owned = {blob: owner for blob in blobs if (owner := owner_of(blob)) is not None}
            if not owned:
                continue
            with_row = await known(sorted(set(owned.values())))
            for blob, owner in owned.items():
                if owner not in with_row and await self._delete(blob):
                    self.report.orphans_removed += 1

    async def _delete_each(
        self, doomed: Iterable[Doomed], delete: Callable[[str], Awaitable[bool]]
    ) -> list[str]:
        return [each.id for each in doomed if await delete(each.id)]

    async def _delete_pack(self, pack_id: str) -> bool:
        return await self._delete(pack_blob(pack_id))

    async def _delete_manifest(self, manifest_id: str) -> bool:
        """Both parts, and every generation of locations."""
        async for blobs in self._listed(f"{MANIFESTS_PREFIX}{manifest_id}/"):
            for blob in blobs:
                if not await self._delete(blob):
                    return False
        return True

    async def _delete(self, blob: BlobId) -> bool:
        """Whether the blob is gone now."""
        try:
            size_bytes = await self._size(blob)
            await self._store.delete(blob)
        except ImsError as error:
            self.report.failure_count += 1
            self.report.first_failure = self.report.first_failure or f"{blob}: {error.message}"
            return False
        self.report.bytes_freed += size_bytes
        return True

    async def _size(self, blob: BlobId) -> int:
        try:
            return (await self._store.stat(blob)).size_bytes
        except NotFound:
            return 0

    async def _listed(self, prefix: str) -> AsyncIterator[list[BlobId]]:
        """All blobs under ``prefix`` in pages; each page is listed before anything is done with it."""
        after = ""
        while True:
            page = await self._page(prefix, after)
            if page:
                yield page
            if len(page) < BATCH:
                return
            after = page[-1]

    async def _page(self, prefix: str, after: str) -> list[BlobId]:
        page: list[BlobId] = []
        listing = self._store.list(prefix, after)
        try:
            async for stored in listing:
                page.append(stored.id)
                if len(page) == BATCH:
                    break
        finally:
            # An interface for an iterator, fulfilled by a generator that may hold a folder open.
            if close := getattr(listing, "aclose", None):
                await close()
        return page


def _pack_of(blob: BlobId) -> str | None:
    pack_id = blob.rpartition("/")[2]
    return pack_id if RANDOM_ID.fullmatch(pack_id) and pack_blob(pack_id) == blob else None


def _manifest_of(blob: BlobId) -> str | None:
    manifest_id = _folder_of(blob)
    return manifest_id if manifest_id and RANDOM_ID.fullmatch(manifest_id) else None


def _folder_of(blob: BlobId) -> str | None:
    """``b`` of ``a/b/c``."""
    parts = blob.split("/")
    return parts[1] if len(parts) == 3 else None


def _known_packs(index: ChunkIndex) -> KnownIds:
    async def known(ids: Sequence[str]) -> set[str]:
        return (await index.known([], ids))[1]

    return known


def _known_manifests(index: ChunkIndex) -> KnownIds:
    async def known(ids: Sequence[str]) -> set[str]:
        return (await index.known(ids, []))[0]

    return known

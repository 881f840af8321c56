"""Copy an image inside the region.

The story: whether the project may still use the other image is looked at when the copy begins. The copy of
an image whose disk is cut by content holds the same manifest, in one transaction: nothing is read, nothing
but rows is written, and neither image needs the other any more. If the copy is to lie in another store, the
chunks are copied there as they are. The records of a fast import, and what is encrypted or is to be, are
read, cut by content into the domain of the copy's project, or the copy's own, looked into, and published as
by an import. No chunk becomes findable for another project than the one that stored it.

What the copy inherits of the other image's descent is looked at when it is asked for, when it begins and when
it ends: an image that is published meanwhile has no copy that does not say so.

What the copy reads it holds until it ends, whatever becomes of the other image or the share meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.chunk_reader import ChunkReader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.contract import Conflict, DataLoss, ImsError
from imsd.core.downloads import open_image_reader
from imsd.core.image_access import usable_image
from imsd.core.image_making import ImageMaker, MadeImage, publish
from imsd.core.job_run import JobRun, Workflow
from imsd.core.keys.encryption import cipher_of_image, ingest_target
from imsd.core.lineage import late_marks
from imsd.core.opened_upload import StoredDisk
from imsd.core.stores.relocating import relocated
from imsd.core.sweeper import Sweeper
from imsd.formats.reader import Finding
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageRecord, ImageStatus, JobState


class CopyImage(Workflow):
    def __init__(self, sweeper: Sweeper, maker: ImageMaker) -> None:
        self._sweeper = sweeper
        self._maker = maker

    async def run(self, run: JobRun) -> None:
        run.enter("copy", 0, (0.0, 98.0))
        async with run.runtime.database.transaction() as c:
            source, copy = await _begin(c, run)
            is_taken = not (source.is_fast_imported or source.key_id or copy.key_id)
            if is_taken and source.store == copy.store:
                await _take_manifest(c, run, source)
                return
        if is_taken:
            await self._take_chunks(run, source, copy)
            return
        made = await self._cut_anew(run, source, copy)
        run.enter("commit", 0, (99.0, 100.0))
        async with run.runtime.database.transaction() as c:
            await _inherit(c, run, copy)
            await publish(c, run, made)
            await run.succeed(c, {"image_id": copy.id})

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        await chunk_index.release_holder(c, run.holder)
        await image_rows.delete_image_row(c, run.record.image_id)

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Free what a copy that did not end well had stored; whoever cancels is told that nothing is left."""
        store_name = str(run.record.spec["store"])
        if state is JobState.CANCELLING:
            await self._sweeper.free(store_name)
        else:
            self._sweeper.wake(store_name)

    async def _take_chunks(self, run: JobRun, source: ImageRecord, copy: ImageRecord) -> None:
        """Copy what is stored into the store of the copy."""
        run.enter("copy", source.data_size, (0.0, 98.0))
        moved = await relocated(run, self._sweeper, source, copy)
        run.enter("commit", 0, (99.0, 100.0))
        written = moved.written
        async with run.runtime.database.transaction() as c:
            await run.require_fence(c)
            await _inherit(c, run, copy)
            await chunk_index.publish_manifest(
                c,
                manifest_id=written.manifest_id,
                writer=run.holder,
                image_id=copy.id,
                packs=written.packs,
            )
            stored = {"stored_size": written.stored_size, "new_size": moved.copied_bytes}
            await _activate(c, run, source, {"manifest_id": written.manifest_id, **stored})
            await chunk_index.release_holder(c, run.holder)

    async def _cut_anew(self, run: JobRun, source: ImageRecord, copy: ImageRecord) -> MadeImage:
        async with open_image_reader(run.runtime, self._sweeper, source) as reader:
            # Once: what was begun is not to fail at its end because a key was disabled, or an image deleted.
            of_source = await cipher_of_image(run.runtime, source)
            ciphers = _Ciphers(of_source, await cipher_of_image(run.runtime, copy))
            disk = await _store(run, source, copy, reader, ciphers)
        return MadeImage(copy, disk, await self._maker.look_inside(run, copy, disk, ciphers.copy))


class _Ciphers(NamedTuple):
    """None: that image is not encrypted."""

    source: ChunkCipher | None
    copy: ChunkCipher | None


async def _begin(c: AsyncConnection, run: JobRun) -> tuple[ImageRecord, ImageRecord]:
    """The image to copy, which the project may use, and the copy, SAVING now.

    Raises NotFound, FailedPrecondition, Conflict.
    """
    await run.require_fence(c)
    source = await usable_image(c, run.record.project_id, str(run.record.spec["source_image_id"]))
    copy = await image_rows.update_image(
        c,
        run.record.image_id,
        {"status": ImageStatus.SAVING, "updated_at": run.runtime.clock()},
        statuses=[ImageStatus.QUEUED, ImageStatus.SAVING],
    )
    if copy is None:
        raise Conflict("the image of this job is gone")
    await _inherit(c, run, copy)
    return source, copy


async def _inherit(c: AsyncConnection, run: JobRun, copy: ImageRecord) -> None:
    """Mark the copy by what the other image is now: it may have been published since the request."""
    source_id = str(run.record.spec["source_image_id"])
    source = await image_rows.get_image(c, await image_rows.owner_of_image(c, source_id), source_id)
    if source is not None and (marks := late_marks(copy, source)):
        values = {**marks, "updated_at": run.runtime.clock()}
        await image_rows.update_image(c, copy.id, values, statuses=[ImageStatus.SAVING])


async def _take_manifest(c: AsyncConnection, run: JobRun, source: ImageRecord) -> None:
    """Make the copy ACTIVE with the manifest of ``source``, and the job SUCCESS."""
    await chunk_index.hold_manifest(c, Holder(HolderKind.IMAGE, run.record.image_id), source.manifest_id)
    await _activate(c, run, source, {"manifest_id": source.manifest_id})


async def _activate(
    c: AsyncConnection, run: JobRun, source: ImageRecord, stored: Mapping[str, object]
) -> None:
    """Make the copy ACTIVE, and the job SUCCESS; ``stored``: what of its disk is not as in ``source``."""
    now, image_id = run.runtime.clock(), run.record.image_id
    values = {
        "status": ImageStatus.ACTIVE,
        "virtual_size": source.virtual_size,
        "data_size": source.data_size,
        "stored_size": source.stored_size,
        "digest": source.digest,
        "findings": source.findings,
        "guest": source.guest,
        "active_at": now,
        "updated_at": now,
        **stored,
    }
    if await image_rows.update_image(c, image_id, values, statuses=[ImageStatus.SAVING]) is None:
        raise Conflict("the image of this job is gone")
    await run.succeed(c, {"image_id": image_id})


def _is_same(source: ImageRecord, ciphers: _Ciphers, digest: str) -> bool:
    """Whether what was stored has the digest of the other image.

    Two keyed digests tell nothing of each other: then the proofs of the chunks that were read must do.
    """
    if ciphers.source is None:
        return digest == (ciphers.copy.tree_digest(source.digest) if ciphers.copy else source.digest)
    return ciphers.copy is not None or ciphers.source.tree_digest(digest) == source.digest


async def _store(
    run: JobRun, source: ImageRecord, copy: ImageRecord, reader: ChunkReader, ciphers: _Ciphers
) -> StoredDisk:
    """The disk, cut by content. Raises DataLoss when it is not the disk it was."""
    runtime = run.runtime
    run.enter("copy", reader.size_bytes, (0.0, 98.0))
    target = ingest_target(runtime, copy.store, run.record.project_id, run.holder, ciphers.copy)
    async with ManifestWriter(target) as manifest, DiskIngest(runtime.pool, target, manifest) as ingest:
        await ingest.copy_from(reader, run.advance)
        result = await ingest.finish(reader.size_bytes)
        if not _is_same(source, ciphers, result.digest):
            raise DataLoss(
                f"the disk of image {source.name!r} was read with another digest than it has",
                hint="verify the image: it tells what is damaged",
            )
        written = await manifest.commit(result.size_bytes, result.digest)
    return StoredDisk(
        manifest_id=written.manifest_id,
        packs=written.packs,
        format_name=source.disk_format,
        findings=[Finding(found["code"], found["message"]) for found in source.findings],
        virtual_size_bytes=reader.size_bytes,
        digest=result.digest,
        data_size=written.data_size,
        stored_size=written.stored_size,
        new_size=result.new_size,
    )

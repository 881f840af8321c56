"""Images whose disks are kept in records of one length, as a fast import keeps them, not cut by content."""

from __future__ import annotations

from blake3 import blake3

from imsd.chunks.codec import PlainChunk, encode_chunks
from imsd.chunks.entry import ChunkEntry
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.layout import MAX_CHUNK_BYTES
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.pack_writer import IngestTarget, PackWriter
from imsd.chunks.tree_digest import TreeHasher
from imsd.core.runtime import Runtime
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata.records import ImageRecord, JobState
from tests.unit.core.core_world import STORE, now
from tests.unit.metadata.samples import a_job, an_image, claimed

RECORD_BYTES = MAX_CHUNK_BYTES


async def fast_imported(runtime: Runtime, project_id: str, disk: bytes) -> ImageRecord:
    """An active image of ``disk``, one chunk for every `RECORD_BYTES` of it."""
    async with runtime.database.transaction() as c:
        job = a_job(project_id=project_id)
        await job_rows.insert_job(c, job)
        job = await claimed(c, job)
    holder = Holder(HolderKind.JOB, job.id, job.fence)
    target = IngestTarget(runtime.stores.get(STORE), STORE, runtime.index, project_id, holder)
    starts = range(0, len(disk), RECORD_BYTES)
    pieces = [memoryview(disk)[start : start + RECORD_BYTES] for start in starts]
    chunks = [PlainChunk(blake3(piece).digest(), piece) for piece in pieces]
    packs = PackWriter(target)
    places = await packs.append(encode_chunks(chunks))
    await packs.flush()
    tree = TreeHasher()
    tree.update(disk)
    digest = tree.digest()
    async with ManifestWriter(target) as manifest:
        await manifest.add(
            [
                ChunkEntry(start, len(piece), chunk.digest, places[chunk.digest])
                for start, piece, chunk in zip(starts, pieces, chunks, strict=True)
            ]
        )
        written = await manifest.commit(len(disk), digest)
    record = an_image(
        project_id=project_id,
        store=STORE,
        disk_format="zvhd2",
        virtual_size=len(disk),
        data_size=written.data_size,
        stored_size=written.stored_size,
        new_size=written.stored_size,
        digest=digest,
        manifest_id=written.manifest_id,
        is_fast_imported=True,
        os_version="Debian GNU/Linux 12.0.0 64bit",
    )
    async with runtime.database.transaction() as c:
        await image_rows.insert_image(c, record)
        await chunk_index.publish_manifest(
            c, manifest_id=written.manifest_id, writer=holder, image_id=record.id, packs=written.packs
        )
        await chunk_index.release_holder(c, holder)
        await job_rows.move_job(
            c, job.id, [JobState.RUNNING], JobState.SUCCESS, fence=None, values={"finished_at": now()}
        )
    return record

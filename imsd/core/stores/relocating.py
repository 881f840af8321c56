"""The disk of an image, copied as it is stored into the store of another image, or of the image itself."""

from __future__ import annotations

from imsd.chunks.cipher import DOMAIN_PREFIX
from imsd.chunks.manifest_reader import open_manifest
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.relocate import Moving, Relocated, relocate
from imsd.core.downloads import held_image
from imsd.core.job_run import JobRun
from imsd.core.sweeper import Sweeper
from imsd.metadata.records import ImageRecord


async def relocated(run: JobRun, sweeper: Sweeper, source: ImageRecord, image: ImageRecord) -> Relocated:
    """Copy the disk of ``source`` to the store and into the domain of ``image``; nothing is published.

    Raises NotFound, DataLoss, Conflict, LimitExceeded, Unavailable.
    """
    runtime = run.runtime
    to_store = runtime.stores.get(image.store)
    async with held_image(runtime, sweeper, source) as held:
        store = runtime.stores.get(held.store)
        manifest = await open_manifest(store, held.manifest_id, runtime.pool)
        # Sealed chunks are bound to their image, and known to nothing else.
        domain = f"{DOMAIN_PREFIX}{image.id}" if manifest.is_encrypted else image.project_id
        target = IngestTarget(to_store, image.store, runtime.index, domain, run.holder)
        return await relocate(Moving(store, manifest), runtime.pool, target, on_progress=run.advance)

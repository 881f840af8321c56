"""Move an image into another store.

The story: the chunks of the image are copied as they are stored, with a manifest that lists them where they
lie now. Then one transaction lets the image have that manifest and that store instead of the old ones. Who
reads the image holds the old manifest and is not disturbed; so do copies of the image, which stay where they
are. What nobody holds any more is swept.

A job that runs again finds the chunks that an earlier run had copied. If the image was repacked meanwhile,
its new manifest is copied, which costs nothing but the look-ups. One that was deleted meanwhile is not moved.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.relocate import Relocated
from imsd.contract import FailedPrecondition, ImsError, NotFound
from imsd.core.job_run import JobRun, Workflow
from imsd.core.stores.relocating import relocated
from imsd.core.sweeper import Sweeper
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageRecord, ImageStatus, JobState

# One that was deactivated meanwhile is moved all the same: its bytes are as good.
MOVABLE = (ImageStatus.ACTIVE, ImageStatus.DEACTIVATED)


class MoveImage(Workflow):
    def __init__(self, sweeper: Sweeper) -> None:
        self._sweeper = sweeper

    async def run(self, run: JobRun) -> None:
        store = str(run.record.spec["store"])
        is_moved = False
        while not is_moved:
            image = await self._image(run)
            run.enter("move", image.data_size, (0.0, 98.0))
            moved = await relocated(run, self._sweeper, image, replace(image, store=store))
            run.enter("commit", 0, (99.0, 100.0))
            async with run.runtime.database.transaction() as c:
                is_moved = await _switch(c, run, image, moved)

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        await chunk_index.release_holder(c, run.holder)

    async def clean_up(self, run: JobRun, state: JobState) -> None:
        """Free what the image left, or what had been copied; whoever cancels is told that nothing is left."""
        spec = run.record.spec
        if state is JobState.CANCELLING:
            await self._sweeper.free(str(spec["store"]))
        else:
            self._sweeper.wake(str(spec["from_store"] if state is JobState.SUCCESS else spec["store"]))

    async def _image(self, run: JobRun) -> ImageRecord:
        async with run.runtime.database.reading() as c:
            image = await _movable(c, run)
        if image.store == run.record.spec["store"]:
            raise FailedPrecondition(
                f"image {image.name!r} lies in the store {image.store!r} already",
                hint="another job has moved it; look at the image",
            )
        return image


async def _movable(c: AsyncConnection, run: JobRun) -> ImageRecord:
    image = await image_rows.get_image(c, run.record.project_id, run.record.image_id)
    if image is None or image.status not in MOVABLE:
        raise NotFound("the image was deleted before it was moved")
    return image


async def _switch(c: AsyncConnection, run: JobRun, image: ImageRecord, moved: Relocated) -> bool:
    """Let the image have its bytes where they are now, and the job be SUCCESS.

    False: the image has another manifest than the one that was copied. Raises NotFound, Conflict.
    """
    await run.require_fence(c)
    if (await _movable(c, run)).manifest_id != image.manifest_id:
        return False
    written, store = moved.written, str(run.record.spec["store"])
    await chunk_index.switch_manifest(
        c,
        from_manifest=image.manifest_id,
        to_manifest=written.manifest_id,
        writer=run.holder,
        packs=written.packs,
        image_ids=[image.id],
    )
    values = {
        "store": store,
        "manifest_id": written.manifest_id,
        "stored_size": written.stored_size,
        "new_size": moved.copied_bytes,
        "updated_at": run.runtime.clock(),
    }
    await image_rows.update_image(c, image.id, values, statuses=MOVABLE)
    await chunk_index.release_holder(c, run.holder)
    report = {
        "store": store,
        "from_store": image.store,
        "stored_bytes": written.stored_size,
        "copied_bytes": moved.copied_bytes,
    }
    await run.succeed(c, report)
    return True

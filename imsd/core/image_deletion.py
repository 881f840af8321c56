"""Deleting images, bringing them back within their grace time, and what happens when it ends.

A deleted image keeps its hold on its bytes until it is purged, so undeleting it changes its row only.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import FailedPrecondition, NotFound
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata import members as member_rows
from imsd.metadata.records import ImageRecord, ImageStatus, Visibility

from . import quotas
from .image_access import THERE
from .image_changes import ImageRef, change, image_at, look_for_job
from .quota_rules import IMAGES
from .runtime import Runtime
from .sweeper import Sweeper

# Images that one transaction purges: the writer is held no longer than that takes.
PURGE_BATCH = 100


class ImageDeletion:
    def __init__(self, runtime: Runtime, sweeper: Sweeper) -> None:
        self._runtime = runtime
        self._sweeper = sweeper

    async def delete(self, ref: ImageRef, *, is_final: bool) -> None:
        """Make an image PENDING_DELETE, or with ``is_final`` or without a grace time remove it at once.

        Its members are removed. Raises InvalidRequest, NotFound, Conflict, PermissionDenied (NOT_OWNER),
        FailedPrecondition (in creation; IMAGE_PROTECTED, IMAGE_PUBLIC, IMAGE_PUBLISHED).
        """
        grace = self._runtime.limits.undelete_time
        statuses = {*THERE, ImageStatus.PENDING_DELETE} if is_final else THERE
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref, statuses)
            if current.status is not ImageStatus.PENDING_DELETE:
                require_deletable(current, has_job=await look_for_job(c, current))
            if current.status in (ImageStatus.ACTIVE, ImageStatus.DEACTIVATED):
                current = await self._doom(c, current)
                if grace and not is_final:
                    return
            await change(c, self._runtime, current, {"status": ImageStatus.DELETED})
            await _forget(c, current.id)
        self._sweeper.wake(current.store)

    async def undelete(self, ref: ImageRef) -> ImageRecord:
        """Bring a deleted image back as it was, without its members.

        Raises NotFound (also when its grace time is over), FailedPrecondition (not deleted), LimitExceeded
        (QUOTA_EXCEEDED).
        """
        now = self._runtime.clock()
        async with self._runtime.database.transaction() as c:
            current = await image_at(c, ref, {*THERE, ImageStatus.PENDING_DELETE})
            if current.status is not ImageStatus.PENDING_DELETE:
                raise FailedPrecondition(
                    f"image {current.name!r} is not deleted", hint="nothing is to be done"
                )
            if current.purge_at is None or current.purge_at <= now:
                raise NotFound(
                    f"the grace time of image {current.name!r} is over",
                    field="image_id",
                    hint="import it again",
                )
            await quotas.reserve(c, self._runtime, current.project_id, IMAGES)
            values = {
                "status": ImageStatus(current.status_before),
                "status_before": "",
                "deleted_at": None,
                "purge_at": None,
            }
            return await change(c, self._runtime, current, values)

    async def purge_due(self) -> None:
        """Remove the images whose grace time is over."""
        now = self._runtime.clock()
        while True:
            async with self._runtime.database.transaction() as c:
                due = await image_rows.due_images(c, now, PURGE_BATCH)
                for image_id, _ in due:
                    await _forget(c, image_id)
            for store in {store for _, store in due}:
                self._sweeper.wake(store)
            if len(due) < PURGE_BATCH:
                return

    async def _doom(self, c: AsyncConnection, current: ImageRecord) -> ImageRecord:
        now = self._runtime.clock()
        is_shared = current.visibility is Visibility.SHARED
        values = {
            "status": ImageStatus.PENDING_DELETE,
            "status_before": current.status,
            "deleted_at": now,
            "purge_at": now + self._runtime.limits.undelete_time,
            "visibility": Visibility.PRIVATE if is_shared else current.visibility,
        }
        doomed = await change(c, self._runtime, current, values)
        await member_rows.end_shares(c, current.id, now)
        return doomed


async def _forget(c: AsyncConnection, image_id: str) -> None:
    """The row of a DELETED image goes, and its hold on its bytes."""
    await chunk_index.release_holder(c, Holder(HolderKind.IMAGE, image_id))
    await image_rows.delete_image_row(c, image_id)


def require_deletable(image: ImageRecord, *, has_job: bool) -> None:
    """Contract §4.3 and §9.1, column "delete"; seed, Table 5-6, row "Deleting images".

    ``has_job``: see `look_for_job`. Raises FailedPrecondition (in creation; IMAGE_PROTECTED, IMAGE_PUBLIC,
    IMAGE_PUBLISHED).
    """
    waits_for_bytes = image.is_prepared and not has_job
    if image.status is ImageStatus.SAVING or (image.status is ImageStatus.QUEUED and not waits_for_bytes):
        raise FailedPrecondition(
            f"image {image.name!r} is being created", hint=f"cancel its job {image.job_id} instead"
        )
    for is_so, state, reason, hint in (
        (image.is_protected, "protected", "IMAGE_PROTECTED", "clear is_protected first"),
        (
            image.visibility is Visibility.PUBLIC,
            "public",
            "IMAGE_PUBLIC",
            "an operator can make it private first",
        ),
        (
            image.is_published,
            "in the marketplace",
            "IMAGE_PUBLISHED",
            "an operator can take it out first",
        ),
    ):
        if is_so:
            raise FailedPrecondition(f"image {image.name!r} is {state}", reason=reason, hint=hint)

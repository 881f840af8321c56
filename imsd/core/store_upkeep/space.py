"""What images and projects take in the stores, and what would go with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog

from imsd.contract import ImsError
from imsd.core import checks
from imsd.core.image_access import owned_image, require_active
from imsd.core.patience import within
from imsd.core.runtime import Runtime
from imsd.metadata import pack_space
from imsd.metadata.pack_space import PackedSpace, ProjectSpace
from imsd.metadata.quotas import COUNTED_STATUSES
from imsd.metadata.records import ImageRecord, ImageStatus

from .counting import PackCounting

log = structlog.get_logger(__name__)

# Who asks for figures does not wait longer for them to become exact.
COUNT_SECONDS = 10.0

# Images that have bytes in a store.
STORED = (ImageStatus.ACTIVE, ImageStatus.DEACTIVATED, ImageStatus.PENDING_DELETE)


@dataclass(frozen=True, slots=True)
class ImageSpace:
    """What an image takes, in bytes.

    ``unique_bytes``: of its chunks that no other image needs; ``shared_bytes``: the others;
    ``freed_bytes``: what the next sweep frees when it is gone for good, whole packs with all that is in them.
    Both of the first are as of ``counted_at`` (None: never counted), exact if ``is_current``.
    """

    image: ImageRecord
    unique_bytes: int
    shared_bytes: int
    freed_bytes: int
    counted_at: datetime | None
    is_current: bool


class Space:
    def __init__(self, runtime: Runtime, counting: PackCounting) -> None:
        self._runtime = runtime
        self._counting = counting

    async def of_image(self, project_id: str, image_id: str) -> ImageSpace:
        """What an image of the project takes.

        Raises InvalidRequest, NotFound, PermissionDenied (NOT_OWNER), FailedPrecondition (IMAGE_NOT_ACTIVE:
        it has no bytes yet).
        """
        runtime = self._runtime
        async with runtime.database.reading() as c:
            image = await owned_image(c, project_id, image_id, STORED_OR_MADE)
        if image.status not in STORED:
            require_active(image)
        try:
            await within(COUNT_SECONDS, self._counting.count_manifest(image.store, image.manifest_id))
        except TimeoutError:  # what was counted before is told
            log.warning("the use of packs takes long to count", store=image.store, seconds=COUNT_SECONDS)
        except ImsError as error:
            log.warning("the use of packs could not be counted", detail=str(error))
        async with runtime.database.reading() as c:
            found = await pack_space.manifest_space(c, image.manifest_id, image.id)
        if found.is_held_by_others:
            return ImageSpace(image, 0, image.stored_size, 0, runtime.clock(), True)
        return ImageSpace(
            image,
            found.unique_bytes,
            max(0, image.stored_size - found.unique_bytes),
            found.freed_bytes,
            found.counted_at if found.pack_count else runtime.clock(),
            found.due_packs == 0,
        )

    async def of_store(self, store_name: str) -> PackedSpace:
        """What the packs of a store take, and how much of it was needed when that was counted last."""
        async with self._runtime.database.reading() as c:
            return await pack_space.packed_space(c, store_name)

    async def of_project(self, project_id: str) -> ProjectSpace:
        """What the images of a project take now. Raises InvalidRequest."""
        project_id = checks.project_id(project_id)
        async with self._runtime.database.reading() as c:
            return await pack_space.project_space(c, project_id, COUNTED_STATUSES)


STORED_OR_MADE = (*STORED, ImageStatus.QUEUED, ImageStatus.SAVING)

"""Tags of images: set, taken off, listed, and images found by them. Only the owner changes them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import NotFound
from imsd.metadata import tags as tag_rows
from imsd.metadata.image_query import ImageQuery
from imsd.metadata.records import ImageRecord
from imsd.metadata.tags import TaggedImage, TagQuery

from . import checks, tag_filter
from .image_access import seen_image
from .image_changes import ImageRef, change, image_at
from .image_update import require_updatable
from .runtime import Runtime

# Images of a list by tags (contract §3.12).
DEFAULT_LIMIT = 10
MAX_LIMIT = 1000
MAX_OFFSET = 1_000_000


class Tags:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def set(self, ref: ImageRef, given: Sequence[tuple[str, str]]) -> ImageRecord:
        """Add tags, and replace the values of keys that are there.

        Raises InvalidRequest (also TOO_MANY_TAGS), NotFound, PermissionDenied (NOT_OWNER), Conflict,
        FailedPrecondition.
        """
        most = self._runtime.limits.max_tags_per_image
        if not given:
            checks.refuse("tags", "no tag is given")
        checks.tag_count(len(given), most)
        tags = dict(checks.tag(key, value) for key, value in given)
        if len(tags) < len(given):
            checks.refuse("tags", "a key is given twice")
        async with self._runtime.database.transaction() as c:
            image = await _taggable(c, ref)
            # Of one that has more, since the limit was lowered, values can be replaced all the same.
            most = max(most, len(image.tags))
            return await self._put(c, image, checks.tags({**image.tags, **tags}, most))

    async def delete(self, ref: ImageRef, given: Sequence[str], *, is_lenient: bool) -> ImageRecord:
        """Take tags off. A key that is not there is NotFound, and nothing changes, unless ``is_lenient``.

        Raises InvalidRequest, NotFound, PermissionDenied (NOT_OWNER), Conflict, FailedPrecondition.
        """
        keys = tag_filter.keys("keys", given)
        async with self._runtime.database.transaction() as c:
            image = await _taggable(c, ref)
            missing = [key for key in keys if key not in image.tags]
            if missing and not is_lenient:
                raise NotFound(
                    f"image {image.name!r} has no tag {missing[0]!r}",
                    field="keys",
                    hint="case counts; look at its tags",
                )
            left = {key: value for key, value in image.tags.items() if key not in keys}
            return await self._put(c, image, left)

    async def get(self, project_id: str, image_id: str) -> ImageRecord:
        """An image that the project sees, with its tags. Raises InvalidRequest, NotFound."""
        async with self._runtime.database.reading() as c:
            return await seen_image(c, project_id, image_id)

    async def list(
        self, query: ImageQuery, page_size: int, page_token: str
    ) -> tuple[Sequence[tuple[str, Sequence[str]]], str]:
        """A page of keys, each with its values, and the token of the next one."""
        limit = checks.page_size(page_size)
        marker = self._runtime.tokens.read(("tags", query), page_token)
        async with self._runtime.database.reading() as c:
            found, has_more = await tag_rows.list_keys(c, query, limit, "" if marker is None else marker[1])
        token = self._runtime.tokens.make(("tags", query), ("", found[-1][0])) if has_more else ""
        return found, token

    async def find(self, query: TagQuery, limit: int, offset: int) -> tuple[Sequence[TaggedImage], int]:
        """Images, and how many there are in all. Raises InvalidRequest."""
        checks.number("limit", limit, 0, MAX_LIMIT)
        checks.number("offset", offset, 0, MAX_OFFSET)
        async with self._runtime.database.reading() as c:
            found = await tag_rows.find_images(c, query, limit or DEFAULT_LIMIT, offset)
            return found, await tag_rows.count_images(c, query)

    async def count(self, query: TagQuery) -> int:
        async with self._runtime.database.reading() as c:
            return await tag_rows.count_images(c, query)

    async def _put(self, c: AsyncConnection, image: ImageRecord, tags: dict[str, str]) -> ImageRecord:
        return image if tags == image.tags else await change(c, self._runtime, image, {"tags": tags})


async def _taggable(c: AsyncConnection, ref: ImageRef) -> ImageRecord:
    """As an update of the image: one that was prepared can be tagged while it waits for its bytes."""
    image = await image_at(c, ref)
    require_updatable(image)
    return image

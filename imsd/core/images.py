"""Images as a caller sees them: get, resolve, list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import InvalidRequest, LimitExceeded, NotFound
from imsd.metadata import image_families, image_lists
from imsd.metadata import images as image_rows
from imsd.metadata.image_query import ImageQuery
from imsd.metadata.records import ImageRecord

from . import attribute_checks, catalogue, checks, limits
from .image_access import (
    as_seen_by,
    owned_image,
    require_active,
    seen_image,
    usable_image,
    with_replacements,
)
from .image_list_export import ListFile, image_list_file, list_query
from .image_preparing import prepare_image
from .new_image import NewImage
from .page_token import Marker
from .requests import RequestKey
from .runtime import Runtime

# Different systems that are compared with a server type, and of them what one statement can look for.
MAX_SYSTEMS = 10_000
MAX_TAKEN_SYSTEMS = 800


@dataclass(frozen=True, slots=True)
class FamilyQuery:
    """``architecture``: x86 or arm; empty: any."""

    project_id: str
    family: str
    architecture: str = ""


class Images:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def get(self, project_id: str, image_id: str) -> ImageRecord:
        """As `seen_image`."""
        return await self._runtime.database.read(seen_image, project_id, image_id)

    async def get_active(self, project_id: str, image_id: str) -> ImageRecord:
        """An image of the project whose bytes can be read.

        Raises InvalidRequest, NotFound, PermissionDenied (NOT_OWNER), FailedPrecondition.
        """
        async with self._runtime.database.reading() as c:
            record = await owned_image(c, project_id, image_id)
        require_active(record)
        return record

    async def get_usable(self, project_id: str, image_id: str) -> ImageRecord:
        """As `usable_image`."""
        async with self._runtime.database.reading() as c:
            return await usable_image(c, project_id, image_id)

    async def resolve(self, project_id: str, name_or_id: str) -> ImageRecord:
        """The one image that a text stands for: of the project, else of those it sees beside them.

        Raises InvalidRequest (also AMBIGUOUS_NAME), NotFound.
        """
        project_id = checks.project_id(project_id)
        if not 1 <= len(name_or_id) <= limits.MAX_NAME or "\x00" in name_or_id:
            checks.refuse("name_or_id", "give an id, the first characters of an id, or a name")
        found = await self._runtime.database.read(_stands_for, project_id, name_or_id)
        if not found:
            raise NotFound(
                f"there is no image {name_or_id!r} in project {project_id}",
                hint="list the images of the project",
            )
        if len(found) > 1:
            some = ", ".join(record.id[:8] for record in found)
            raise InvalidRequest(
                f"{name_or_id!r} fits several images: {some}",
                reason="AMBIGUOUS_NAME",
                field="name_or_id",
                hint="use more characters of the id",
            )
        return as_seen_by(project_id, found[0])

    async def prepare(self, key: RequestKey, new: NewImage) -> ImageRecord:
        """As `prepare_image`."""
        return await prepare_image(self._runtime, key, new)

    async def resolve_family(self, query: FamilyQuery) -> ImageRecord:
        """The newest image of a family that is active and not deprecated.

        Of the project, else public, else shared with it and accepted. Raises InvalidRequest, NotFound.
        """
        project_id = checks.project_id(query.project_id)
        if not query.family:
            checks.refuse("family", "family is missing")
        attribute_checks.family(query.family)
        async with self._runtime.database.reading() as c:
            found = await image_families.newest_of(c, project_id, query.family, query.architecture)
            if found is not None:
                return await seen_image(c, project_id, found.id)
        suffix = f" for {query.architecture}" if query.architecture else ""
        raise NotFound(
            f"no image of family {query.family!r}{suffix} can be used in project {project_id}",
            hint="list the images of the family: it may have none that is active and not deprecated",
        )

    def list_file(self, project_id: str, *, is_public: bool) -> ListFile:
        """As `image_list_file`, of this region and time."""
        query = list_query(project_id, is_public=is_public)
        return image_list_file(self.list, query, self._runtime.region, self._runtime.clock())

    async def list(
        self, query: ImageQuery, page_size: int, page_token: str
    ) -> tuple[Sequence[ImageRecord], str]:
        """A page of images and the token of the next one, empty on the last page. Raises LimitExceeded."""
        limit = checks.page_size(page_size)
        after = self._runtime.tokens.read(query, page_token)
        catalogue.require_server_type(query.server_type, "filter.server_type")
        records = await self._runtime.database.read(_page, query, limit + 1, after)
        token = ""
        if len(records) > limit:
            last = records[limit - 1]
            token = self._runtime.tokens.make(query, (getattr(last, query.order_by), last.id))
        return [as_seen_by(query.project_id, record) for record in records[:limit]], token


async def _stands_for(c: AsyncConnection, project_id: str, name_or_id: str) -> Sequence[ImageRecord]:
    """The images that a text may mean, of which more than one are too many."""
    if limits.UUID.match(name_or_id):
        return [await seen_image(c, project_id, name_or_id)]
    own = await image_rows.find_images(c, project_id, name_or_id, 3)
    if own:
        return await with_replacements(c, project_id, own)
    foreign = await image_rows.find_foreign_images(c, project_id, name_or_id, 3)
    return foreign if len(foreign) != 1 else [await seen_image(c, project_id, foreign[0].id)]


async def _page(
    c: AsyncConnection, query: ImageQuery, limit: int, after: Marker | None
) -> Sequence[ImageRecord]:
    systems = await _systems_for(c, query) if query.server_type else None
    found = await image_lists.list_images(c, query, limit, after, systems)
    return await with_replacements(c, query.project_id, found)


async def _systems_for(c: AsyncConnection, query: ImageQuery) -> Sequence[tuple[str, str]]:
    """The systems among the listed images that servers of the asked type take."""
    found = await image_lists.systems_of(c, query, MAX_SYSTEMS + 1)
    taken = catalogue.taken_by(query.server_type, found)
    if len(found) > MAX_SYSTEMS or len(taken) > MAX_TAKEN_SYSTEMS:
        raise LimitExceeded(
            "these images have too many different systems to compare them with a server type",
            field="filter.server_type",
            hint="narrow the list, by platform or os_version for example",
        )
    return taken

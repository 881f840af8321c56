"""Images as a caller sees them: get, resolve, list, update, delete."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict, FailedPrecondition, InvalidRequest, NotFound
from imsd.metadata import chunk_index
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageRecord, ImageStatus

from . import checks, limits
from .image_access import usable_image
from .kind_rules import min_disk
from .runtime import Runtime
from .sweeper import Sweeper

LISTED = (ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChange:
    """What an update sets. ``properties`` replaces all; ``set_properties`` changes single ones.

    A single property with an empty value is removed.
    """

    values: Mapping[str, object]
    tags: Mapping[str, str] | None = None
    properties: Mapping[str, str] | None = None
    set_properties: Mapping[str, str] | None = None


class Images:
    def __init__(self, runtime: Runtime, sweeper: Sweeper) -> None:
        self._runtime = runtime
        self._sweeper = sweeper

    async def get(self, project_id: str, image_id: str) -> ImageRecord:
        project_id, image_id = checks.project_id(project_id), checks.uuid("image_id", image_id)
        async with self._runtime.database.reading() as c:
            record = await image_rows.get_image(c, project_id, image_id)
        if record is None or record.status not in LISTED:
            raise NotFound(
                f"there is no image {image_id} in project {project_id}", hint="list the images of the project"
            )
        return record

    async def get_active(self, project_id: str, image_id: str) -> ImageRecord:
        """An image whose bytes can be read. Raises FailedPrecondition."""
        record = await self.get(project_id, image_id)
        if record.status is not ImageStatus.ACTIVE:
            raise FailedPrecondition(
                f"image {record.name!r} is {record.status}, not active",
                hint=f"wait for its job {record.job_id} to end",
            )
        return record

    async def get_usable(self, project_id: str, image_id: str) -> ImageRecord:
        """As `usable_image`."""
        async with self._runtime.database.reading() as c:
            return await usable_image(c, project_id, image_id)

    async def resolve(self, project_id: str, name_or_id: str) -> ImageRecord:
        project_id = checks.project_id(project_id)
        if not 1 <= len(name_or_id) <= limits.MAX_NAME:
            checks.refuse("name_or_id", "give an id, the first characters of an id, or a name")
        async with self._runtime.database.reading() as c:
            found = await image_rows.find_images(c, project_id, name_or_id, 3)
        exact = [record for record in found if record.id == name_or_id]
        if exact:
            return exact[0]
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
        return found[0]

    async def list(
        self, query: image_rows.ImageQuery, page_size: int, page_token: str
    ) -> tuple[Sequence[ImageRecord], str]:
        """A page of images and the token of the next one, empty on the last page."""
        limit = checks.page_size(page_size)
        after = self._runtime.tokens.read(query, page_token)
        async with self._runtime.database.reading() as c:
            records = await image_rows.list_images(c, query, limit + 1, after)
        token = ""
        if len(records) > limit:
            last = records[limit - 1]
            token = self._runtime.tokens.make(query, (getattr(last, query.order_by), last.id))
        return records[:limit], token

    async def update(self, project_id: str, image_id: str, etag: str, change: ImageChange) -> ImageRecord:
        current = await self.get_active(project_id, image_id)
        expected = self._version(etag)
        if expected is not None and expected != current.version:
            raise _changed(current)
        values = self._checked(current, change)
        async with self._runtime.database.transaction() as c:
            updated = await image_rows.update_image(
                c,
                image_id,
                values | {"updated_at": self._runtime.clock()},
                # Checks and merged properties were made against this very version.
                expected_version=current.version,
                statuses=[ImageStatus.ACTIVE],
            )
        if updated is None:
            raise _changed(current)
        return updated

    async def delete(self, project_id: str, image_id: str, etag: str) -> None:
        current = await self.get(project_id, image_id)
        expected = self._version(etag)
        if expected is not None and expected != current.version:
            raise _changed(current)
        if current.status is not ImageStatus.ACTIVE:
            raise FailedPrecondition(
                f"image {current.name!r} is being created",
                hint=f"cancel its job {current.job_id} instead",
            )
        if current.is_protected:
            raise FailedPrecondition(
                f"image {current.name!r} is protected",
                reason="IMAGE_PROTECTED",
                hint="clear is_protected first",
            )
        async with self._runtime.database.transaction() as c:
            doomed = await image_rows.update_image(
                c,
                image_id,
                {"status": ImageStatus.PENDING_DELETE},
                # Protection was checked against this very version.
                expected_version=current.version,
                statuses=[ImageStatus.ACTIVE],
            )
            if doomed is None:
                raise _changed(current)
            await chunk_index.release_holder(c, Holder(HolderKind.IMAGE, image_id))
            await image_rows.delete_image_row(c, image_id)
        self._sweeper.wake(current.store)

    def _checked(self, current: ImageRecord, change: ImageChange) -> dict[str, object]:
        values = dict(change.values)
        for field, check in _CHECKS.items():
            if field in values:
                values[field] = check(str(values[field]))
        if "min_disk_gb" in values:
            values["min_disk_gb"] = min_disk(
                current.kind, int(str(values["min_disk_gb"])), current.virtual_size
            )
        checks.ram(
            int(str(values.get("min_ram_mb", current.min_ram_mb))),
            int(str(values.get("max_ram_mb", current.max_ram_mb))),
        )
        if change.tags is not None:
            values["tags"] = checks.tags(change.tags)
        properties = dict(current.properties if change.properties is None else change.properties)
        for key, content in (change.set_properties or {}).items():
            properties[key] = content
            if not content:
                del properties[key]
        if change.properties is not None or change.set_properties:
            values["properties"] = checks.properties(properties)
        return values

    def _version(self, etag: str) -> int | None:
        if not etag:
            return None
        if not etag.isascii() or not etag.isdigit() or len(etag) > 18:
            checks.refuse("etag", f"{etag[:32]!r} is not an etag of imsd")
        return int(etag)


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "name": checks.name,
    "description": checks.description,
    "os_version": lambda value: checks.text("os_version", value, limits.MAX_OS_VERSION),
}

UPDATABLE: Collection[str] = (
    "name",
    "description",
    "os_version",
    "min_disk_gb",
    "min_ram_mb",
    "max_ram_mb",
    "is_protected",
)


def _changed(current: ImageRecord) -> Conflict:
    return Conflict(
        f"image {current.name!r} was changed meanwhile", hint="get the image again and repeat the change"
    )

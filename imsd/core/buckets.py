"""Buckets: the configured object stores from which images come and to which they go.

They are no image stores: nothing of imsd lies in them, the sweep never looks at them, and what is in them
counts for no quota of images. To a project that may not use a bucket it is not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from imsd.contract import BlobStore, FailedPrecondition, NotFound, StoredBlob

from . import checks
from .bucket_sections import ConfiguredBucket, configured_buckets
from .caller import EVERY_PROJECT
from .object_place import MAX_OBJECT_NAME, ObjectPlace, bucket_name
from .opened_stores import OpenedStore, open_configured, ready_store
from .page_token import PageTokens
from .plugin_registry import PluginRegistry

# Only buckets of this class take images and give them (Table 5-5, row "Exporting an image"; contract §3.1).
STANDARD: Final = "standard"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it is configured, opened or not."""

    configured: ConfiguredBucket
    opened: OpenedStore

    @property
    def name(self) -> str:
        return self.configured.store.name

    @property
    def region(self) -> str:
        return self.configured.region

    @property
    def storage_class(self) -> str:
        return self.configured.own.storage_class

    @property
    def driver(self) -> str:
        return self.configured.store.declared.driver.name

    @property
    def is_read_only(self) -> bool:
        return self.configured.own.read_only

    def is_for(self, project_id: str) -> bool:
        projects = self.configured.own.projects
        return project_id in projects or EVERY_PROJECT in projects


class Buckets:
    """``region``: the daemon's."""

    def __init__(self, buckets: Sequence[Bucket], region: str) -> None:
        self.opened = [bucket.opened for bucket in buckets]
        self._region = region
        self._by_name = {bucket.name: bucket for bucket in buckets}

    def of_project(self, project_id: str) -> list[Bucket]:
        """The buckets that a project may use, by name."""
        project_id = checks.project_id(project_id)
        return [each for _, each in sorted(self._by_name.items()) if each.is_for(project_id)]

    def of_one_project(self) -> Iterator[tuple[str, str, BlobStore]]:
        """The opened buckets that one project alone may use: the project, the name and the store."""
        for name, bucket in self._by_name.items():
            projects, store = set(bucket.configured.own.projects), bucket.opened.store
            if len(projects) == 1 and EVERY_PROJECT not in projects and store is not None:
                yield projects.pop(), name, store

    def source(self, project_id: str, place: ObjectPlace, field: str) -> BlobStore:
        """The store of a bucket from which a project imports.

        Raises NotFound (BUCKET_NOT_FOUND), FailedPrecondition (BUCKET_UNSUITED), Unavailable
        (DRIVER_NOT_READY).
        """
        bucket = self._find(project_id, place.bucket, field)
        self._require_suited(bucket, field)
        return ready_store(bucket.opened, "bucket", bucket.name)

    def target(self, project_id: str, place: ObjectPlace, field: str) -> BlobStore:
        """The store of a bucket into which a project exports.

        Raises as `source`, and FailedPrecondition (STORE_READ_ONLY).
        """
        store = self.source(project_id, place, field)
        self._require_writable(place, field, "takes no exports")
        return store

    def readable(self, project_id: str, place: ObjectPlace, field: str) -> BlobStore:
        """The store of a bucket, wherever it lies and of whatever class.

        Raises NotFound (BUCKET_NOT_FOUND), Unavailable (DRIVER_NOT_READY).
        """
        bucket = self._find(project_id, place.bucket, field)
        return ready_store(bucket.opened, "bucket", bucket.name)

    def writable(self, project_id: str, place: ObjectPlace, field: str) -> BlobStore:
        """Raises as `readable`, InvalidRequest, and FailedPrecondition (STORE_READ_ONLY)."""
        store = self.readable(checks.project_id(project_id), place, field)
        self._require_writable(place, field, "is not to be changed")
        return store

    async def list_objects(
        self, project_id: str, bucket: str, prefix: str, after: str, limit: int
    ) -> list[StoredBlob]:
        """At most ``limit`` objects whose names begin with ``prefix`` and come after ``after``, by name.

        Raises InvalidRequest, NotFound (BUCKET_NOT_FOUND), Unavailable.
        """
        found = self._find(project_id, bucket_name("bucket", bucket), "bucket")
        store = ready_store(found.opened, "bucket", found.name)
        objects: list[StoredBlob] = []
        async for stored in store.list(prefix, after):
            objects.append(stored)
            if len(objects) == limit:
                break
        return objects

    def _find(self, project_id: str, name: str, field: str) -> Bucket:
        bucket = self._by_name.get(name)
        if bucket is None or not bucket.is_for(project_id):
            raise NotFound(
                f"there is no bucket {name!r} for project {project_id}",
                reason="BUCKET_NOT_FOUND",
                field=field,
                hint="`imsctl bucket list` shows the buckets of the project; an operator configures them",
            )
        return bucket

    def _require_writable(self, place: ObjectPlace, field: str, why: str) -> None:
        if self._by_name[place.bucket].is_read_only:
            raise FailedPrecondition(
                f"the bucket {place.bucket!r} {why}",
                reason="STORE_READ_ONLY",
                field=field,
                hint="choose another bucket: `imsctl bucket list` shows them",
            )

    def _require_suited(self, bucket: Bucket, field: str) -> None:
        if bucket.region != self._region:
            raise FailedPrecondition(
                f"the bucket {bucket.name!r} lies in region {bucket.region}, images are in {self._region}",
                reason="BUCKET_UNSUITED",
                field=field,
                hint="choose a bucket of the region of the images",
            )
        if bucket.storage_class != STANDARD:
            raise FailedPrecondition(
                f"the bucket {bucket.name!r} is of the class {bucket.storage_class}, not {STANDARD}",
                reason="BUCKET_UNSUITED",
                field=field,
                hint="choose a bucket of the standard class",
            )


class BucketPages:
    """Objects page by page."""

    def __init__(self, buckets: Buckets, tokens: PageTokens) -> None:
        self._buckets = buckets
        self._tokens = tokens

    async def page(
        self, project_id: str, bucket: str, prefix: str, page_size: int, page_token: str
    ) -> tuple[Sequence[StoredBlob], str]:
        """A page of objects and the token of the next one, empty on the last page."""
        project_id, limit = checks.project_id(project_id), checks.page_size(page_size)
        checks.text("prefix", prefix, MAX_OBJECT_NAME)
        query = (project_id, bucket, prefix)
        marker = self._tokens.read(query, page_token)
        after = marker[1] if marker else ""
        found = await self._buckets.list_objects(project_id, bucket, prefix, after, limit + 1)
        is_more = len(found) > limit
        return found[:limit], self._tokens.make(query, ("", found[limit - 1].id)) if is_more else ""


@asynccontextmanager
async def open_buckets(
    registry: PluginRegistry, sections: Mapping[str, Mapping[str, Any]], region: str
) -> AsyncIterator[Buckets]:
    """Open every bucket of ``sections`` (the tables ``[buckets.NAME]``).

    Raises InvalidRequest (INVALID_CONFIGURATION), and what a required bucket raises when it is opened.
    """
    configured = configured_buckets(registry, sections, region)
    async with AsyncExitStack() as stack:
        buckets = [Bucket(each, await open_configured(stack, each.store)) for each in configured]
        yield Buckets(buckets, region)

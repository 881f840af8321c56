"""Where the file of a new image may be fetched from, beside an upload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from imsd.chunks.decode_pool import DecodePool

from .buckets import Buckets
from .feeds import Feed
from .import_roots import ImportRoots, LocalFeed
from .object_feed import ObjectFeed, ObjectReads
from .url_feed import UrlFeed, UrlOpener
from .url_settings import UrlSettings


class SourceKind(StrEnum):
    URL = "url"
    LOCAL_PATH = "local_path"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Source:
    """``value``: the URL, the path, or BUCKET:OBJECT."""

    kind: SourceKind
    value: str

    @classmethod
    def of_job(cls, spec: Mapping[str, Any]) -> Self | None:
        """What a job fetches; None when a client brings the bytes."""
        found = spec.get("source")
        return cls(SourceKind(found["kind"]), str(found["value"])) if found else None

    def to_spec(self) -> Mapping[str, str]:
        return {"kind": self.kind.value, "value": self.value}


class Sources:
    """Close it at the end."""

    def __init__(
        self, urls: UrlSettings, roots: ImportRoots, buckets: Buckets, pool: DecodePool, part_bytes: int
    ) -> None:
        self._urls = UrlOpener(urls)
        self._roots = roots
        self._objects = ObjectReads(buckets)
        self._pool = pool
        self._part_bytes = part_bytes

    def feed(self, project_id: str, source: Source) -> Feed:
        """What ``source`` names to a project, judged but not opened.

        Raises InvalidRequest (also URL_REFUSED), FailedPrecondition, PermissionDenied, NotFound, Unavailable.
        """
        if source.kind is SourceKind.URL:
            return UrlFeed(self._urls, source.value)
        if source.kind is SourceKind.OBJECT:
            return ObjectFeed(self._objects, project_id, source.value)
        return LocalFeed(self._roots.of_project(project_id), source.value, self._pool, self._part_bytes)

    async def close(self) -> None:
        await self._urls.close()

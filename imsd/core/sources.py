"""Where the file of a new image may be fetched from, beside an upload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from imsd.chunks.decode_pool import DecodePool

from .feeds import Feed
from .import_roots import ImportRoots, LocalFeed
from .url_settings import UrlSettings

if TYPE_CHECKING:
    from .url_client import UrlClient


class SourceKind(StrEnum):
    URL = "url"
    LOCAL_PATH = "local_path"


@dataclass(frozen=True, slots=True)
class Source:
    """``value``: the URL, or the path."""

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

    def __init__(self, urls: UrlSettings, roots: ImportRoots, pool: DecodePool, part_bytes: int) -> None:
        self._urls = urls
        self._roots = roots
        self._pool = pool
        self._part_bytes = part_bytes
        self._client: UrlClient | None = None

    def feed(self, source: Source) -> Feed:
        """What ``source`` names, judged but not opened.

        Raises InvalidRequest (also URL_REFUSED), FailedPrecondition, PermissionDenied.
        """
        if source.kind is not SourceKind.URL:
            return LocalFeed(self._roots, source.value, self._pool, self._part_bytes)
        # Loaded for the first URL: aiohttp takes 14 MiB and a seventh of a second.
        from .url_client import new_url_client
        from .url_feed import UrlFeed

        if self._client is None:
            self._client = new_url_client(self._urls)
        return UrlFeed(self._client, source.value)

    async def close(self) -> None:
        if self._client:
            await self._client.close()

"""A file of the web as a feed. What fetches it is loaded when the first one is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from imsd.contract import run_blocking

from .feeds import Feed, OpenedFeed
from .limits import MAX_FILE_NAME
from .url_policy import CheckedUrl
from .url_settings import UrlSettings

if TYPE_CHECKING:
    from .url_client import UrlClient


class UrlOpener:
    """Opens what URLs name, all with one client. Close it at the end."""

    def __init__(self, settings: UrlSettings) -> None:
        self.policy = settings.policy
        self._settings = settings
        self._client: UrlClient | None = None

    @asynccontextmanager
    async def open(self, url: CheckedUrl, offset: int) -> AsyncIterator[OpenedFeed]:
        """Raises `ImsError`."""
        # aiohttp takes 14 MiB and a seventh of a second, in which a thread lets the loop go on.
        await run_blocking(import_module, "imsd.core.opened_url")
        from .opened_url import open_url
        from .url_client import new_url_client

        if self._client is None:
            self._client = new_url_client(self._settings)
        async with open_url(self._client, url, offset) as opened:
            yield opened

    async def close(self) -> None:
        if self._client:
            await self._client.close()


class UrlFeed(Feed):
    """What ``url`` names."""

    def __init__(self, opener: UrlOpener, url: str) -> None:
        """Raises InvalidRequest (URL_REFUSED)."""
        self._opener = opener
        self._url = opener.policy.check(url)
        self.name = self._url.path.rpartition("/")[2][-MAX_FILE_NAME:]

    @asynccontextmanager
    async def open(self, offset: int) -> AsyncIterator[OpenedFeed]:
        """Holds one of the places for connections."""
        async with self._opener.open(self._url, offset) as opened:
            yield opened

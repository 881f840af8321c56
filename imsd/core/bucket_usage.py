"""How much lies in the buckets of projects, looked at once in an hour: seed, chapter 7, "OBS storage".

Only of a bucket that one project alone may use: all that lies there is that project's, whoever put it there.
Whose an object is in a bucket of several projects, nothing tells: files come from other programs too, and
what was exported may have been replaced since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import structlog

from imsd.contract import BlobStore, ImsError
from imsd.metadata import usage as usage_rows
from imsd.metadata.usage import UsageRecord

from .buckets import Buckets
from .runtime import Runtime
from .usage import BUCKET_BYTE_HOURS, LOOK_SECONDS, hour_of

log = structlog.get_logger(__name__)

# A bucket whose list takes longer is given up, and asked again by the next look.
LIST_SECONDS: Final = 1800.0

# Of all projects; more wait.
LISTS_AT_ONCE: Final = 4


class BucketUsage:
    def __init__(self, runtime: Runtime, buckets: Buckets) -> None:
        self._runtime = runtime
        self._buckets = buckets
        # By bucket: the hour in which it was looked at last, and what was there.
        self._seen: dict[str, tuple[datetime, int]] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now, and every `LOOK_SECONDS` at what was not seen in the hour yet."""
        self._looking = asyncio.create_task(self._look_forever(), name="usage of buckets")

    async def stop(self) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def look(self) -> None:
        """Record for each project what lies in its own buckets, those that cannot be listed left out.

        Each is recorded as soon as its buckets are listed. Raises what the first that is not recorded met,
        once all others are.
        """
        own: dict[str, dict[str, BlobStore]] = {}
        for project_id, name, store in self._buckets.of_one_project():
            own.setdefault(project_id, {})[name] = store
        places = asyncio.Semaphore(LISTS_AT_ONCE)
        looks = [self._look_at(project_id, stores, places) for project_id, stores in own.items()]
        for failure in await asyncio.gather(*looks, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _look_at(
        self, project_id: str, stores: Mapping[str, BlobStore], places: asyncio.Semaphore
    ) -> None:
        before = hour_of(self._runtime.clock())
        unseen = [name for name in stores if self._seen.get(name, (None, 0))[0] != before]
        sizes = await asyncio.gather(*(self._size_of(name, stores[name], places) for name in unseen))
        hour = hour_of(self._runtime.clock())  # a list may take longer than what is left of one
        listed = zip(unseen, sizes, strict=True)
        self._seen |= {name: (hour, size) for name, size in listed if size is not None}
        seen = [self._seen[name] for name in stores if name in self._seen]
        if quantity := sum(size for seen_in, size in seen if seen_in == hour):
            record = UsageRecord(
                project_id=project_id, hour=hour, resource=BUCKET_BYTE_HOURS, quantity=quantity
            )
            async with self._runtime.database.transaction() as c:
                await usage_rows.raise_usage(c, [record])

    async def _size_of(self, name: str, store: BlobStore, places: asyncio.Semaphore) -> int | None:
        """None: it cannot be listed, whatever its plugin says or does."""
        size = 0
        async with places:
            try:
                async with asyncio.timeout(LIST_SECONDS):
                    async for stored in store.list():
                        size += stored.size_bytes
            except (ImsError, TimeoutError) as error:
                log.warning(
                    "a bucket is not counted", bucket=name, error=str(error) or "its list takes too long"
                )
                return None
            except Exception:
                log.exception("a bucket is not counted", bucket=name)
                return None
        return size

    async def _look_forever(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # the next look makes up for it
                log.exception("usage of buckets could not be recorded")
            await asyncio.sleep(LOOK_SECONDS)

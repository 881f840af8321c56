"""How much lies in the buckets of projects, looked at once in an hour: seed, chapter 7, "OBS storage".

Only of a bucket that one project alone may use: all that lies there is that project's, whoever put it there.
Whose an object is in a bucket of several projects, nothing tells: files come from other programs too, and
what was exported may have been replaced since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
        """Record for each project what lies in its own buckets, those that cannot be listed left out."""
        hour = hour_of(self._runtime.clock())
        found: dict[str, int] = {}
        for project_id, name, store in self._buckets.of_one_project():
            if self._seen.get(name, (None, 0))[0] != hour:
                await self._list(name, store, hour)
            seen_in, size = self._seen.get(name, (None, 0))
            if seen_in == hour and size:
                found[project_id] = found.get(project_id, 0) + size
        async with self._runtime.database.transaction() as c:
            await usage_rows.raise_usage(c, _records(hour, found))

    async def _list(self, name: str, store: BlobStore, hour: datetime) -> None:
        size = 0
        try:
            async with asyncio.timeout(LIST_SECONDS):
                async for stored in store.list():
                    size += stored.size_bytes
        except (ImsError, TimeoutError) as error:
            log.warning("a bucket is not counted", bucket=name, error=str(error) or "its list takes too long")
            return
        self._seen[name] = (hour, size)

    async def _look_forever(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # the next look makes up for it
                log.exception("usage of buckets could not be recorded")
            await asyncio.sleep(LOOK_SECONDS)


def _records(hour: datetime, found: dict[str, int]) -> Sequence[UsageRecord]:
    return [
        UsageRecord(project_id=project_id, hour=hour, resource=BUCKET_BYTE_HOURS, quantity=size)
        for project_id, size in found.items()
    ]

"""What projects used, in records of an hour: what an operator can bill for (seed, chapter 7).

Two kinds: what flows is added in the transaction that ends it, so that it counts once whatever crashes; what
lies in a store is looked at every few minutes, and an hour has the most that was seen in it, so that looking
twice, or by two daemons, changes nothing. An hour in which no daemon ran has no record of what lay there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.metadata import usage as usage_rows
from imsd.metadata.usage import UsageRecord

from . import checks
from .caller import EVERY_PROJECT
from .runtime import Runtime

log = structlog.get_logger(__name__)

IMAGE_HOURS: Final = "image_hours"
IMAGE_BYTE_HOURS: Final = "image_byte_hours"
PACK_BYTE_HOURS: Final = "pack_byte_hours"
STAGED_BYTE_HOURS: Final = "staged_byte_hours"
BUCKET_BYTE_HOURS: Final = "bucket_byte_hours"
IMPORT_BYTES: Final = "import_bytes"
EXPORT_BYTES: Final = "export_bytes"
DOWNLOAD_BYTES: Final = "download_bytes"

# What is recorded, and what it means.
RESOURCES: Final[Mapping[str, str]] = {
    IMAGE_HOURS: "images, public ones and those being made included",
    IMAGE_BYTE_HOURS: "bytes that images take in the store, each counted on its own",
    PACK_BYTE_HOURS: "bytes of the packs that hold images, each pack once: what the images cost the store",
    STAGED_BYTE_HOURS: "bytes that uploads hold in the store",
    BUCKET_BYTE_HOURS: "bytes of the objects in buckets that the project alone may use",
    IMPORT_BYTES: "bytes of files that became images",
    EXPORT_BYTES: "bytes of files that were exported to buckets",
    DOWNLOAD_BYTES: "bytes that were sent by downloads, compressed if they travelled so, runs of zeros not",
}

HOUR: Final = timedelta(hours=1)

_LAST_HOUR: Final = datetime(9999, 12, 31, 22, tzinfo=UTC)

# How often what lies in the stores is looked at.
LOOK_SECONDS: Final = 300.0


def hour_of(time: datetime) -> datetime:
    """The begin of the hour of ``time``, UTC."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


async def count(c: AsyncConnection, runtime: Runtime, project_id: str, resource: str, quantity: int) -> None:
    """Add what flowed, in the transaction that ends it."""
    if quantity:
        await usage_rows.add_usage(
            c,
            UsageRecord(
                project_id=project_id, hour=hour_of(runtime.clock()), resource=resource, quantity=quantity
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Hours from ``begin`` to before ``end``; ``project_id`` None: of all projects.

    ``asked``: the hours as they were asked for. Of the last 24 the others come an hour later, but a list that
    was begun goes on.
    """

    project_id: str | None
    begin: datetime
    end: datetime
    asked: tuple[datetime | None, datetime | None]


class Usage:
    """Looks, forgets and lists."""

    def __init__(self, runtime: Runtime, retention: timedelta) -> None:
        self._runtime = runtime
        self._retention = retention
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now, and every `LOOK_SECONDS`."""
        self._looking = asyncio.create_task(self._look_forever(), name="usage")

    async def stop(self) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def look(self) -> None:
        """Record what lies in the stores now, and forget records that are old."""
        hour = hour_of(self._runtime.clock())
        async with self._runtime.database.reading() as c:
            found = [*await _lying(c, hour)]
        async with self._runtime.database.transaction() as c:
            await usage_rows.raise_usage(c, found)
            await usage_rows.forget_usage(c, hour - self._retention)

    async def list(
        self, query: UsageQuery, page_size: int, page_token: str
    ) -> tuple[Sequence[UsageRecord], str]:
        """A page of records and the token of the next one. Raises InvalidRequest."""
        limit = checks.page_size(page_size)
        named = ("usage", query.project_id, query.asked)
        marker = self._runtime.tokens.read(named, page_token)
        after, begin = None, query.begin
        if marker is not None:
            hour, name = marker
            assert isinstance(hour, datetime), "it was made below"
            project, _, resource = name.partition("/")
            after, begin = (hour, project, resource), min(begin, hour)
        async with self._runtime.database.reading() as c:
            found = await usage_rows.list_usage(c, query.project_id, begin, query.end, limit + 1, after)
        token = ""
        if len(found) > limit:
            last = found[limit - 1]
            token = self._runtime.tokens.make(named, (last.hour, f"{last.project_id}/{last.resource}"))
        return found[:limit], token

    def query(self, project_id: str, begin: datetime | None, end: datetime | None) -> UsageQuery:
        """Whole hours; unset: the last 24 hours. Raises InvalidRequest."""
        now, asked = self._runtime.clock(), (begin, end)
        begin = hour_of(begin or now - 24 * HOUR)
        end = _next_hour(end or now)
        if begin >= end:
            checks.refuse("to_time", "to_time is not after from_time")
        is_every = project_id == EVERY_PROJECT
        return UsageQuery(
            project_id=None if is_every else checks.project_id(project_id),
            begin=begin,
            end=end,
            asked=asked,
        )

    async def _look_forever(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # the next look makes up for it
                log.exception("usage could not be recorded")
            await asyncio.sleep(LOOK_SECONDS)


def _next_hour(time: datetime) -> datetime:
    begin = hour_of(time)
    return begin if begin == time else min(begin, _LAST_HOUR) + HOUR


async def _lying(c: AsyncConnection, hour: datetime) -> Iterator[UsageRecord]:
    images = await usage_rows.images_now(c)
    found = {
        IMAGE_HOURS: {project: count for project, (count, _) in images.items()},
        IMAGE_BYTE_HOURS: {project: size for project, (_, size) in images.items()},
        STAGED_BYTE_HOURS: await usage_rows.staged_now(c),
    }
    # Every pack of every image: that is looked at once in an hour.
    if not await usage_rows.has_usage(c, hour, PACK_BYTE_HOURS):
        found[PACK_BYTE_HOURS] = await usage_rows.packs_now(c)
    return (
        UsageRecord(project_id=project, hour=hour, resource=resource, quantity=quantity)
        for resource, quantities in found.items()
        for project, quantity in quantities.items()
        if quantity
    )

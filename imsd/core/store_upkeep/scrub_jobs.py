"""Scrubs of stores: starting them, when asked and when due; what they found, for a caller that may see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.core import checks
from imsd.core.access import SEE, Access, Target
from imsd.core.caller import Caller
from imsd.core.dispatcher import Dispatcher
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import jobs as job_rows
from imsd.metadata import scrubs
from imsd.metadata.scrubs import AffectedImage, DamageRecord, ScrubRecord

from .store_jobs import AGAIN_AFTER, SCRUB, StoreJobs

# Of what is asked for; the configuration says how fast scrubs are otherwise.
MAX_RATE = 1 << 40


@dataclass(frozen=True, slots=True)
class ScrubSettings:
    """``interval``: between two scrubs of a store, zero: only if asked; ``bytes_per_second`` 0: no limit."""

    interval: timedelta
    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class NewScrub:
    """``is_anew``: from the start, although an earlier one was broken off; ``bytes_per_second`` None: as
    configured."""

    store: str
    bytes_per_second: int | None = None
    is_anew: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged blob, and the images that need it: those that the caller may see, and how many others."""

    record: DamageRecord
    images: Sequence[AffectedImage]
    hidden_images: int


class ScrubJobs:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, settings: ScrubSettings) -> None:
        self._runtime = runtime
        self._jobs = StoreJobs(runtime, dispatcher, SCRUB)
        self._settings = settings

    async def start(self, key: RequestKey, new: NewScrub) -> str:
        """Start a SCRUB_STORE job and return its id; the first one's when ``key`` was used before.

        Raises InvalidRequest, Unavailable (DRIVER_NOT_READY), FailedPrecondition (SCRUB_RUNNING).
        """
        rate = self._settings.bytes_per_second if new.bytes_per_second is None else new.bytes_per_second
        checks.number("bytes_per_second", rate, 0, MAX_RATE)
        return await self._jobs.start(key, new.store, bytes_per_second=rate, is_anew=new.is_anew)

    async def start_if_due(self, store_name: str) -> None:
        """Start a scrub when the last one is long enough ago; one that was broken off goes on then."""
        if not self._settings.interval:
            return
        async with self._runtime.database.transaction() as c:
            if await self._is_due(c, store_name):
                rate = self._settings.bytes_per_second
                await self._jobs.start_alone(c, store_name, bytes_per_second=rate, is_anew=False)

    async def _is_due(self, c: AsyncConnection, store_name: str) -> bool:
        """Somebody may have cancelled the last job, and what made it fail may last."""
        record = await scrubs.get_scrub(c, store_name)
        if record is None:
            return True
        interval, now = self._settings.interval, self._runtime.clock()
        if now - (record.finished_at or record.started_at) < interval:
            return False
        ended_at = await job_rows.ended_at(c, record.job_id)
        return ended_at is None or now - ended_at >= min(interval, AGAIN_AFTER)

    async def last(self, store_name: str) -> ScrubRecord | None:
        """The scrub of a store that runs or was broken off, and what the last whole one found."""
        async with self._runtime.database.reading() as c:
            record = await scrubs.get_scrub(c, store_name)
            if record is None or record.finished_at:
                return record
            damaged, affected = await scrubs.damage_counts(c, store_name, record.started_at)
        found = {"damaged_blobs": damaged, "affected_images": affected}
        return replace(record, report={**record.report, **found})

    async def damage(
        self, access: Access, caller: Caller, store_name: str, page_size: int, page_token: str
    ) -> tuple[Sequence[Damage], str]:
        """A page of what scrubs of a store found, and the token of the next one. Raises InvalidRequest."""
        limit = checks.page_size(page_size)
        named = ("scrub damage", store_name)
        marker = self._runtime.tokens.read(named, page_token)
        after = (str(marker[0]), marker[1]) if marker else None
        async with self._runtime.database.reading() as c:
            records = await scrubs.list_damage(c, store_name, after, limit + 1)
            images = await scrubs.images_of(c, {record.manifest_id for record in records[:limit]})
        token = ""
        if len(records) > limit:
            last = records[limit - 1]
            token = self._runtime.tokens.make(named, (last.blob, last.manifest_id))
        found = []
        for record in records[:limit]:
            needing = images.get(record.manifest_id, [])
            seen = [each for each in needing if await _may_see(access, caller, each)]
            found.append(Damage(record, seen, len(needing) - len(seen)))
        return found, token


async def _may_see(access: Access, caller: Caller, image: AffectedImage) -> bool:
    target = Target(project_id=image.project_id, image_ids=(image.id,))
    return all(answer.decision.is_allowed for answer in await access.ask(caller, SEE, target))

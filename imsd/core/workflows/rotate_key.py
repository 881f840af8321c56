"""Rotate a key: a new version of it, and the data key of every image under it wrapped anew by that.

The story: unless an earlier run did so, the key service makes the new version; then the data keys that an
older one wraps are taken by the hundred, wrapped anew and recorded. No byte of an image is read. A run that
begins again goes on with those which are left; who reads or writes meanwhile finds a data key wrapped the old
way or the new one, and both are good.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import DATA_KEY_BYTES, DataLoss, ImsError, KeyService, NotFound
from imsd.core.job_run import JobRun, Workflow
from imsd.core.keys.data_keys import context_of
from imsd.core.keys.project_keys import ProjectKeys
from imsd.metadata import keys as key_rows
from imsd.metadata.keys import DataKeyRecord, KeyRecord

# Data keys that one transaction records.
BATCH = 100


class RotateKey(Workflow):
    def __init__(self, keys: ProjectKeys) -> None:
        self._keys = keys

    async def run(self, run: JobRun) -> None:
        key = await _key(run)
        service = run.runtime.keys.get(key.key_service)
        described = await service.describe(key.id)
        if described.version < int(run.record.spec["version"]):
            described = await service.rotate(key.id)
        key = await self._keys.note(key, described)
        count = await _wrap_all(run, service, key)
        result = {"key_id": key.id, "version": key.version, "image_count": count}
        async with run.runtime.database.transaction() as c:
            await run.succeed(c, result)

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        return None


async def _key(run: JobRun) -> KeyRecord:
    async with run.runtime.database.reading() as c:
        key = await key_rows.get_key(c, str(run.record.spec["key_id"]))
    if key is None:
        raise NotFound("the key of this job is gone", reason="KEY_NOT_FOUND")
    return key


async def _wrap_all(run: JobRun, service: KeyService, key: KeyRecord) -> int:
    """Wrap all data keys by the newest version; returns how many. Raises DataLoss when some cannot be."""
    async with run.runtime.database.reading() as c:
        left = await key_rows.older_data_key_count(c, key.id, key.version)
    run.enter("wrap", left * DATA_KEY_BYTES, (0.0, 100.0))
    done, after, faults = 0, "", list[ImsError]()
    while True:
        async with run.runtime.database.reading() as c:
            batch = await key_rows.older_data_keys(c, key.id, key.version, BATCH, after)
        if not batch:
            break
        done += await _wrap_batch(run, service, key, batch, faults)
        after = batch[-1].image_id
        run.advance(done * DATA_KEY_BYTES)
    if faults:
        raise DataLoss(
            f"{len(faults)} data keys under the key {key.name!r} cannot be unwrapped: {faults[0].message}",
            reason=faults[0].reason,
            hint="their images cannot be read; restore the database or the key service from a backup",
        )
    return done


async def _wrap_batch(
    run: JobRun, service: KeyService, key: KeyRecord, batch: Sequence[DataKeyRecord], faults: list[ImsError]
) -> int:
    wrapped: list[tuple[DataKeyRecord, bytes]] = []
    for record in batch:
        try:
            wrapped.append((record, await _wrap(service, key.id, record)))
        except DataLoss as error:  # of this one: the others are wrapped all the same
            faults.append(error)
    now = run.runtime.clock()
    async with run.runtime.database.transaction() as c:
        await run.require_fence(c)
        for record, anew in wrapped:
            await key_rows.replace_wrapped(c, record, anew, key.version, now)
    return len(wrapped)


async def _wrap(service: KeyService, key_id: str, record: DataKeyRecord) -> bytes:
    context = context_of(record.image_id)
    if service.capabilities.rewrap:
        return await service.rewrap(key_id, record.wrapped, context)
    return await service.wrap(key_id, await service.unwrap(key_id, record.wrapped, context), context)

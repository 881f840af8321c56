"""Keys as a caller sees them: made, shown, listed, changed, enabled, disabled, rotated, deleted.

The state of a key is that of its key service; what the database has is what was last heard of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from imsd.contract import AlreadyExists, FailedPrecondition, ImsError, KeyDescription, KeyState, NotFound
from imsd.core import checks, requests
from imsd.core.dispatcher import Dispatcher
from imsd.core.limits import MAX_PAGE
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import jobs as job_rows
from imsd.metadata import keys as key_rows
from imsd.metadata.keys import KeyRecord, KeyStatus
from imsd.metadata.records import JobKind, JobRecord, JobState

from .key_names import DEFAULT_KEY, new_name, pending_time
from .project_keys import MAKING_TIME, NewKey, ProjectKeys, pending_deletion, require_enabled

log = structlog.get_logger(__name__)

# A key service that does not describe a key so long is told of as one that does not answer.
DESCRIBE_SECONDS: Final = 5.0

# Deleted keys that one round looks after.
DUE_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key, and how many images and uploads there are under it; ``problem``: why its state is an old one."""

    record: KeyRecord
    image_count: int
    problem: str = ""


class Keys:
    def __init__(self, runtime: Runtime, keys: ProjectKeys, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._keys = keys
        self._dispatcher = dispatcher

    async def create(self, key: RequestKey, new: NewKey) -> KeyView:
        """Raises as `ProjectKeys.create`."""
        return await self._view(await self._keys.create(key, new))

    async def get(self, project_id: str, named: str) -> KeyView:
        """Raises InvalidRequest, NotFound (KEY_NOT_FOUND)."""
        record = await self._keys.find(project_id, named)
        if record.state is KeyStatus.DELETED:
            return await self._view(record)
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                described = await self._runtime.keys.get(record.key_service).describe(record.id)
        except TimeoutError:
            return await self._view(record, f"{record.key_service!r} does not answer")
        except ImsError as error:
            return await self._view(record, error.message)
        return await self._view(await self._keys.note(record, described))

    async def list(
        self, project_id: str, states: Collection[KeyStatus], page_size: int, page_token: str
    ) -> tuple[Sequence[KeyView], str]:
        """A page of keys, newest first, and the token of the next one. Raises InvalidRequest."""
        limit, project_id = checks.page_size(page_size), checks.project_id(project_id)
        query = ("keys", project_id, tuple(states))
        after = self._runtime.tokens.read(query, page_token)
        async with self._runtime.database.reading() as c:
            found = await key_rows.list_keys(c, project_id, states, limit + 1, after)
            uses = await key_rows.uses_of(c, [each.id for each in found])
        token = ""
        if len(found) > limit:
            last = found[limit - 1]
            token = self._runtime.tokens.make(query, (last.created_at, last.id))
        return [KeyView(each, uses.get(each.id, 0)) for each in found[:limit]], token

    async def update(self, project_id: str, named: str, name: str | None, description: str | None) -> KeyView:
        """None: it stays as it is. Raises InvalidRequest, NotFound (KEY_NOT_FOUND), AlreadyExists."""
        record = await self._keys.find(project_id, named)
        values: dict[str, object] = {}
        if description is not None:
            values["description"] = checks.description(description)
        async with self._runtime.database.transaction() as c:
            if name is not None and name != record.name:
                values["name"] = _other_name(record, name)
                if await key_rows.is_name_taken(c, record.project_id, name, but=record.id):
                    raise AlreadyExists(f"there is a key {name!r} already", field="name")
            if values:
                values["updated_at"] = self._runtime.clock()
                record = await key_rows.update_key(c, record.id, values) or record
        return await self._view(record)

    async def enable(self, project_id: str, named: str) -> KeyView:
        """Raises InvalidRequest, NotFound, FailedPrecondition (KEY_PENDING_DELETION), of the key service."""
        return await self._set_state(await self._changeable(project_id, named), KeyState.ENABLED)

    async def disable(self, project_id: str, named: str) -> KeyView:
        """As `enable`; what this daemon remembers of data keys under it is forgotten."""
        return await self._set_state(await self._changeable(project_id, named), KeyState.DISABLED)

    async def cancel_deletion(self, project_id: str, named: str) -> KeyView:
        """The key is disabled then. Raises as `enable`, and FailedPrecondition if none is scheduled."""
        record = await self._keys.find(project_id, named)
        if record.state is not KeyStatus.PENDING_DELETION:
            raise FailedPrecondition(
                f"no deletion of the key {record.name!r} is scheduled: it is {record.state}", field="key_id"
            )
        return await self._set_state(record, KeyState.DISABLED)

    async def schedule_deletion(self, project_id: str, named: str, pending_days: int) -> KeyView:
        """Raises as `enable`, and FailedPrecondition (KEY_OPERATION_UNSUPPORTED)."""
        pending = pending_time(pending_days)
        record = await self._changeable(project_id, named)
        service = self._runtime.keys.get(record.key_service)
        if not service.capabilities.schedule_deletion:
            raise _unsupported(record, "delete keys", "delete it where it is kept")
        at = self._runtime.clock() + pending
        try:
            described = await service.schedule_deletion(record.id, at)
        except NotFound:  # it is gone there, and so is its row then, if it is not back: from a backup, say
            described = KeyDescription(
                record.id, KeyState.PENDING_DELETION, record.version, record.created_at, at
            )
        finally:
            self._runtime.data_keys.forget(record.id)
        return await self._view(await self._keys.note(record, described))

    async def rotate(self, key: RequestKey, named: str) -> str:
        """Start a ROTATE_KEY job and return its id; that of the one which rotates the key already.

        Raises InvalidRequest, NotFound, FailedPrecondition (KEY_DISABLED, KEY_PENDING_DELETION,
        KEY_OPERATION_UNSUPPORTED), Unavailable (DRIVER_NOT_READY), of the key service.
        """
        record = await self._keys.find(key.project_id, named)
        require_enabled(record)
        service = self._runtime.keys.get(record.key_service)
        if not service.capabilities.rotate:
            raise _unsupported(record, "rotate keys", "copy its images under another key")
        # As it is now: a version that was made in the key service before is not the one that is asked for.
        record = await self._keys.note(record, await service.describe(record.id))
        require_enabled(record)
        job = JobRecord(
            id=self._runtime.new_id(),
            project_id=key.project_id,
            kind=JobKind.ROTATE_KEY,
            state=JobState.INIT,
            spec={"key_id": record.id, "version": record.version + 1},
            created_at=self._runtime.clock(),
        )
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            query = job_rows.JobQuery(
                project_id=key.project_id,
                states=(JobState.INIT, JobState.RUNNING),
                kinds=(JobKind.ROTATE_KEY,),
            )
            running = await job_rows.list_jobs(c, query, MAX_PAGE, None)
            for other in running:
                if other.spec["key_id"] == record.id:
                    await requests.remember(c, self._runtime, key, other.id)
                    return other.id
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def look_after(self) -> None:
        """Forget what a crash left and what was remembered for long; note which keys are deleted by now."""
        self._runtime.data_keys.forget_old()
        now = self._runtime.clock()
        async with self._runtime.database.transaction() as c:
            await key_rows.forget_unmade_keys(c, now - MAKING_TIME)
            await key_rows.forget_deleted_keys(c)
        async with self._runtime.database.reading() as c:
            due = await key_rows.due_keys(c, now, DUE_BATCH)
        for record in due:
            try:
                await self._end(record)
            except ImsError as error:  # of its key service; those of others are not kept waiting
                log.warning("the end of a key is put off", key_id=record.id, reason=error.reason)

    async def _end(self, record: KeyRecord) -> None:
        """The time of a key is over: its key service says whether it is gone."""
        try:
            described = await self._runtime.keys.get(record.key_service).describe(record.id)
        except NotFound:
            values = {"state": KeyStatus.DELETED, "delete_at": None, "updated_at": self._runtime.clock()}
            async with self._runtime.database.transaction() as c:
                await key_rows.update_key(c, record.id, values)
                await key_rows.forget_deleted_keys(c)
            self._runtime.data_keys.forget(record.id)
        else:  # somebody kept it, there and not here
            await self._keys.note(record, described)

    async def _changeable(self, project_id: str, named: str) -> KeyRecord:
        record = await self._keys.find(project_id, named)
        if record.state is KeyStatus.PENDING_DELETION:
            raise pending_deletion(record)
        if record.state is KeyStatus.DELETED:
            require_enabled(record)
        return record

    async def _set_state(self, record: KeyRecord, state: KeyState) -> KeyView:
        try:
            described = await self._runtime.keys.get(record.key_service).set_state(record.id, state)
        finally:  # also when the answer was lost
            self._runtime.data_keys.forget(record.id)
        return await self._view(await self._keys.note(record, described))

    async def _view(self, record: KeyRecord, problem: str = "") -> KeyView:
        async with self._runtime.database.reading() as c:
            uses = await key_rows.uses_of(c, [record.id])
        return KeyView(record, uses.get(record.id, 0), problem)


def _other_name(record: KeyRecord, name: str) -> str:
    """Raises InvalidRequest."""
    if record.name == DEFAULT_KEY:  # by which it is found, and would be made a second time
        checks.refuse("name", f"the key {DEFAULT_KEY} keeps its name", "make another key with CreateKey")
    return new_name(name)


def _unsupported(record: KeyRecord, what: str, hint: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the key service {record.key_service!r} does not {what}",
        reason="KEY_OPERATION_UNSUPPORTED",
        field="key_id",
        hint=hint,
    )

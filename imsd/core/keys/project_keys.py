"""The keys of projects: made in a key service and found again, by their id or their name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import AlreadyExists, FailedPrecondition, ImsError, KeyDescription, KeyService
from imsd.core import checks, quotas, requests
from imsd.core.quota_rules import KEYS
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.metadata import keys as key_rows
from imsd.metadata.keys import KeyRecord, KeyStatus

from .key_names import DEFAULT_KEY, id_or_name, new_name, no_key

# A key that was being made for so long, its maker died of a crash.
MAKING_TIME = timedelta(minutes=10)

# No request of a caller has a space in its id.
_ON_FIRST_USE = f"{DEFAULT_KEY} on first use"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a caller wants of a key; ``key_service`` empty: the default one."""

    name: str
    description: str = ""
    key_service: str = ""


class ProjectKeys:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._making_default = asyncio.Lock()

    async def create(self, key: RequestKey, new: NewKey) -> KeyRecord:
        """Make a key; the first one, when ``key`` was used before.

        Raises InvalidRequest, AlreadyExists, LimitExceeded, FailedPrecondition, NotFound
        (KEY_SERVICE_MISSING), Unavailable, PermissionDenied (KEY_SERVICE_DENIED).
        """
        new_name(new.name)
        return await self._create(key, new)

    async def _create(self, key: RequestKey, new: NewKey) -> KeyRecord:
        checks.description(new.description)
        name = self._runtime.keys.name_for(new.key_service)
        self._runtime.keys.get(name)  # one that is not ready says so now
        async with self._runtime.database.transaction() as c:
            record = await self._begin(c, key, new, name)
        if record.version:
            return record
        try:
            made = await _made(self._runtime.keys.get(record.key_service), record.id)
        except ImsError:
            async with self._runtime.database.transaction() as c:
                await key_rows.delete_key(c, record.id)
            raise
        return await self.note(record, made)

    async def _begin(self, c: AsyncConnection, key: RequestKey, new: NewKey, service: str) -> KeyRecord:
        """The row of the key, before it is made: its id, its name and its place in the quota."""
        earlier = await requests.recall(c, key)
        if earlier and (found := await key_rows.get_key(c, earlier)):
            return found
        if await key_rows.is_name_taken(c, key.project_id, new.name):
            raise _name_taken(key.project_id, new.name)
        await quotas.reserve(c, self._runtime, key.project_id, KEYS)
        now = self._runtime.clock()
        record = KeyRecord(
            id=earlier or self._runtime.new_id(),
            project_id=key.project_id,
            name=new.name,
            description=new.description,
            key_service=service,
            state=KeyStatus.ENABLED,
            created_at=now,
            updated_at=now,
        )
        await key_rows.insert_key(c, record)
        if not earlier:
            await requests.remember(c, self._runtime, key, record.id)
        return record

    async def find(self, project_id: str, named: str, field: str = "key_id") -> KeyRecord:
        """A key by its id or name. Raises InvalidRequest, NotFound (KEY_NOT_FOUND)."""
        project_id = checks.project_id(project_id)
        id_or_name(named, field)
        async with self._runtime.database.reading() as c:
            record = await key_rows.find_key(c, project_id, named)
        if record is None:
            raise no_key(project_id, named, field)
        return record

    async def for_encrypting(self, project_id: str, named: str, field: str = "key") -> KeyRecord:
        """The key that is to encrypt an image; the default one is made if it is not there.

        Raises InvalidRequest, NotFound (KEY_NOT_FOUND), FailedPrecondition (KEY_DISABLED,
        KEY_PENDING_DELETION), and what making the default key raises.
        """
        project_id = checks.project_id(project_id)
        if named == DEFAULT_KEY:
            record = await self._default(project_id)
        else:
            record = await self.find(project_id, named, field)
        require_enabled(record, field)
        return record

    async def _default(self, project_id: str) -> KeyRecord:
        async with self._making_default:
            async with self._runtime.database.reading() as c:
                record = await key_rows.find_key(c, project_id, DEFAULT_KEY)
            if record is not None:
                return record
            new = NewKey(name=DEFAULT_KEY, description="the default key of this project")
            # As if it were asked for by a request: another daemon that makes it meanwhile makes the same.
            return await self._create(RequestKey(project_id, _ON_FIRST_USE, ""), new)

    async def note(self, record: KeyRecord, described: KeyDescription) -> KeyRecord:
        """Keep what a key service says of a key, if that is news."""
        values = {
            "state": KeyStatus(described.state.value),
            "version": described.version,
            "delete_at": described.delete_at,
        }
        if all(getattr(record, name) == value for name, value in values.items()):
            return record
        values["updated_at"] = self._runtime.clock()
        async with self._runtime.database.transaction() as c:
            return await key_rows.update_key(c, record.id, values) or record


async def _made(service: KeyService, key_id: str) -> KeyDescription:
    try:
        return await service.create(key_id)
    except AlreadyExists:  # by an earlier call that nobody heard of
        return await service.describe(key_id)


def require_enabled(record: KeyRecord, field: str = "key_id") -> None:
    """Raises FailedPrecondition (KEY_DISABLED, KEY_PENDING_DELETION), NotFound (KEY_NOT_FOUND)."""
    if record.state is KeyStatus.DISABLED:
        raise FailedPrecondition(
            f"the key {record.name!r} is disabled",
            reason="KEY_DISABLED",
            field=field,
            hint=f"enable it with `imsctl key enable {record.name}`, or use another one",
        )
    if record.state is KeyStatus.PENDING_DELETION:
        raise pending_deletion(record, field)
    if record.state is KeyStatus.DELETED:
        raise no_key(record.project_id, record.name, field)


def pending_deletion(record: KeyRecord, field: str = "key_id") -> FailedPrecondition:
    when = f" at {record.delete_at:%Y-%m-%d %H:%M} UTC" if record.delete_at else ""
    return FailedPrecondition(
        f"the key {record.name!r} will be deleted{when}",
        reason="KEY_PENDING_DELETION",
        field=field,
        hint=f"cancel that with `imsctl key undelete {record.name}`, or use another one",
    )


def _name_taken(project_id: str, name: str) -> AlreadyExists:
    return AlreadyExists(f"project {project_id} has a key {name!r} already", field="name")

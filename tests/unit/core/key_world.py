"""Keys in a key service in memory, whose clock tests can move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from imsd.contract import KeyDescription, Unavailable
from imsd.core.dispatcher import Dispatcher
from imsd.core.job_board import JobBoard
from imsd.core.keys.keys import Keys
from imsd.core.keys.project_keys import NewKey, ProjectKeys
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.workflows.rotate_key import RotateKey
from imsd.metadata import keys as key_rows
from imsd.metadata.database import Database
from imsd.metadata.keys import DataKeyRecord
from imsd.metadata.records import JobKind, JobState
from imsd.testing.memory_keys import MemoryKeys
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of

PROJECT = "lab"


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class CountingKeys(MemoryKeys):
    """Counts what it unwraps; out of reach when told so."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.unwrapped = 0
        self.is_away = False

    async def describe(self, key_id: str) -> KeyDescription:
        self._require()
        return await super().describe(key_id)

    async def create(self, key_id: str) -> KeyDescription:
        self._require()
        return await super().create(key_id)

    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        self._require()
        self.unwrapped += 1
        return await super().unwrap(key_id, wrapped, context)

    def _require(self) -> None:
        if self.is_away:
            raise Unavailable("the key service is out of reach", reason="KEY_SERVICE_UNAVAILABLE")


@dataclass(slots=True)
class KeyWorld:
    runtime: Runtime
    service: CountingKeys
    clock: Clock
    project_keys: ProjectKeys
    keys: Keys
    dispatcher: Dispatcher
    store: MemoryStore = field(repr=False)

    async def create(self, name: str = "payroll", request_id: str = "", project_id: str = PROJECT) -> str:
        key = RequestKey(project_id, request_id, name)
        return (await self.keys.create(key, NewKey(name=name))).record.id

    async def data_key(self, name: str = "payroll") -> DataKeyRecord:
        """That of an image that is yet to be."""
        key = await self.project_keys.for_encrypting(PROJECT, name)
        made = await self.runtime.data_keys.make(key, self.runtime.new_id())
        async with self.runtime.database.transaction() as c:
            await key_rows.insert_data_key(c, made)
        return made

    async def wrapped(self, image_id: str) -> DataKeyRecord | None:
        async with self.runtime.database.reading() as c:
            return await key_rows.get_data_key(c, image_id)


@asynccontextmanager
async def open_key_world(database: Database) -> AsyncIterator[KeyWorld]:
    clock, store = Clock(), MemoryStore()
    service = CountingKeys(clock)
    async with open_runtime(database, pool_of(**{STORE: store}), key_service=service) as runtime:
        runtime = replace(runtime, clock=clock)
        keys = ProjectKeys(runtime)
        dispatcher = Dispatcher(runtime, JobBoard(), {JobKind.ROTATE_KEY: RotateKey(keys)})
        await dispatcher.start()
        try:
            yield KeyWorld(runtime, service, clock, keys, Keys(runtime, keys, dispatcher), dispatcher, store)
        finally:
            await dispatcher.stop(0)


FINAL = frozenset({JobState.SUCCESS, JobState.FAIL, JobState.CANCELLED})

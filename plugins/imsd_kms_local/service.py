"""The key service of a keyring file. Keys are in memory; each change is in the file before it counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from imsd.contract import (
    ImsError,
    InvalidRequest,
    KeyCapabilities,
    KeyDescription,
    KeyService,
    KeyState,
    check_context,
    check_data_key,
    check_key_id,
    check_usable,
    key_exists,
    key_not_found,
    run_blocking,
    settle,
)

from .keyring import Keyring, StoredKey, new_key
from .keyring_file import KeyringFile, opened_keyring
from .options import LocalKeysOptions
from .wrapping import unwrap, wrap

log = logging.getLogger(__name__)

# Deletions are looked at that often, also because clocks are set.
LOOK_SECONDS = 60.0

Change = Callable[[Keyring], StoredKey]


def utc_now() -> datetime:
    return datetime.now(UTC)


class LocalKeys(KeyService):
    capabilities = KeyCapabilities(rotate=True, list=True, schedule_deletion=True, rewrap=True)

    def __init__(self, file: KeyringFile, keys: Keyring, clock: Callable[[], datetime] = utc_now) -> None:
        self._file = file
        self._keys = keys
        self._clock = clock
        self._writing = asyncio.Lock()
        self._deletion = asyncio.Event()

    async def create(self, key_id: str) -> KeyDescription:
        check_key_id(key_id)

        def make(keys: Keyring) -> StoredKey:
            if key_id in keys:
                raise key_exists(key_id)
            return new_key(key_id, self._clock())

        return await self._change(make)

    async def describe(self, key_id: str) -> KeyDescription:
        return self._find(self._keys, key_id).description

    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        check_data_key(data_key)
        check_context(context)
        return wrap(self._usable(self._keys, key_id), data_key, context)

    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        check_context(context)
        return unwrap(self._usable(self._keys, key_id), wrapped, context)

    async def set_state(self, key_id: str, state: KeyState) -> KeyDescription:
        if state is KeyState.PENDING_DELETION:
            raise InvalidRequest("a key is only enabled or disabled", field="state")
        return await self._change(lambda keys: replace(self._find(keys, key_id), state=state, delete_at=None))

    async def rotate(self, key_id: str) -> KeyDescription:
        return await self._change(lambda keys: self._usable(keys, key_id).rotated())

    async def rewrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        return await self.wrap(key_id, await self.unwrap(key_id, wrapped, context), context)

    async def list(self) -> AsyncIterator[KeyDescription]:
        now = self._clock()
        for key_id in sorted(self._keys):
            key = self._keys.get(key_id)
            if key is not None and not key.is_overdue(now):
                yield key.description

    async def schedule_deletion(self, key_id: str, at: datetime) -> KeyDescription:
        pending, delete_at = KeyState.PENDING_DELETION, at.astimezone(UTC)
        told = await self._change(
            lambda keys: replace(self._find(keys, key_id), state=pending, delete_at=delete_at)
        )
        if delete_at <= self._clock():
            await self.erase_overdue_keys()
        self._deletion.set()
        return told

    async def erase_overdue_keys(self) -> None:
        """Write the keyring without the keys whose time is over. Raises what a write raises."""
        await settle(asyncio.create_task(self._erase()))

    async def erase_in_time(self) -> None:
        """For ever. A failure is logged and tried again; until then the key is as good as gone."""
        while True:
            self._deletion.clear()
            times = [key.delete_at for key in self._keys.values() if key.delete_at is not None]
            left = (min(times) - self._clock()).total_seconds() if times else LOOK_SECONDS
            try:
                async with asyncio.timeout(min(max(left, 0.0), LOOK_SECONDS)):
                    await self._deletion.wait()
            except TimeoutError:
                await self._erase_or_wait()

    async def _erase_or_wait(self) -> None:
        try:
            await self.erase_overdue_keys()
        except ImsError as error:
            log.warning("keys that are to be deleted are not erased yet: %s", error.message)
            await asyncio.sleep(LOOK_SECONDS)

    async def _change(self, change: Change) -> KeyDescription:
        """``change`` makes the new form of one key; when this returns it is in the file.

        To its end also when the caller is cancelled: what is in memory is what is in the file.
        """
        return await settle(asyncio.create_task(self._write(change)))

    async def _write(self, change: Change) -> KeyDescription:
        async with self._writing:
            changed = change(self._keys)
            if changed != self._keys.get(changed.id):
                await self._replace({**self._keys, changed.id: changed})
            return changed.description

    async def _erase(self) -> None:
        async with self._writing:
            now = self._clock()
            left = {key.id: key for key in self._keys.values() if not key.is_overdue(now)}
            if len(left) < len(self._keys):
                gone = sorted(self._keys.keys() - left.keys())
                await self._replace(left)
                log.info("erased keys whose time was over: %s", ", ".join(gone))

    async def _replace(self, keys: Keyring) -> None:
        await run_blocking(self._file.write, keys)
        self._keys = keys

    def _usable(self, keys: Keyring, key_id: str) -> StoredKey:
        key = self._find(keys, key_id)
        check_usable(key.description)
        return key

    def _find(self, keys: Keyring, key_id: str) -> StoredKey:
        key = keys.get(key_id)
        if key is None or key.is_overdue(self._clock()):
            raise key_not_found(key_id)
        return key


@asynccontextmanager
async def open_local_keys(options: LocalKeysOptions) -> AsyncIterator[KeyService]:
    """Raises what `opened_keyring` raises."""
    with ExitStack() as undo:

        def open_file() -> tuple[KeyringFile, Keyring]:
            return undo.enter_context(opened_keyring(options.path, options.passphrase()))

        service = LocalKeys(*await run_blocking(open_file))
        await service.erase_overdue_keys()
        erasing = asyncio.create_task(service.erase_in_time(), name="erase keys of a keyring")
        try:
            yield service
        finally:
            erasing.cancel()
            await asyncio.wait([erasing])

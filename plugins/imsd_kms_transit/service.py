"""The key service of a transit engine: states by `records`, and keys erased at their time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from imsd.contract import (
    DataLoss,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    KeyCapabilities,
    KeyDescription,
    KeyService,
    KeyState,
    NotFound,
    Unavailable,
    check_context,
    check_data_key,
    check_key_id,
    check_usable,
    key_exists,
    key_not_found,
    run_blocking,
    settle,
)

from .engine import Engine, NotUsed
from .login import new_login
from .options import TransitOptions
from .records import Marker, TransitKey, counting, seconds_of
from .server import Server, new_session, trust_of

log = logging.getLogger(__name__)

# Deletions are looked at that often; the token is kept alive by it too.
LOOK_SECONDS = 60.0

# How long the start waits for a server that does not answer, in seconds.
OPENING_SECONDS = 5.0

# Keys of a list that are asked for at once.
LIST_WINDOW = 16


def utc_now() -> datetime:
    return datetime.now(UTC)


class TransitKeys(KeyService):
    """Changes of a key happen one after the other here; what other daemons do at the same time, `records`
    makes up for.
    """

    capabilities = KeyCapabilities(rotate=True, list=True, schedule_deletion=True, rewrap=True)

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._deletion = asyncio.Event()

    async def create(self, key_id: str) -> KeyDescription:
        check_key_id(key_id)
        return await self._change(key_id, self._create)

    async def describe(self, key_id: str) -> KeyDescription:
        key, marker = await self._find(key_id)
        return key.described(marker)

    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        check_data_key(data_key)
        check_context(context)
        while True:
            version = (await self._usable(key_id)).newest_version
            wrapped = await self._engine.encrypt(key_id, version, data_key, context)
            if wrapped is not None:
                return wrapped
            # It was disabled meanwhile, and may be enabled again: look.

    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        check_context(context)
        try:
            return await self._engine.decrypt(key_id, wrapped, context)
        except (NotUsed, DataLoss) as error:
            await self._explain(key_id, error)
            raise

    async def set_state(self, key_id: str, state: KeyState) -> KeyDescription:
        if state is KeyState.PENDING_DELETION:
            raise InvalidRequest("a key is only enabled or disabled", field="state")
        return await self._change(key_id, self._enable if state is KeyState.ENABLED else self._disable)

    async def rotate(self, key_id: str) -> KeyDescription:
        return await self._change(key_id, self._rotate)

    async def rewrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        check_context(context)
        # By the version that is the newest now: not by one that another daemon makes to disable the key.
        version = (await self._usable(key_id)).newest_version
        try:
            return await self._engine.rewrap(key_id, version, wrapped, context)
        except (NotUsed, DataLoss) as error:
            await self._explain(key_id, error)
            raise

    async def list(self) -> AsyncIterator[KeyDescription]:
        ids, markers = await self._engine.names()
        names = sorted(ids)
        for start in range(0, len(names), LIST_WINDOW):
            window = names[start : start + LIST_WINDOW]
            calls = [self._described_or_gone(key_id, markers.get(key_id)) for key_id in window]
            for told in await asyncio.gather(*calls):
                if told is not None:
                    yield told

    async def schedule_deletion(self, key_id: str, at: datetime) -> KeyDescription:
        told = await self._change(key_id, lambda key_id: self._close(key_id, seconds_of(at)))
        if told.delete_at is not None and told.delete_at <= self._clock():
            await self._change(key_id, self._erase)
        self._deletion.set()
        return told

    async def erase_overdue_keys(self) -> float:
        """Erase keys whose time is over, and markers without a key; the seconds until the next time."""
        ids, markers = await self._engine.names()
        now = self._clock()
        for key_id, found in markers.items():
            if key_id not in ids:
                await self._unmark(found)
            elif any(marker.is_overdue(now) for marker in found):
                await self._change(key_id, self._erase)
        times = [marker.delete_at for found in markers.values() for marker in found if marker.delete_at]
        left = min((at - now.timestamp() for at in times if at > now.timestamp()), default=LOOK_SECONDS)
        return min(left, LOOK_SECONDS)

    async def erase_in_time(self) -> None:
        """For ever. A failure is logged and tried again; until then the key is as good as gone."""
        while True:
            self._deletion.clear()
            try:
                seconds = await self.erase_overdue_keys()
            except ImsError as error:
                log.warning("keys that are to be deleted cannot be looked at: %s", error.message)
                seconds = LOOK_SECONDS
            try:
                async with asyncio.timeout(seconds):
                    await self._deletion.wait()
            except TimeoutError:
                continue

    async def _described_or_gone(
        self, key_id: str, markers: Sequence[Marker] | None
    ) -> KeyDescription | None:
        try:
            key, marker = await self._find(key_id, markers)
        except NotFound:
            return None
        return key.described(marker)

    async def _find(
        self, key_id: str, markers: Sequence[Marker] | None = None
    ) -> tuple[TransitKey, Marker | None]:
        """The key, and the marker that counts if it is closed. Raises NotFound (KEY_NOT_FOUND).

        ``markers``: those that were seen a moment ago, if there were any.
        """
        key = await self._engine.get(key_id)
        if not key.is_closed:
            return key, None
        if not markers:
            markers = (await self._engine.names())[1].get(key_id, [])
        marker = counting(markers)
        if marker is not None and marker.is_overdue(self._clock()):
            raise key_not_found(key_id)
        return key, marker

    async def _usable(self, key_id: str) -> TransitKey:
        key, marker = await self._find(key_id)
        check_usable(key.described(marker))
        return key

    async def _explain(self, key_id: str, error: Exception) -> None:
        """Why nothing was decrypted, if it is not ``error``: the state of the key."""
        await self._usable(key_id)
        if isinstance(error, NotUsed):
            raise FailedPrecondition(
                f"the version of the key {key_id} that wrapped the data key is disabled in the key service",
                reason="KEY_DISABLED",
                hint="lower min_decryption_version of the transit key",
            ) from None

    async def _change(
        self, key_id: str, change: Callable[[str], Awaitable[KeyDescription]]
    ) -> KeyDescription:
        """To its end also when the caller is cancelled: a change may be several calls."""

        async def alone() -> KeyDescription:
            lock = self._changing.get(key_id)
            if lock is None:
                lock = self._changing[key_id] = asyncio.Lock()
            async with lock:
                return await change(key_id)

        return await settle(asyncio.create_task(alone()))

    async def _create(self, key_id: str) -> KeyDescription:
        try:
            await self._engine.get(key_id)
        except NotFound:
            await self._engine.create(key_id)
            return await self.describe(key_id)
        raise key_exists(key_id)

    async def _rotate(self, key_id: str) -> KeyDescription:
        await self._usable(key_id)
        await self._engine.rotate(key_id, is_repeatable=False)
        return await self.describe(key_id)

    async def _enable(self, key_id: str) -> KeyDescription:
        key, marker = await self._find(key_id)
        if key.is_soft_deleted:
            await self._engine.restore(key_id)
        if key.is_closed:
            lowest = marker.min_version if marker else max(1, key.min_available_version)
            await self._engine.configure(key_id, min_decryption_version=lowest, min_encryption_version=0)
            await self._unmark((await self._engine.names())[1].get(key_id, ()))
        return await self.describe(key_id)

    async def _disable(self, key_id: str) -> KeyDescription:
        return await self._close(key_id, None)

    async def _close(self, key_id: str, delete_at: int | None) -> KeyDescription:
        """Disabled, and to be deleted at that second if it is given; what was so counts no more."""
        key, counted = await self._find(key_id)
        if key.is_soft_deleted:
            if delete_at is None and not key.is_closed:
                return key.described(None)  # somebody else disabled it in his own way
            await self._engine.restore(key_id)
        others = (await self._engine.names())[1].get(key_id, [])
        made, lowest = key.oldest_created_at, key.min_decryption_version
        if counted is not None:
            made, lowest = counted.created_at, counted.min_version
        elif key.is_closed:
            lowest = max(1, key.min_available_version)
        wanted = Marker(key_id, lowest, made, delete_at)
        stale = [marker for marker in others if marker != wanted]
        if key.is_closed:
            await self._engine.mark(wanted)
            await self._unmark(stale)
        else:
            await self._unmark(stale)  # which a crash left
            await self._engine.mark(wanted)
        # Of a key that is closed: only half, by a call that was cut off.
        if key.min_decryption_version <= lowest:
            await self._make_useless(key)
        return (await self._engine.get(key_id)).described(wanted)

    async def _make_useless(self, key: TransitKey) -> None:
        """First nobody wraps with the key any more, so nobody does with the version that is made then."""
        while True:
            await self._engine.configure(key.key_id, min_encryption_version=key.newest_version)
            await self._engine.rotate(key.key_id, is_repeatable=True)
            key = await self._engine.get(key.key_id)
            if key.is_closed:  # else another daemon enabled it
                break
        newest = key.newest_version
        await self._engine.configure(key.key_id, min_decryption_version=newest, min_encryption_version=newest)

    async def _erase(self, key_id: str) -> KeyDescription:
        """If it is overdue: another daemon may have called the deletion off, or done it."""
        key = await self._engine.get(key_id)
        markers = (await self._engine.names())[1].get(key_id, [])
        marker = counting(markers)
        if marker is not None and key.is_closed and marker.is_overdue(self._clock()):
            if key.is_soft_deleted:
                await self._engine.restore(key_id)
            await self._engine.delete(key_id)
            await self._unmark(markers)
            log.info("erased the key %s, whose time was over", key_id)
        return key.described(marker)

    async def _unmark(self, markers: Iterable[Marker]) -> None:
        for marker in markers:
            await self._engine.unmark(marker)


@asynccontextmanager
async def open_transit_keys(options: TransitOptions) -> AsyncIterator[KeyService]:
    """Raises PermissionDenied (KEY_SERVICE_DENIED), InvalidRequest (INVALID_CONFIGURATION).

    A server that is out of reach is none that is wrong: its key service opens, and waits for it.
    """
    trust = await run_blocking(trust_of, options)
    async with new_session(trust) as session:
        server = Server(session, options)
        engine = Engine(server, new_login(server, options), options)
        service = TransitKeys(engine)
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                await engine.names()
        except (TimeoutError, Unavailable) as error:
            why = (
                error.message if isinstance(error, Unavailable) else "the key service does not answer in time"
            )
            log.warning("a key service is opened that is out of reach: %s", why)
        erasing = asyncio.create_task(service.erase_in_time(), name="erase keys of a transit engine")
        try:
            yield service
        finally:
            erasing.cancel()
            await asyncio.wait([erasing])

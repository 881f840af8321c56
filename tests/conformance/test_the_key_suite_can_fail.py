"""Each broken key service is caught by the check made for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime

import pytest

from imsd.contract import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    KeyDescription,
    KeyState,
    NotFound,
)
from imsd.testing.key_service_suite import KeyServiceSuite
from imsd.testing.memory_keys import MemoryKey, MemoryKeys


class IgnoresTheContext(MemoryKeys):
    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        return await super().wrap(key_id, data_key, context and b"all")

    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        return await super().unwrap(key_id, wrapped, context and b"all")


class CutsTheContext(MemoryKeys):
    """Takes it for a text that ends with a zero byte."""

    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        return await super().wrap(key_id, data_key, context.rstrip(b"\0") or b"\0")

    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        return await super().unwrap(key_id, wrapped, context.rstrip(b"\0") or b"\0")


class HasOneKeyForAll(MemoryKeys):
    async def create(self, key_id: str) -> KeyDescription:
        made = await super().create(key_id)
        self._keys[key_id].versions = [bytes(32)]
        return made


class UsesOneNonce(MemoryKeys):
    """Gives the same for the same."""

    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        self.seen: dict[tuple[str, bytes, bytes], bytes] = getattr(self, "seen", {})
        wrapped = await super().wrap(key_id, data_key, context)
        return self.seen.setdefault((key_id, data_key, context), wrapped)


class LooksAtTheBeginning(MemoryKeys):
    """Of what is too long."""

    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        return await super().unwrap(key_id, wrapped[:64], context)


class TakesZeroForTheFirstVersion(MemoryKeys):
    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        if wrapped[:4] == bytes(4):
            wrapped = b"\0\0\0\1" + wrapped[4:]
        return await super().unwrap(key_id, wrapped, context)


class StumblesOverShortBytes(MemoryKeys):
    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        if len(wrapped) < 16:
            raise InvalidRequest("too short")
        return await super().unwrap(key_id, wrapped, context)


class ForgetsOldVersions(MemoryKeys):
    async def rotate(self, key_id: str) -> KeyDescription:
        told = await super().rotate(key_id)
        self._keys[key_id].versions[:-1] = [bytes(32)] * (told.version - 1)
        return told


class RotatesInName(MemoryKeys):
    async def rotate(self, key_id: str) -> KeyDescription:
        return self._usable(key_id).description


class RewrapsNothing(MemoryKeys):
    async def rewrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        self._usable(key_id)
        return wrapped


class WrapsWithDisabledKeys(MemoryKeys):
    def _usable(self, key_id: str) -> MemoryKey:
        return self._find(key_id)


class TellsDisabledKeysFromNone(MemoryKeys):
    """As if there was no key."""

    def _usable(self, key_id: str) -> MemoryKey:
        try:
            return super()._usable(key_id)
        except FailedPrecondition as error:
            raise NotFound(error.message, reason="KEY_NOT_FOUND") from error


class KeepsTheDeletion(MemoryKeys):
    async def set_state(self, key_id: str, state: KeyState) -> KeyDescription:
        if (at := self._find(key_id).description.delete_at) is not None:
            return await self.schedule_deletion(key_id, at)
        return await super().set_state(key_id, state)


class FirstTimeCounts(MemoryKeys):
    async def schedule_deletion(self, key_id: str, at: datetime) -> KeyDescription:
        return await super().schedule_deletion(key_id, self._find(key_id).description.delete_at or at)


class ForgetsTheTimeZone(MemoryKeys):
    async def schedule_deletion(self, key_id: str, at: datetime) -> KeyDescription:
        told = await super().schedule_deletion(key_id, at)
        return replace(told, delete_at=at)


class NeverErases(MemoryKeys):
    def _erase_overdue(self) -> None:
        return


class MakesKeysTwice(MemoryKeys):
    async def create(self, key_id: str) -> KeyDescription:
        await asyncio.sleep(0)
        self._keys.pop(key_id, None)
        return await super().create(key_id)


class ConfusesNeighbours(MemoryKeys):
    """Sets the state of every key whose id begins with this one."""

    async def set_state(self, key_id: str, state: KeyState) -> KeyDescription:
        for other in tuple(self._keys):
            if other.startswith(key_id):
                await super().set_state(other, state)
        return await super().set_state(key_id, state)


class ListsAsMade(MemoryKeys):
    async def list(self) -> AsyncIterator[KeyDescription]:
        for key in self._keys.values():
            yield key.description


class ListsWhatIsEnabled(MemoryKeys):
    async def list(self) -> AsyncIterator[KeyDescription]:
        async for key in super().list():
            if key.state is KeyState.ENABLED:
                yield key


class TakesAnyDataKey(MemoryKeys):
    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        return await super().wrap(key_id, data_key[:32].ljust(32, b"\0"), context)


class TakesAnyContext(MemoryKeys):
    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        return await super().wrap(key_id, data_key, context[:1024] or b"none")


class TellsTheDataKey(MemoryKeys):
    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        try:
            return await super().wrap(key_id, data_key, context)
        except ImsError as error:
            error.hint = f"instead of {data_key.hex()}"
            raise


class HalfCancelled(MemoryKeys):
    """A key that is cancelled while it is made is there without its bytes."""

    async def create(self, key_id: str) -> KeyDescription:
        made = await super().create(key_id)
        versions, self._keys[key_id].versions = self._keys[key_id].versions, []
        await asyncio.sleep(0)
        self._keys[key_id].versions = versions
        return made


CASES: list[tuple[type[MemoryKeys], str, tuple[object, ...]]] = [
    (IgnoresTheContext, "test_another_context_unwraps_nothing", (b"image 41d8",)),
    (CutsTheContext, "test_another_context_unwraps_nothing", (b"image 41d7\0",)),
    (HasOneKeyForAll, "test_another_key_unwraps_nothing", ()),
    (UsesOneNonce, "test_equal_data_keys_do_not_look_equal", ()),
    (LooksAtTheBeginning, "test_no_cut_and_no_longer_bytes_are_let_pass", ()),
    (TakesZeroForTheFirstVersion, "test_no_altered_byte_is_let_pass", ()),
    (StumblesOverShortBytes, "test_bytes_that_nobody_wrapped_are_a_mismatch", (4, b"\0")),
    (ForgetsOldVersions, "test_after_a_rotation_older_wrapped_keys_are_unwrapped", ()),
    (RotatesInName, "test_rotations_at_once_make_a_version_each", ()),
    (RotatesInName, "test_versions_only_grow", ()),
    (RewrapsNothing, "test_what_is_wrapped_again_is_the_same_data_key", ()),
    (RewrapsNothing, "test_only_what_can_be_unwrapped_is_wrapped_again", ()),
    (WrapsWithDisabledKeys, "test_a_disabled_key_is_good_for_nothing", ()),
    (WrapsWithDisabledKeys, "test_a_key_that_is_to_be_deleted_is_good_for_nothing", ()),
    (WrapsWithDisabledKeys, "test_bytes_that_nobody_wrapped_say_nothing_of_a_disabled_key", ()),
    (TellsDisabledKeysFromNone, "test_a_disabled_key_is_good_for_nothing", ()),
    (KeepsTheDeletion, "test_setting_a_state_calls_a_deletion_off", (KeyState.ENABLED,)),
    (KeepsTheDeletion, "test_a_disabled_key_can_be_deleted_too", ()),
    (FirstTimeCounts, "test_the_newest_time_counts", ()),
    (ForgetsTheTimeZone, "test_a_time_may_come_in_any_time_zone", ()),
    (NeverErases, "test_at_its_time_a_key_is_gone", ()),
    (MakesKeysTwice, "test_an_id_is_taken_once", ()),
    (MakesKeysTwice, "test_of_many_who_make_one_key_exactly_one_does", ()),
    (ConfusesNeighbours, "test_one_key_is_not_part_of_another", ()),
    (ListsAsMade, "test_a_list_is_in_the_order_of_ids_and_tells_what_describe_does", ()),
    (ListsWhatIsEnabled, "test_keys_that_are_to_be_deleted_are_in_the_list", ()),
    (TakesAnyDataKey, "test_a_data_key_has_32_bytes", (33,)),
    (TakesAnyContext, "test_a_context_has_bytes_but_not_too_many", (1025,)),
    (TellsTheDataKey, "test_nothing_that_is_told_has_a_byte_of_a_key", ()),
    (HalfCancelled, "test_a_cancelled_call_happened_whole_or_not_at_all", (1,)),
]

CAUGHT = (AssertionError, AlreadyExists, DataLoss, FailedPrecondition, InvalidRequest, NotFound, IndexError)


@pytest.mark.parametrize(("broken", "name", "arguments"), CASES)
async def test_a_broken_key_service_is_caught(
    broken: type[MemoryKeys], name: str, arguments: tuple[object, ...]
) -> None:
    await getattr(KeyServiceSuite(), name)(MemoryKeys(), *arguments)
    with pytest.raises((*CAUGHT, pytest.fail.Exception)):
        await getattr(KeyServiceSuite(), name)(broken(), *arguments)

"""The part of the suite of key services that is about deletion; see `key_service_suite`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from imsd.contract import FailedPrecondition, KeyService, KeyState, NotFound

from .key_wrapping_checks import CONTEXT, DATA_KEY, KEY, OTHER_KEY, needs, refused

WEEK = timedelta(days=7)


def in_a_week() -> datetime:
    """Whole seconds: no key service need keep more."""
    return (datetime.now(UTC) + WEEK).replace(microsecond=0)


class KeyDeletionChecks:
    """A key that is to be deleted is good for nothing, is called back until its time, and then gone."""

    async def test_a_key_that_is_to_be_deleted_is_good_for_nothing(self, keys: KeyService) -> None:
        needs(keys.capabilities.schedule_deletion, "schedule_deletion")
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        at = in_a_week()
        told = await keys.schedule_deletion(KEY, at)
        assert (told.state, told.delete_at) == (KeyState.PENDING_DELETION, at)
        assert await keys.describe(KEY) == told
        with refused(FailedPrecondition, "KEY_PENDING_DELETION"):
            await keys.wrap(KEY, DATA_KEY, CONTEXT)
        with refused(FailedPrecondition, "KEY_PENDING_DELETION"):
            await keys.unwrap(KEY, wrapped, CONTEXT)
        if keys.capabilities.rotate:
            with refused(FailedPrecondition, "KEY_PENDING_DELETION"):
                await keys.rotate(KEY)
        if keys.capabilities.rewrap:
            with refused(FailedPrecondition, "KEY_PENDING_DELETION"):
                await keys.rewrap(KEY, wrapped, CONTEXT)

    @pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED])
    async def test_setting_a_state_calls_a_deletion_off(self, keys: KeyService, state: KeyState) -> None:
        needs(keys.capabilities.schedule_deletion, "schedule_deletion")
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        await keys.schedule_deletion(KEY, in_a_week())
        told = await keys.set_state(KEY, state)
        assert (told.state, told.delete_at) == (state, None)
        assert await keys.describe(KEY) == told
        await keys.set_state(KEY, KeyState.ENABLED)
        assert await keys.unwrap(KEY, wrapped, CONTEXT) == DATA_KEY

    async def test_a_disabled_key_can_be_deleted_too(self, keys: KeyService) -> None:
        needs(keys.capabilities.schedule_deletion, "schedule_deletion")
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        await keys.set_state(KEY, KeyState.DISABLED)
        assert (await keys.schedule_deletion(KEY, in_a_week())).state is KeyState.PENDING_DELETION
        await keys.set_state(KEY, KeyState.ENABLED)
        assert await keys.unwrap(KEY, wrapped, CONTEXT) == DATA_KEY

    async def test_the_newest_time_counts(self, keys: KeyService) -> None:
        needs(keys.capabilities.schedule_deletion, "schedule_deletion")
        await keys.create(KEY)
        for at in (in_a_week(), in_a_week() + WEEK, in_a_week() - WEEK / 2):
            assert (await keys.schedule_deletion(KEY, at)).delete_at == at
            assert (await keys.describe(KEY)).delete_at == at

    async def test_a_time_may_come_in_any_time_zone(self, keys: KeyService) -> None:
        needs(keys.capabilities.schedule_deletion, "schedule_deletion")
        await keys.create(KEY)
        at = in_a_week()
        told = await keys.schedule_deletion(KEY, at.astimezone(timezone(timedelta(hours=-9))))
        assert told.delete_at == at
        assert told.delete_at.utcoffset() == timedelta(0)

    async def test_at_its_time_a_key_is_gone(self, keys: KeyService) -> None:
        needs(keys.capabilities.schedule_deletion, "schedule_deletion")
        await keys.create(KEY)
        await keys.create(OTHER_KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        await keys.schedule_deletion(KEY, datetime.now(UTC) - timedelta(seconds=1))
        for call in (
            lambda: keys.describe(KEY),
            lambda: keys.wrap(KEY, DATA_KEY, CONTEXT),
            lambda: keys.unwrap(KEY, wrapped, CONTEXT),
            lambda: keys.set_state(KEY, KeyState.ENABLED),
            lambda: keys.schedule_deletion(KEY, in_a_week()),
        ):
            with refused(NotFound, "KEY_NOT_FOUND"):
                await call()
        if keys.capabilities.list:
            assert [key.id async for key in keys.list()] == [OTHER_KEY]
        assert (await keys.describe(OTHER_KEY)).state is KeyState.ENABLED

    async def test_keys_that_are_to_be_deleted_are_in_the_list(self, keys: KeyService) -> None:
        needs(keys.capabilities.schedule_deletion and keys.capabilities.list, "schedule_deletion and list")
        for key_id in (OTHER_KEY, KEY):
            await keys.create(key_id)
        at = in_a_week()
        await keys.schedule_deletion(KEY, at)
        listed = [(key.id, key.state, key.delete_at) async for key in keys.list()]
        assert listed == [(KEY, KeyState.PENDING_DELETION, at), (OTHER_KEY, KeyState.ENABLED, None)]

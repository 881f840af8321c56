"""What every key service must do: the contract of `imsd.contract.key_service` as checks.

A driver's author subclasses `KeyServiceSuite` in a test file, with a fixture ``keys`` that yields an opened
key service without keys::

    class TestMyKeys(KeyServiceSuite):
        @pytest.fixture
        async def keys(self, tmp_path):
            async with open_my_keys(MyOptions(path=tmp_path / "keyring")) as keys:
                yield keys

It needs pytest and pytest-asyncio (``asyncio_mode = "auto"``). What an optional method promises is checked
when the key service has its capability.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from imsd.contract import (
    DATA_KEY_BYTES,
    MAX_CONTEXT_BYTES,
    MAX_WRAPPED_BYTES,
    AlreadyExists,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    KeyDescription,
    KeyService,
    KeyState,
    NotFound,
)

from .key_deletion_checks import KeyDeletionChecks
from .key_wrapping_checks import CONTEXT, DATA_KEY, KEY, OTHER_KEY, KeyWrappingChecks, needs, refused

LONGEST_ID = "k" + "-" * 62 + "0"


class KeyServiceSuite(KeyWrappingChecks, KeyDeletionChecks):
    """All checks: those of wrapping and of deletion, and of what is told of keys and their states."""

    async def test_a_new_key_is_enabled_at_its_first_version(self, keys: KeyService) -> None:
        before = datetime.now(UTC) - timedelta(minutes=2)  # another machine's clock may differ a little
        made = await keys.create(KEY)
        assert (made.id, made.state, made.version, made.delete_at) == (KEY, KeyState.ENABLED, 1, None)
        assert made.created_at.utcoffset() == timedelta(0)
        assert before < made.created_at < before + timedelta(minutes=4)
        assert await keys.describe(KEY) == made

    async def test_an_id_is_taken_once(self, keys: KeyService) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        with refused(AlreadyExists, "ALREADY_EXISTS"):
            await keys.create(KEY)
        assert await keys.unwrap(KEY, wrapped, CONTEXT) == DATA_KEY

    async def test_of_many_who_make_one_key_exactly_one_does(self, keys: KeyService) -> None:
        outcomes = await asyncio.gather(*(keys.create(KEY) for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(outcome, KeyDescription) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 7

    @pytest.mark.parametrize("key_id", ["0", "a", "a" * 64, LONGEST_ID, "a--b", "0" * 64])
    async def test_ids_at_the_limits_are_ids(self, keys: KeyService, key_id: str) -> None:
        made = await keys.create(key_id)
        assert made.id == key_id
        assert await keys.describe(key_id) == made
        wrapped = await keys.wrap(key_id, DATA_KEY, CONTEXT)
        assert await keys.unwrap(key_id, wrapped, CONTEXT) == DATA_KEY
        disabled = await keys.set_state(key_id, KeyState.DISABLED)
        assert (disabled.id, disabled.state) == (key_id, KeyState.DISABLED)

    async def test_one_key_is_not_part_of_another(self, keys: KeyService) -> None:
        """Whose ids begin alike."""
        for key_id in ("ab", "a", "abc", "ab-c"):
            await keys.create(key_id)
        await keys.set_state("ab", KeyState.DISABLED)
        for key_id in ("a", "abc", "ab-c"):
            assert (await keys.describe(key_id)).state is KeyState.ENABLED
            await keys.wrap(key_id, DATA_KEY, CONTEXT)

    async def test_a_key_that_was_never_made_is_not_found(self, keys: KeyService) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        for call in uses_of(keys, OTHER_KEY, wrapped):
            with refused(NotFound, "KEY_NOT_FOUND"):
                await call
        for call in changes_of(keys, OTHER_KEY):
            with refused(NotFound, "KEY_NOT_FOUND"):
                await call
        with refused(NotFound, "KEY_NOT_FOUND"):  # and nothing made it meanwhile
            await keys.describe(OTHER_KEY)

    async def test_a_disabled_key_is_good_for_nothing(self, keys: KeyService) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        told = await keys.set_state(KEY, KeyState.DISABLED)
        assert (told.state, told.delete_at) == (KeyState.DISABLED, None)
        assert await keys.describe(KEY) == told
        for call in uses_of(keys, KEY, wrapped):
            with refused(FailedPrecondition, "KEY_DISABLED"):
                await call

    async def test_bytes_that_nobody_wrapped_say_nothing_of_a_disabled_key(self, keys: KeyService) -> None:
        await keys.create(KEY)
        await keys.set_state(KEY, KeyState.DISABLED)
        for wrapped in (b"", b"\0" * 60):
            with refused(FailedPrecondition, "KEY_DISABLED"):
                await keys.unwrap(KEY, wrapped, CONTEXT)

    async def test_a_key_that_is_enabled_again_is_as_before(self, keys: KeyService) -> None:
        made = await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        for _ in range(3):
            await keys.set_state(KEY, KeyState.DISABLED)
            told = await keys.set_state(KEY, KeyState.ENABLED)
            assert await keys.describe(KEY) == told
            assert (told.state, told.created_at) == (KeyState.ENABLED, made.created_at)
            assert await keys.unwrap(KEY, wrapped, CONTEXT) == DATA_KEY
            wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)

    @pytest.mark.parametrize("state", [KeyState.ENABLED, KeyState.DISABLED])
    async def test_a_state_that_is_so_already_stays(self, keys: KeyService, state: KeyState) -> None:
        await keys.create(KEY)
        first = await keys.set_state(KEY, state)
        assert await keys.set_state(KEY, state) == first

    async def test_no_key_is_set_to_be_deleted(self, keys: KeyService) -> None:
        """That is a call of its own, with a time."""
        await keys.create(KEY)
        with refused(InvalidRequest, "INVALID_REQUEST"):
            await keys.set_state(KEY, KeyState.PENDING_DELETION)
        assert (await keys.describe(KEY)).state is KeyState.ENABLED

    async def test_versions_only_grow(self, keys: KeyService) -> None:
        needs(keys.capabilities.rotate, "rotate")
        versions = [(await keys.create(KEY)).version]
        versions.append((await keys.rotate(KEY)).version)
        versions.append((await keys.set_state(KEY, KeyState.DISABLED)).version)
        versions.append((await keys.set_state(KEY, KeyState.ENABLED)).version)
        versions.append((await keys.rotate(KEY)).version)
        assert versions == sorted(versions)
        assert versions[1] > versions[0]
        assert versions[4] > versions[3]

    async def test_a_list_is_in_the_order_of_ids_and_tells_what_describe_does(self, keys: KeyService) -> None:
        needs(keys.capabilities.list, "list")
        assert [key async for key in keys.list()] == []
        names = [f"{letter}{number}" for number in range(10) for letter in ("b-", "a", "b", "0-x", "0")]
        random.Random(4).shuffle(names)
        await asyncio.gather(*(keys.create(name) for name in names))
        await keys.set_state("a3", KeyState.DISABLED)
        listed = [key async for key in keys.list()]
        assert [key.id for key in listed] == sorted(names)
        assert listed == [await keys.describe(name) for name in sorted(names)]

    async def test_64_calls_run_at_once(self, keys: KeyService) -> None:
        await keys.create(KEY)
        await keys.create(OTHER_KEY)
        data_keys = [random.Random(number).randbytes(DATA_KEY_BYTES) for number in range(64)]

        async def there_and_back(number: int) -> bytes:
            key_id, context = (KEY, OTHER_KEY)[number % 2], b"image %d" % number
            wrapped = await keys.wrap(key_id, data_keys[number], context)
            if keys.capabilities.rotate and number % 16 == 0:
                await keys.rotate(key_id)
            return await keys.unwrap(key_id, wrapped, context)

        assert await asyncio.gather(*map(there_and_back, range(64))) == data_keys

    @pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20])
    async def test_a_cancelled_call_happened_whole_or_not_at_all(self, keys: KeyService, turns: int) -> None:
        await keys.create(OTHER_KEY)
        await cancel_after(turns, keys.create(KEY))
        await cancel_after(turns, keys.set_state(OTHER_KEY, KeyState.DISABLED))
        if (await keys.describe(OTHER_KEY)).state is KeyState.DISABLED:
            await keys.set_state(OTHER_KEY, KeyState.ENABLED)
        try:
            await keys.create(KEY)
        except AlreadyExists:
            pass
        for key_id in (KEY, OTHER_KEY):
            wrapped = await keys.wrap(key_id, DATA_KEY, CONTEXT)
            await cancel_after(turns, keys.unwrap(key_id, wrapped, CONTEXT))
            assert await keys.unwrap(key_id, wrapped, CONTEXT) == DATA_KEY

    @pytest.mark.parametrize("size_bytes", [0, 1, 16, 31, 33, 64, 1 << 20])
    async def test_a_data_key_has_32_bytes(self, keys: KeyService, size_bytes: int) -> None:
        await keys.create(KEY)
        with refused(InvalidRequest, "INVALID_REQUEST"):
            await keys.wrap(KEY, bytes(size_bytes), CONTEXT)

    @pytest.mark.parametrize("size_bytes", [0, MAX_CONTEXT_BYTES + 1])
    async def test_a_context_has_bytes_but_not_too_many(self, keys: KeyService, size_bytes: int) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        with refused(InvalidRequest, "INVALID_REQUEST"):
            await keys.wrap(KEY, DATA_KEY, bytes(size_bytes))
        with refused(InvalidRequest, "INVALID_REQUEST"):
            await keys.unwrap(KEY, wrapped, bytes(size_bytes))

    @pytest.mark.parametrize("context", [b"\0", b"\xff" * MAX_CONTEXT_BYTES, b"a\0b/..\n\"'"])
    async def test_a_context_may_be_any_bytes(self, keys: KeyService, context: bytes) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, context)
        assert 1 <= len(wrapped) <= MAX_WRAPPED_BYTES
        assert await keys.unwrap(KEY, wrapped, context) == DATA_KEY

    async def test_nothing_that_is_told_has_a_byte_of_a_key(self, keys: KeyService) -> None:
        data_key = b"Sesame-opens-the-mountain-door-1"
        made = await keys.create(KEY)
        wrapped = await keys.wrap(KEY, data_key, CONTEXT)
        assert data_key[:8] not in wrapped
        told = [repr(made), str(made), repr(keys), str(vars(keys)) if hasattr(keys, "__dict__") else ""]
        told += [
            await error_of(keys.wrap(KEY, data_key + b"x", CONTEXT)),
            await error_of(keys.wrap(OTHER_KEY, data_key, CONTEXT)),
            await error_of(keys.unwrap(KEY, data_key, CONTEXT)),
            await error_of(keys.unwrap(KEY, wrapped, b"another image")),
            await error_of(keys.unwrap(OTHER_KEY, wrapped, CONTEXT)),
        ]
        for text in told:
            for secret in spellings(data_key[:8]):
                assert secret not in text


def spellings(secret: bytes) -> Iterator[str]:
    """How the bytes may stand in a text; in base64, all but what depends on the neighbours."""
    yield secret.decode()
    yield secret.hex()
    yield "U2VzYW1l"


def uses_of(keys: KeyService, key_id: str, wrapped: bytes) -> Iterator[Awaitable[object]]:
    """What a key is used for: one call after the other."""
    yield keys.wrap(key_id, DATA_KEY, CONTEXT)
    yield keys.unwrap(key_id, wrapped, CONTEXT)
    if keys.capabilities.rotate:
        yield keys.rotate(key_id)
    if keys.capabilities.rewrap:
        yield keys.rewrap(key_id, wrapped, CONTEXT)


def changes_of(keys: KeyService, key_id: str) -> Iterator[Awaitable[object]]:
    yield keys.describe(key_id)
    yield keys.set_state(key_id, KeyState.ENABLED)
    yield keys.set_state(key_id, KeyState.DISABLED)
    if keys.capabilities.schedule_deletion:
        yield keys.schedule_deletion(key_id, datetime.now(UTC) + timedelta(days=7))


async def cancel_after(turns: int, call: Awaitable[object]) -> None:
    """Let ``call`` run for some turns of the loop, cancel it, and wait for its end."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def error_of(call: Awaitable[object]) -> str:
    """All that is told of the error of ``call``, with those before it."""
    told: list[str] = []
    with pytest.raises(ImsError) as caught:
        await call
    error: BaseException | None = caught.value
    while error is not None:
        told += [repr(error), str(error), str(vars(error))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(told)

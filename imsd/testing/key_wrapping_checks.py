"""The part of the suite of key services that is about wrapping; see `key_service_suite`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imsd.contract import MAX_WRAPPED_BYTES, DataLoss, ImsError, KeyService

KEY = "0c9e2c5a-project-key"
OTHER_KEY = "0c9e2c5a-project-key-2"
DATA_KEY = bytes(range(100, 132))
CONTEXT = b"image 41d7"


@contextmanager
def refused(condition: type[ImsError], reason: str) -> Iterator[None]:
    """The block raises ``condition`` with ``reason``."""
    with pytest.raises(condition) as caught:
        yield
    assert caught.value.reason == reason
    assert caught.value.message


def needs(capability: bool, name: str) -> None:
    """Skip the check of a key service without it."""
    if not capability:
        pytest.skip(f"the key service does not offer {name}")


class KeyWrappingChecks:
    """What is wrapped comes back for the same key and context, and for nothing else."""

    async def test_what_was_wrapped_is_unwrapped(self, keys: KeyService) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        assert isinstance(wrapped, bytes)
        assert 1 <= len(wrapped) <= MAX_WRAPPED_BYTES
        for _ in range(2):
            assert await keys.unwrap(KEY, wrapped, CONTEXT) == DATA_KEY

    async def test_equal_data_keys_do_not_look_equal(self, keys: KeyService) -> None:
        await keys.create(KEY)
        wrapped = [await keys.wrap(KEY, DATA_KEY, CONTEXT) for _ in range(4)]
        assert len({*wrapped, *(each[-16:] for each in wrapped)}) == 8
        for each in wrapped:
            assert await keys.unwrap(KEY, each, CONTEXT) == DATA_KEY

    @pytest.mark.parametrize("context", [b"image 41d8", b"image 41d", b"image 41d7\0", b"IMAGE 41D7", b"\0"])
    async def test_another_context_unwraps_nothing(self, keys: KeyService, context: bytes) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        with refused(DataLoss, "KEY_MISMATCH"):
            await keys.unwrap(KEY, wrapped, context)

    async def test_another_key_unwraps_nothing(self, keys: KeyService) -> None:
        await keys.create(KEY)
        await keys.create(OTHER_KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        with refused(DataLoss, "KEY_MISMATCH"):
            await keys.unwrap(OTHER_KEY, wrapped, CONTEXT)

    async def test_no_altered_byte_is_let_pass(self, keys: KeyService) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        every_bit = [(place, bit) for place in range(min(16, len(wrapped))) for bit in range(8)]
        for place, bit in [*every_bit, *((place, place % 8) for place in range(16, len(wrapped)))]:
            altered = bytearray(wrapped)
            altered[place] ^= 1 << bit
            with refused(DataLoss, "KEY_MISMATCH"):
                await keys.unwrap(KEY, bytes(altered), CONTEXT)
        assert await keys.unwrap(KEY, wrapped, CONTEXT) == DATA_KEY

    async def test_no_cut_and_no_longer_bytes_are_let_pass(self, keys: KeyService) -> None:
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        others = [wrapped[:length] for length in range(len(wrapped))]
        others += [wrapped[1:], wrapped + b"\0", wrapped + b"\n", b" " + wrapped, wrapped + wrapped]
        for other in others:
            with refused(DataLoss, "KEY_MISMATCH"):
                await keys.unwrap(KEY, other, CONTEXT)

    @pytest.mark.parametrize("size_bytes", [1, 4, 12, 28, 60, MAX_WRAPPED_BYTES, 4 << 20])
    @pytest.mark.parametrize("filler", [b"\0", b"\xff", b"A"])
    async def test_bytes_that_nobody_wrapped_are_a_mismatch(
        self, keys: KeyService, size_bytes: int, filler: bytes
    ) -> None:
        await keys.create(KEY)
        with refused(DataLoss, "KEY_MISMATCH"):
            await keys.unwrap(KEY, filler * size_bytes, CONTEXT)

    async def test_after_a_rotation_older_wrapped_keys_are_unwrapped(self, keys: KeyService) -> None:
        needs(keys.capabilities.rotate, "rotate")
        await keys.create(KEY)
        wrapped = []
        for number in range(4):
            wrapped.append(await keys.wrap(KEY, DATA_KEY, b"image %d" % number))
            await keys.rotate(KEY)
        for number, each in enumerate(wrapped):
            assert await keys.unwrap(KEY, each, b"image %d" % number) == DATA_KEY
            with refused(DataLoss, "KEY_MISMATCH"):
                await keys.unwrap(KEY, each, CONTEXT)

    async def test_rotations_at_once_make_a_version_each(self, keys: KeyService) -> None:
        needs(keys.capabilities.rotate, "rotate")
        first = (await keys.create(KEY)).version
        await asyncio.gather(*(keys.rotate(KEY) for _ in range(4)))
        assert (await keys.describe(KEY)).version == first + 4

    async def test_what_is_wrapped_again_is_the_same_data_key(self, keys: KeyService) -> None:
        needs(keys.capabilities.rewrap and keys.capabilities.rotate, "rewrap and rotate")
        await keys.create(KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        await keys.rotate(KEY)
        again = await keys.rewrap(KEY, wrapped, CONTEXT)
        assert again != wrapped
        assert 1 <= len(again) <= MAX_WRAPPED_BYTES
        for each in (wrapped, again):
            assert await keys.unwrap(KEY, each, CONTEXT) == DATA_KEY
        with refused(DataLoss, "KEY_MISMATCH"):
            await keys.unwrap(KEY, again, b"another image")

    async def test_only_what_can_be_unwrapped_is_wrapped_again(self, keys: KeyService) -> None:
        needs(keys.capabilities.rewrap, "rewrap")
        await keys.create(KEY)
        await keys.create(OTHER_KEY)
        wrapped = await keys.wrap(KEY, DATA_KEY, CONTEXT)
        altered = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
        for key_id, given, context in (
            (KEY, altered, CONTEXT),
            (KEY, b"", CONTEXT),
            (KEY, wrapped[:-1], CONTEXT),
            (KEY, wrapped, b"another image"),
            (OTHER_KEY, wrapped, CONTEXT),
        ):
            with refused(DataLoss, "KEY_MISMATCH"):
                await keys.rewrap(key_id, given, context)

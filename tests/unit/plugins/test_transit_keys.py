"""What is special to keys in a transit engine: states in the server, other daemons, leftovers of crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from imsd_kms_transit.options import TransitOptions
from imsd_kms_transit.service import open_transit_keys
from imsd_kms_transit.wrapping import unpack

from imsd.contract import AlreadyExists, FailedPrecondition, KeyService, KeyState, NotFound
from tests.openbao import Answered, OpenBao
from tests.transit import token_options

DATA_KEY = bytes(range(32))
CONTEXT = b"image"
CONTEXT_TEXT = "aW1hZ2U="


@pytest.fixture
def options(openbao: OpenBao, tmp_path: Path) -> TransitOptions:
    return token_options(openbao, tmp_path)


@pytest.fixture
async def keys(options: TransitOptions) -> AsyncIterator[KeyService]:
    async with open_transit_keys(options) as opened:
        yield opened


@pytest.fixture
async def others(options: TransitOptions) -> AsyncIterator[KeyService]:
    """The key service as another daemon has it."""
    async with open_transit_keys(options) as opened:
        yield opened


@pytest.fixture
def engine(openbao: OpenBao, options: TransitOptions) -> Callable[..., Answered]:
    """The engine itself, by root."""

    def ask(method: str, path: str, **body: Any) -> Answered:
        return openbao.ask(method, f"{options.mount}/{path}", body)

    return ask


def names(engine: Callable[..., Answered]) -> list[str]:
    found: list[str] = engine("LIST", "keys").body.get("data", {"keys": []})["keys"]
    return found


def in_days(days: float) -> datetime:
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.02)


async def test_the_server_itself_refuses_what_a_disabled_key_wrapped(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    raw = {"ciphertext": unpack(wrapped), "context": CONTEXT_TEXT}
    assert engine("POST", "decrypt/imsd-a", **raw).status == 200
    for state in (keys.set_state("a", KeyState.DISABLED), keys.schedule_deletion("a", in_days(7))):
        await state
        for call in ("decrypt", "rewrap"):
            assert engine("POST", f"{call}/imsd-a", **raw).status == 400
        refused = engine("POST", "encrypt/imsd-a", plaintext="AAAA", context=CONTEXT_TEXT, key_version=1)
        assert refused.status == 400
    await keys.set_state("a", KeyState.ENABLED)
    assert engine("POST", "decrypt/imsd-a", **raw).status == 200
    assert names(engine) == ["imsd-a"]  # nothing else is left of it


async def test_states_hold_for_every_daemon(keys: KeyService, others: KeyService) -> None:
    made = await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    assert await others.unwrap("a", wrapped, CONTEXT) == DATA_KEY
    await others.set_state("a", KeyState.DISABLED)
    for call in (keys.wrap("a", DATA_KEY, CONTEXT), keys.unwrap("a", wrapped, CONTEXT)):
        with pytest.raises(FailedPrecondition, match="is disabled"):
            await call
    at = in_days(3)
    await keys.schedule_deletion("a", at)
    told = await others.describe("a")
    assert (told.state, told.delete_at) == (KeyState.PENDING_DELETION, at)
    assert told.created_at == made.created_at
    await others.set_state("a", KeyState.ENABLED)
    assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY
    with pytest.raises(AlreadyExists):
        await others.create("a")


async def test_daemons_that_disable_and_enable_at_once_leave_a_key_that_is_one_or_the_other(
    keys: KeyService, others: KeyService
) -> None:
    await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    for _ in range(6):
        calls = [
            service.set_state("a", state)
            for service in (keys, others)
            for state in (KeyState.DISABLED, KeyState.ENABLED)
        ]
        await asyncio.gather(*calls, keys.rotate("a"), return_exceptions=True)
        await keys.set_state("a", KeyState.DISABLED)
        with pytest.raises(FailedPrecondition):
            await others.unwrap("a", wrapped, CONTEXT)
        await others.set_state("a", KeyState.ENABLED)
        assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY


async def test_a_key_that_is_disabled_while_it_wraps_wraps_nothing_that_is_unwrapped_then(
    keys: KeyService, others: KeyService, engine: Callable[..., Answered]
) -> None:
    await keys.create("a")
    calls = [keys.wrap("a", DATA_KEY, CONTEXT) for _ in range(16)]
    outcomes = await asyncio.gather(*calls, others.set_state("a", KeyState.DISABLED), return_exceptions=True)
    wrapped = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    for each in wrapped:
        raw = {"ciphertext": unpack(each), "context": CONTEXT_TEXT}
        assert engine("POST", "decrypt/imsd-a", **raw).status == 400
    await keys.set_state("a", KeyState.ENABLED)
    for each in wrapped:
        assert await keys.unwrap("a", each, CONTEXT) == DATA_KEY


async def test_a_key_is_erased_at_its_time_with_all_that_is_left_of_it(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    for key_id in ("a", "b", "c"):
        await keys.create(key_id)
    await keys.set_state("b", KeyState.DISABLED)
    await keys.schedule_deletion("b", in_days(9))
    await keys.schedule_deletion("a", datetime.now(UTC) + timedelta(seconds=0.5))
    await until(lambda: not any(name.startswith("imsd-a") for name in names(engine)))
    with pytest.raises(NotFound):
        await keys.describe("a")
    assert [key.id async for key in keys.list()] == ["b", "c"]


async def test_a_key_whose_time_passed_while_no_daemon_ran_is_erased_by_the_next(
    options: TransitOptions, engine: Callable[..., Answered]
) -> None:
    async with open_transit_keys(options) as first:
        await first.create("a")
        await first.schedule_deletion("a", in_days(1))
    (marker,) = (name for name in names(engine) if ".del." in name)
    head, _ = marker.rsplit(".", 1)
    engine("POST", f"keys/{head}.{int(datetime.now(UTC).timestamp()) - 1}")  # as if a day was over
    engine("POST", f"keys/{marker}/config", deletion_allowed=True)
    engine("DELETE", f"keys/{marker}")
    async with open_transit_keys(options) as second:
        with pytest.raises(NotFound):
            await second.describe("a")
        await until(lambda: names(engine) == [])


@pytest.mark.parametrize("marker", ["imsd-a.off.1.1795815481", "imsd-a.del.1.1795815481.1795815482"])
async def test_a_marker_that_a_crash_left_counts_for_nothing(
    keys: KeyService, others: KeyService, engine: Callable[..., Answered], marker: str
) -> None:
    made = await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    engine("POST", f"keys/{marker}")
    assert await keys.describe("a") == made
    assert [key async for key in others.list()] == [made]
    assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY
    told = await keys.set_state("a", KeyState.DISABLED)
    assert (told.state, told.created_at) == (KeyState.DISABLED, made.created_at)
    assert marker not in names(engine)
    await keys.set_state("a", KeyState.ENABLED)
    assert names(engine) == ["imsd-a"]


@pytest.mark.parametrize("is_rotated", [False, True])
async def test_a_key_that_was_disabled_by_half_is_disabled_by_the_next_call(
    keys: KeyService, engine: Callable[..., Answered], is_rotated: bool
) -> None:
    await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    # As a daemon leaves it that is killed, or whose server goes away, between the calls.
    engine("POST", "keys/imsd-a.off.1.1795815481")
    engine("POST", "keys/imsd-a/config", min_encryption_version=1)
    if is_rotated:
        engine("POST", "keys/imsd-a/rotate")
    told = await keys.set_state("a", KeyState.DISABLED)
    assert told.state is KeyState.DISABLED
    raw = {"ciphertext": unpack(wrapped), "context": CONTEXT_TEXT}
    assert engine("POST", "decrypt/imsd-a", **raw).status == 400
    with pytest.raises(FailedPrecondition, match="is disabled"):
        await keys.unwrap("a", wrapped, CONTEXT)
    await keys.schedule_deletion("a", in_days(7))
    assert (await keys.set_state("a", KeyState.ENABLED)).version == told.version
    assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY
    assert names(engine) == ["imsd-a"]


async def test_markers_without_a_key_are_removed(
    options: TransitOptions, engine: Callable[..., Answered]
) -> None:
    engine("POST", "keys/imsd-gone.del.1.1795815481.1795815482")
    engine("POST", "keys/imsd-gone.off.1.1795815481")
    async with open_transit_keys(options):
        await until(lambda: names(engine) == [])


async def test_a_deletion_that_was_interrupted_by_a_crash_is_not_done(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    """The key is disabled, and was to be deleted or not: in doubt it is not."""
    await keys.create("a")
    told = await keys.set_state("a", KeyState.DISABLED)
    made = int(told.created_at.timestamp())
    engine("POST", f"keys/imsd-a.del.1.{made}.{made}")
    assert await keys.describe("a") == told
    await keys.schedule_deletion("a", in_days(2))
    assert len(names(engine)) == 2


async def test_what_an_operator_retired_stays_retired(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    await keys.create("a")
    old = await keys.wrap("a", DATA_KEY, CONTEXT)
    await keys.rotate("a")
    new = await keys.wrap("a", DATA_KEY, CONTEXT)
    engine("POST", "keys/imsd-a/config", min_decryption_version=2)
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match="the version of the key a that wrapped") as caught:
            await keys.unwrap("a", old, CONTEXT)
        assert caught.value.reason == "KEY_DISABLED"
        assert "min_decryption_version" in caught.value.hint
        assert await keys.unwrap("a", new, CONTEXT) == DATA_KEY
        await keys.set_state("a", KeyState.DISABLED)
        await keys.set_state("a", KeyState.ENABLED)


async def test_a_key_that_an_operator_disabled_can_be_enabled(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    engine("POST", "keys/imsd-a/rotate")
    engine("POST", "keys/imsd-a/config", min_decryption_version=2, min_encryption_version=2)
    assert (await keys.describe("a")).state is KeyState.DISABLED
    await keys.set_state("a", KeyState.ENABLED)
    assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY


async def test_a_key_that_an_operator_soft_deleted_is_disabled(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    made = await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    engine("POST", f"keys/imsd-a.del.1.{int(made.created_at.timestamp())}.1795815482")  # which counts not
    for _ in range(2):
        engine("DELETE", "keys/imsd-a/soft-delete")
        told = await keys.describe("a")
        assert (told.state, told.delete_at) == (KeyState.DISABLED, None)
        for call in (
            lambda: keys.wrap("a", DATA_KEY, CONTEXT),
            lambda: keys.unwrap("a", wrapped, CONTEXT),
            lambda: keys.rewrap("a", wrapped, CONTEXT),
            lambda: keys.rotate("a"),
        ):
            with pytest.raises(FailedPrecondition) as caught:
                await call()
            assert caught.value.reason == "KEY_DISABLED"
        assert await keys.set_state("a", KeyState.DISABLED) == told
        assert (await keys.set_state("a", KeyState.ENABLED)).state is KeyState.ENABLED
        assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY


async def test_a_key_that_is_soft_deleted_is_deleted_as_others_are(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    for key_id in ("a", "b"):
        await keys.create(key_id)
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    engine("DELETE", "keys/imsd-a/soft-delete")
    at = in_days(3)
    assert (await keys.schedule_deletion("a", at)).delete_at == at
    engine("DELETE", "keys/imsd-a/soft-delete")
    assert (await keys.describe("a")).state is KeyState.PENDING_DELETION
    await keys.set_state("a", KeyState.ENABLED)
    assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY
    await keys.schedule_deletion("a", in_days(3))
    engine("DELETE", "keys/imsd-a/soft-delete")
    await keys.schedule_deletion("a", in_days(-1))
    assert names(engine) == ["imsd-b"]


async def test_keys_of_others_are_not_ours(
    keys: KeyService, openbao: OpenBao, options: TransitOptions, engine: Callable[..., Answered]
) -> None:
    for name, kind in (("app", {}), ("imsd-sign", {"type": "ed25519"}), ("imsd-x.y", {}), ("IMSD-a", {})):
        engine("POST", f"keys/{name}", **kind)
    engine("POST", "keys/imsd-plain", type="aes256-gcm96")
    await keys.create("a")
    assert [key.id async for key in keys.list()] == ["a"]
    for key_id in ("sign", "plain"):
        with pytest.raises(NotFound):
            await keys.describe(key_id)
    assert len(names(engine)) == 6


async def test_two_prefixes_are_two_key_services(
    keys: KeyService, openbao: OpenBao, options: TransitOptions
) -> None:
    root = options.token_file
    assert root is not None
    root.write_text(openbao.root_token)
    async with open_transit_keys(replace(options, key_prefix="imsd")) as others:
        await keys.create("a")
        await others.create("a")
        await others.create("b")
        await others.set_state("a", KeyState.DISABLED)
        assert (await keys.describe("a")).state is KeyState.ENABLED
        assert [key.id async for key in keys.list()] == ["a"]
        wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
        assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY


async def test_rotation_and_rewrapping_are_seen_in_the_engine(
    keys: KeyService, engine: Callable[..., Answered]
) -> None:
    await keys.create("a")
    wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
    assert (await keys.rotate("a")).version == 2
    again = unpack(await keys.rewrap("a", wrapped, CONTEXT))
    assert again is not None
    assert again.startswith("vault:v2:")
    assert engine("GET", "keys/imsd-a").data["latest_version"] == 2


async def test_a_namespace_is_a_place_of_its_own(openbao: OpenBao, tmp_path: Path) -> None:
    assert openbao.ask("POST", "sys/namespaces/team").status == 200
    assert openbao.ask("POST", "team/sys/mounts/transit", {"type": "transit"}).status == 204
    options = token_options(openbao, tmp_path)
    assert options.token_file is not None
    options.token_file.write_text(openbao.root_token)
    async with open_transit_keys(replace(options, namespace="team", mount="transit")) as keys:
        await keys.create("a")
        wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
        assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY
    assert openbao.ask("LIST", "team/transit/keys").data["keys"] == ["imsd-a"]

"""What is special to a keyring in a file: the file, its passphrase, its lock, what is left of erased keys."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from imsd_kms_local.keyring import new_key
from imsd_kms_local.keyring_file import KeyringFile, opened_keyring, read_keyring
from imsd_kms_local.keyring_seal import NotSealed, ScryptCost, derive, seal, unseal
from imsd_kms_local.options import LocalKeysOptions
from imsd_kms_local.service import LocalKeys, open_local_keys

from imsd.contract import (
    ImsError,
    InvalidRequest,
    KeyService,
    KeyState,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    Unavailable,
)

PASSPHRASE = b"correct horse battery staple"
CONTEXT = b"image"
DATA_KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imsd_kms_local.keyring_seal.COST", ScryptCost(n=1 << 14, p=1))


@pytest.fixture
def options(tmp_path: Path) -> LocalKeysOptions:
    return LocalKeysOptions(path=tmp_path / "keyring", passphrase_file=secret(tmp_path / "passphrase"))


def secret(path: Path, content: bytes = PASSPHRASE + b"\n") -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


async def made(options: LocalKeysOptions, *key_ids: str) -> bytes:
    """A keyring with these keys; the file as it is then."""
    async with open_local_keys(options) as keys:
        for key_id in key_ids:
            await keys.create(key_id)
    return options.path.read_bytes()


async def failure_of(opening: AbstractAsyncContextManager[KeyService]) -> ImsError:
    with pytest.raises(ImsError) as caught:
        async with opening:
            pytest.fail("it opened")
    return caught.value


async def test_keys_outlive_the_daemon(options: LocalKeysOptions) -> None:
    async with open_local_keys(options) as keys:
        await keys.create("a")
        first = await keys.wrap("a", DATA_KEY, CONTEXT)
        await keys.rotate("a")
        second = await keys.wrap("a", DATA_KEY, CONTEXT)
        await keys.create("b")
        told = [await keys.set_state("b", KeyState.DISABLED), await keys.describe("a")]
        at = datetime(2099, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
        told.append(await keys.schedule_deletion((await keys.create("c")).id, at))
    async with open_local_keys(options) as keys:
        assert await keys.unwrap("a", first, CONTEXT) == DATA_KEY
        assert await keys.unwrap("a", second, CONTEXT) == DATA_KEY
        assert [await keys.describe(key.id) for key in told] == told


async def test_the_file_is_for_the_daemon_alone_whatever_the_umask(options: LocalKeysOptions) -> None:
    before = os.umask(0)
    try:
        await made(options, "a")
    finally:
        os.umask(before)
    for path in options.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert sorted(path.name for path in options.path.parent.iterdir()) == [
        "keyring",
        "keyring.lock",
        "passphrase",
    ]


async def test_neither_keys_nor_ids_are_in_the_file(options: LocalKeysOptions) -> None:
    content = await made(options, "project-alpha")
    assert b"project-alpha" not in content
    assert b"versions" not in content
    assert PASSPHRASE not in content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
async def test_a_keyring_that_others_may_read_or_change_is_refused(
    options: LocalKeysOptions, mode: int
) -> None:
    content = await made(options, "a")
    options.path.chmod(mode)
    error = await failure_of(open_local_keys(options))
    assert isinstance(error, InvalidRequest)
    assert error.reason == "INVALID_CONFIGURATION"
    assert "others may read or change it" in error.message
    assert "chmod 600" in error.hint
    assert options.path.read_bytes() == content


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
async def test_what_is_no_plain_file_is_no_keyring(options: LocalKeysOptions, what: str) -> None:
    path = options.path
    if what == "link":
        await made(options, "a")
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))
    elif what == "folder":
        path.mkdir(mode=0o700)
    else:
        os.mkfifo(path, 0o600)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert isinstance(await failure_of(open_local_keys(options)), InvalidRequest | Unavailable)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A disk that is not mounted must not look like a keyring without keys."""
    passphrase = secret(tmp_path / "passphrase")
    error = await failure_of(
        open_local_keys(LocalKeysOptions(path=tmp_path / "none" / "keyring", passphrase_file=passphrase))
    )
    assert "not mounted" in error.hint
    assert not (tmp_path / "none").exists()


async def test_a_wrong_passphrase_has_its_own_message(options: LocalKeysOptions, tmp_path: Path) -> None:
    content = await made(options, "a")
    secret(tmp_path / "passphrase", b"correct horse battery stapler\n")
    error = await failure_of(open_local_keys(options))
    assert isinstance(error, PermissionDenied)
    assert error.reason == "KEY_SERVICE_DENIED"
    assert "the passphrase of the keyring" in error.message
    assert b"stapler" not in repr(error).encode()
    assert options.path.read_bytes() == content


async def test_a_keyring_that_was_cut_is_refused_and_left(options: LocalKeysOptions) -> None:
    content = await made(options, "a", "b")
    for length in {*range(0, len(content) - 1, 37), 1, 2, len(content) - 2}:
        options.path.write_bytes(content[:length])
        error = await failure_of(open_local_keys(options))
        assert error.reason in ("INVALID_CONFIGURATION", "KEY_SERVICE_DENIED")
        assert options.path.read_bytes() == content[:length]


async def test_a_keyring_that_was_altered_is_refused_and_left(options: LocalKeysOptions) -> None:
    content = await made(options, "a", "b")
    async with open_local_keys(options):  # as it is
        pass
    for place in range(0, len(content) - 1, 11):
        altered = bytearray(content)
        altered[place] ^= 1
        options.path.write_bytes(altered)
        error = await failure_of(open_local_keys(options))
        assert error.reason in ("INVALID_CONFIGURATION", "KEY_SERVICE_DENIED")
        assert options.path.read_bytes() == altered


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"not a keyring\n",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"[]",
        b"{}",
        b'{"format": "imsd-keyring-2"}',
        b'{"format": 7}',
        b'{"format": "imsd-keyring-1", "kdf": [], "sealed": "AAAA"}',
        b"[" * 100_000,
        b"\xff" * 100,
        b"1" * 10_000,
    ],
)
async def test_a_foreign_file_is_refused_and_left(options: LocalKeysOptions, content: bytes) -> None:
    secret(options.path, content)
    error = await failure_of(open_local_keys(options))
    assert isinstance(error, InvalidRequest)
    assert "backup" in error.hint
    assert options.path.read_bytes() == content


async def test_a_file_that_is_too_long_is_not_read(options: LocalKeysOptions) -> None:
    secret(options.path, b"{")
    os.truncate(options.path, 10 << 30)
    assert "too long" in (await failure_of(open_local_keys(options))).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1 << 30),
        ("n", 2),
        ("n", 32769),
        ("n", -1),
        ("n", True),
        ("n", 1e300),
        ("n", "32768"),
        ("n", None),
        ("r", 1 << 20),
        ("r", 1),
        ("p", 0),
        ("p", 5),
        ("p", 1 << 40),
        ("name", "pbkdf2"),
        ("salt", ""),
        ("salt", "AAAA"),
        ("salt", 7),
    ],
)
def test_a_cost_out_of_bounds_is_refused_before_it_is_paid(
    field: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = json.loads(seal(b'{"keys": {}}', derive(PASSPHRASE)))
    header["kdf"][field] = value
    monkeypatch.setattr("imsd_kms_local.keyring_seal.Scrypt", None)  # which cannot be called
    with pytest.raises(NotSealed):
        unseal(json.dumps(header).encode(), PASSPHRASE)


async def test_two_daemons_do_not_have_one_keyring(options: LocalKeysOptions) -> None:
    async with open_local_keys(options) as keys:
        error = await failure_of(open_local_keys(options))
        assert isinstance(error, Unavailable)
        assert "another process" in error.message
        await keys.create("a")
    async with open_local_keys(options) as keys:
        await keys.describe("a")


async def test_a_keyring_that_somebody_else_replaced_is_left(options: LocalKeysOptions) -> None:
    old = await made(options, "a")
    await made(options, "b")
    async with open_local_keys(options) as keys:
        options.path.write_bytes(old)  # a backup, put back at the wrong moment
        with pytest.raises(Unavailable, match="somebody else"):
            await keys.create("c")
        assert options.path.read_bytes() == old
        await keys.describe("b")
        with pytest.raises(NotFound):
            await keys.describe("c")
    async with open_local_keys(options) as keys:
        assert [key.id async for key in keys.list()] == ["a"]


async def test_a_keyring_that_is_gone_is_written_again(options: LocalKeysOptions) -> None:
    """Its keys are nowhere else."""
    async with open_local_keys(options) as keys:
        await keys.create("a")
        options.path.unlink()
        await keys.create("b")
    async with open_local_keys(options) as keys:
        assert [key.id async for key in keys.list()] == ["a", "b"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_a_key_that_cannot_be_written_was_not_made(
    options: LocalKeysOptions, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with open_local_keys(options) as keys:
        await keys.create("a")
        content = options.path.read_bytes()
        with monkeypatch.context() as failing:
            failing.setattr(f"imsd_kms_local.keyring_file.os.{call}", fail)
            with pytest.raises(Unavailable, match="No space left") as caught:
                await keys.create("b")
        assert caught.value.reason == "KEY_SERVICE_UNAVAILABLE"
        assert options.path.read_bytes() == content
        with pytest.raises(NotFound):
            await keys.describe("b")
        await keys.create("b")
    assert list(options.path.parent.glob(".*")) == []


async def test_a_keyring_has_a_highest_size(
    options: LocalKeysOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imsd_kms_local.keyring_file.MAX_KEYRING_BYTES", 4000)
    async with open_local_keys(options) as keys:
        await asyncio.gather(*(keys.create(f"key-{number}") for number in range(8)))
        with pytest.raises(LimitExceeded, match="no room for more"):
            await asyncio.gather(*(keys.create(f"more-{number}") for number in range(50)))
        kept = [key.id async for key in keys.list()]
    async with open_local_keys(options) as keys:
        assert [key.id async for key in keys.list()] == kept


async def test_a_cancelled_change_is_in_memory_if_it_is_in_the_file(options: LocalKeysOptions) -> None:
    async with open_local_keys(options) as keys:
        for number in range(20):
            task = asyncio.create_task(keys.create(f"key-{number}"))
            await asyncio.sleep(0.0005 * number)
            task.cancel()
            await asyncio.wait([task])
        told = [key.id async for key in keys.list()]
    async with open_local_keys(options) as keys:
        assert [key.id async for key in keys.list()] == told


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def ids_in(keyring: Path) -> list[str]:
    read = read_keyring(keyring, PASSPHRASE)
    assert read is not None
    return sorted(read[0])


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def test_at_its_time_a_key_leaves_the_file_without_being_asked_for(options: LocalKeysOptions) -> None:
    async with open_local_keys(options) as keys:
        await keys.create("a")
        await keys.create("b")
        await keys.schedule_deletion("a", datetime.now(UTC) + timedelta(seconds=0.2))
        await until(lambda: ids_in(options.path) == ["b"])


async def test_a_key_whose_time_passed_while_nobody_looked_is_erased_at_the_start(
    options: LocalKeysOptions,
) -> None:
    clock = Clock()
    with opened_keyring(options.path, PASSPHRASE) as (file, found):
        keys = LocalKeys(file, found, clock)
        await keys.create("a")
        await keys.create("b")
        clock.now -= timedelta(days=2)
        await keys.schedule_deletion("a", clock.now + timedelta(days=1))
        assert (await keys.describe("a")).state is KeyState.PENDING_DELETION
    with opened_keyring(options.path, PASSPHRASE) as (_, found):
        assert sorted(found) == ["a", "b"]
    async with open_local_keys(options) as opened:
        with pytest.raises(NotFound):
            await opened.describe("a")
    with opened_keyring(options.path, PASSPHRASE) as (_, found):
        assert list(found) == ["b"]


async def test_a_deletion_that_was_called_off_does_not_happen(options: LocalKeysOptions) -> None:
    clock = Clock()
    with opened_keyring(options.path, PASSPHRASE) as (file, found):
        keys = LocalKeys(file, found, clock)
        await keys.create("a")
        await keys.schedule_deletion("a", clock.now + timedelta(days=1))
        await keys.set_state("a", KeyState.DISABLED)
        clock.now += timedelta(days=2)
        await keys.erase_overdue_keys()
        assert (await keys.describe("a")).state is KeyState.DISABLED


async def test_the_bytes_of_the_old_file_are_overwritten(options: LocalKeysOptions) -> None:
    await made(options, "a")
    with options.path.open("rb") as old:
        async with open_local_keys(options) as keys:
            await keys.schedule_deletion("a", datetime.now(UTC) - timedelta(days=1))
            with pytest.raises(NotFound):
                await keys.describe("a")
        content = old.read()
    assert content == bytes(len(content))
    assert content


async def test_a_backup_by_a_second_name_is_left(options: LocalKeysOptions) -> None:
    content = await made(options, "a")
    os.link(options.path, options.path.with_name("backup"))
    await made(options, "b")
    assert options.path.with_name("backup").read_bytes() == content


def test_a_crash_loses_no_key_that_was_reported(tmp_path: Path) -> None:
    keyring, passphrase = tmp_path / "keyring", secret(tmp_path / "passphrase")
    for number in (1, 4, 9):
        keyring.unlink(missing_ok=True)
        program: list[str | Path] = [
            sys.executable,
            Path(__file__).with_name("make_keys.py"),
            keyring,
            passphrase,
        ]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reported = [process.stdout.readline().strip() for _ in range(number)]
            process.kill()
            reported += process.stdout.read().splitlines()[:-1]
        with opened_keyring(keyring, PASSPHRASE) as (_, found):
            assert set(reported) <= set(found)
        assert list(tmp_path.glob(".*")) == []


def test_no_representation_has_a_byte_of_a_key() -> None:
    key = new_key("a", datetime.now(UTC))
    sealing = derive(PASSPHRASE)
    for secret_bytes in (key.versions[0], sealing.key):
        for shown in (repr(key), repr(sealing), repr(KeyringFile(Path("x"), sealing, None))):
            assert repr(secret_bytes)[2:-1] not in shown

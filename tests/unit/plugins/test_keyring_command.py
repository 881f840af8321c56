"""``python -m imsd_kms_local``: changing a passphrase, and looking into a keyring."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from imsd_kms_local.__main__ import main
from imsd_kms_local.keyring_seal import ScryptCost
from imsd_kms_local.options import LocalKeysOptions
from imsd_kms_local.service import open_local_keys

from imsd.contract import PermissionDenied

OLD, NEW = "the old passphrase", "the new passphrase"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imsd_kms_local.keyring_seal.COST", ScryptCost(n=1 << 14, p=1))


@pytest.fixture
async def keyring(tmp_path: Path) -> Path:
    for name, text in (("old", OLD), ("new", NEW), ("short", "short")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text + "\n")
    async with open_local_keys(options(tmp_path / "keyring", "old")) as keys:
        await keys.create("alpha")
        await keys.rotate("alpha")
        await keys.create("beta")
        await keys.schedule_deletion("beta", datetime.now(UTC) + timedelta(days=30))
    return tmp_path / "keyring"


def options(keyring: Path, passphrase: str) -> LocalKeysOptions:
    return LocalKeysOptions(path=keyring, passphrase_file=keyring.with_name(passphrase))


def content_of(keyring: Path) -> bytes:
    return keyring.read_bytes()


def change(keyring: Path, old: str, new: str) -> list[str]:
    files = ["--passphrase-file", str(keyring.with_name(old))]
    return ["passphrase", str(keyring), *files, "--new-passphrase-file", str(keyring.with_name(new))]


async def test_a_passphrase_is_changed(keyring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content_of(keyring)
    assert main(change(keyring, "old", "new")) == 0
    assert "sealed with the new passphrase" in capsys.readouterr().out
    with pytest.raises(PermissionDenied):
        async with open_local_keys(options(keyring, "old")):
            pytest.fail("it opened")
    async with open_local_keys(options(keyring, "new")) as keys:
        assert [key.id async for key in keys.list()] == ["alpha", "beta"]
    assert b"salt" in before
    assert content_of(keyring).split(b"salt")[1][:20] != before.split(b"salt")[1][:20]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("new", "old", "is another one"),
        ("old", "short", "shorter than 12"),
        ("old", "missing", "cannot be read"),
    ],
)
async def test_what_goes_wrong_changes_nothing(
    keyring: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    before = content_of(keyring)
    assert main(change(keyring, old, new)) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert says in told
    assert content_of(keyring) == before


async def test_a_passphrase_is_not_changed_while_a_daemon_has_the_keyring(
    keyring: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_local_keys(options(keyring, "old")):
        assert main(change(keyring, "old", "new")) == 1
        assert "another process has the keyring" in capsys.readouterr().err


def test_no_keyring_is_made_by_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("passphrase", "check"):
        (tmp_path / "old").touch(mode=0o600)
        (tmp_path / "old").write_text(OLD)
        assert main([command, str(tmp_path / "none"), "--passphrase-file", str(tmp_path / "old")]) == 1
        assert "there is no keyring" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


async def test_a_keyring_in_use_can_be_looked_into(keyring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_local_keys(options(keyring, "old")):
        assert main(["check", str(keyring), "--passphrase-file", str(keyring.with_name("old"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("2 keys")
    assert lines[1].split() == ["alpha", "enabled,", "2", "versions"]
    assert "beta  pending_deletion, 1 versions, will be deleted" in lines[2]


async def test_passphrases_are_asked_for_on_the_terminal(
    keyring: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [OLD, NEW, NEW + "r", OLD, NEW, NEW]
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers.pop(0))
    assert main(["passphrase", str(keyring)]) == 1
    assert "not the same" in capsys.readouterr().err
    assert main(["passphrase", str(keyring)]) == 0
    async with open_local_keys(options(keyring, "new")) as keys:
        await keys.describe("alpha")

"""Secrets of drivers: from a file that others cannot read, or a credential of systemd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imsd.contract import InvalidRequest, check_one_secret, read_secret


def test_a_secret_is_the_file_without_its_line_end(tmp_path: Path) -> None:
    for number, (content, expected) in enumerate(
        [
            (b"secret\n", b"secret"),
            (b"secret", b"secret"),
            (b" se\ncret \r\n", b" se\ncret "),
            (b"a\n\n", b"a\n"),
        ]
    ):
        path = tmp_path / str(number)
        path.touch(mode=0o600)
        path.write_bytes(content)
        assert read_secret("token", path, "") == expected


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_the_group_may_read_it(tmp_path: Path, mode: int) -> None:
    """A file of root in /etc, for the group of the daemon."""
    path = tmp_path / "token"
    path.write_bytes(b"secret")
    path.chmod(mode)
    assert read_secret("token", path, "") == b"secret"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660, 0o620, 0o601])
def test_a_secret_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(InvalidRequest, match="read or changed by others") as caught:
        read_secret("token", path, "")
    assert (caught.value.reason, caught.value.field) == ("INVALID_CONFIGURATION", "token_file")
    assert "secret" not in caught.value.message


def test_what_is_no_secret_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name, content in (("empty", b""), ("line", b"\n"), ("long", b"x" * 65537)):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_bytes(content)
    for name in ("pipe", "folder", "empty", "line", "long", "missing"):
        with pytest.raises(InvalidRequest) as caught:
            read_secret("token", tmp_path / name, "")
        assert caught.value.reason == "INVALID_CONFIGURATION"


def test_a_credential_is_a_file_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imsd-token").touch(mode=0o400)
    (tmp_path / "imsd-token").chmod(0o600)
    (tmp_path / "imsd-token").write_bytes(b"secret\n")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(InvalidRequest, match="was given no credentials") as caught:
        read_secret("token", None, "imsd-token")
    assert "LoadCredential=imsd-token" in caught.value.hint
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret("token", None, "imsd-token") == b"secret"


@pytest.mark.parametrize(
    ("file", "credential"),
    [(None, ""), (Path("/x"), "y"), (None, "../x"), (None, "a/b"), (None, "."), (None, "a\0b")],
)
def test_one_of_the_two_is_set(file: Path | None, credential: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_one_secret("token", file, credential)
    assert caught.value.reason == "INVALID_CONFIGURATION"

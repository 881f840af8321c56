"""Projects, users, groups, roles and tokens by the command line, against a real daemon."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemon_process import DaemonProcess

FULL_ACCESS, SERVER = "IMS FullAccess", "Server Administrator"


@pytest.fixture(scope="module")
def empty_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """For tests that change nothing."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("d"))
    daemon.start()
    yield daemon
    assert daemon.stop() == 0


def failed(daemon: DaemonProcess, *arguments: str, code: int = 1) -> str:
    result = daemon.imsctl(*arguments, check=False)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_whole_way_of_a_new_user(daemon: DaemonProcess, tmp_path: Path) -> None:
    assert (
        daemon.imsctl("project", "create", "lab", "--description", "trials").stdout == "created project lab\n"
    )
    assert daemon.imsctl("user", "create", "ann").stdout == "created user ann\n"
    assert daemon.imsctl("group", "create", "imaging").stdout == "created group imaging\n"
    assert daemon.imsctl("group", "add", "imaging", "ann").stdout == "group imaging: ann\n"
    granted = daemon.imsctl("role", "grant", FULL_ACCESS, "--group", "imaging", "--in", "lab")
    assert granted.stdout == "granted: IMS FullAccess to group imaging in project lab\n"
    made = daemon.imsctl("token", "create", "--name", "laptop", "--user", "ann", "--expires", "12h")
    assert re.fullmatch(r"imsd_[0-9a-f]{32}_[A-Za-z0-9_-]{43}\n", made.stdout)
    assert "it is not shown again" in made.stderr
    assert made.stdout.strip() not in made.stderr
    file = tmp_path / "token"
    file.write_text(made.stdout)
    file.chmod(0o600)
    mine = ("--token-file", str(file))
    said = daemon.imsctl(*mine, "whoami").stdout
    assert re.search(r"^you are +ann$", said, re.M)
    assert re.search(r"^known by +api token$", said, re.M)
    assert "IMS FullAccess in lab, by group imaging" in said
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 4096)
    daemon.imsctl(*mine, "image", "import", str(disk), "--name", "a")
    listed = json.loads(daemon.imsctl(*mine, "image", "list", "-o", "json").stdout)
    assert [(image["name"], image["project_id"]) for image in listed] == [("a", "lab")]
    assert "PERMISSION_DENIED" in failed(daemon, *mine, "user", "list")
    assert "PERMISSION_DENIED" in failed(daemon, *mine, "image", "list", "--project", "other")
    (token,) = json.loads(daemon.imsctl(*mine, "token", "list", "-o", "json").stdout)
    assert (token["user"], token["name"], token["revoked_at"]) == ("ann", "laptop", None)
    assert daemon.imsctl("token", "revoke", token["id"]).stdout == f"revoked token {token['id']}\n"
    assert "TOKEN_REVOKED" in failed(daemon, *mine, "whoami")
    (token,) = daemon.imsctl_json("token", "list", "--user", "*", "--all")
    assert token["revoked_at"]
    assert daemon.imsctl_json("token", "list", "--user", "ann") == []


def test_json_of_everything(daemon: DaemonProcess) -> None:
    project = daemon.imsctl_json("project", "create", "lab")
    assert daemon.imsctl_json("project", "list") == [project]
    user = daemon.imsctl_json("user", "create", "ann")
    assert daemon.imsctl_json("user", "list") == [user]
    group = daemon.imsctl_json("group", "create", "imaging")
    changed = daemon.imsctl_json("group", "add", "imaging", "ann")
    assert changed == group | {"users": ["ann"]}
    assert daemon.imsctl_json("group", "list") == [changed]
    assert daemon.imsctl_json("group", "remove", "imaging", "ann") == group
    grant = daemon.imsctl_json("role", "grant", SERVER, "--certificate", "spiffe://x/y", "--in", "*")
    assert (grant["principal_kind"], grant["principal"], grant["project_id"]) == (
        "certificate",
        "spiffe://x/y",
        "*",
    )
    assert grant["missing_roles"] == ["IMS Administrator", "Tenant Administrator"]
    assert daemon.imsctl_json("role", "list", "--in", "*") == [grant]
    assert daemon.imsctl_json("role", "list", "--user", "ann") == []
    gone = daemon.imsctl_json("role", "revoke", SERVER, "--certificate", "spiffe://x/y", "--in", "*")
    assert gone["role"] == SERVER
    token = daemon.imsctl_json("token", "create", "--name", "ci", "--user", "ann")
    assert token["secret"].startswith("imsd_")
    assert daemon.imsctl_json("token", "revoke", token["id"]) == [{"id": token["id"]}]
    assert daemon.imsctl_json("user", "delete", "ann") == [{"id": "ann"}]
    assert daemon.imsctl_json("group", "delete", "imaging") == [{"id": "imaging"}]
    assert daemon.imsctl_json("project", "delete", "lab") == [{"id": "lab"}]
    caller = daemon.imsctl_json("whoami")
    assert (caller["kind"], caller["administrator"], caller["roles"]) == ("local_administrator", True, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("role", "grant", FULL_ACCESS, "--in", "lab"), "name one: --user, --group or --certificate"),
        (("role", "grant", FULL_ACCESS, "--user", "a", "--group", "b", "--in", "lab"), "name one"),
        (("role", "grant", FULL_ACCESS, "--user", "a"), "say in which project"),
        (("token", "create", "--name", "x", "--expires", "soon"), "'soon' is no time"),
        (("token", "create", "--name", "x", "--expires", "-1d"), "--expires"),
        (("token", "create"), "--name"),
        (("user", "create"), "USER"),
        (("--address", "10.0.0.1:1", "--token", "x", "whoami"), "without TLS"),
        (("--address", "10.0.0.1:1", "--ca-file", "x", "whoami"), "use tls://10.0.0.1:1"),
        (("--address", "tls://10.0.0.1:1", "--cert", "x", "whoami"), "needs its key"),
    ],
)
def test_a_wrong_command_line_sends_nothing(empty_daemon: DaemonProcess, arguments: Any, said: str) -> None:
    assert said in failed(empty_daemon, *arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("project", "create", "a b"), "INVALID_REQUEST"),
        (("user", "create", "a b"), "INVALID_REQUEST"),
        (("user", "create", "\u202e"), "INVALID_REQUEST"),
        (("group", "create", "*"), "INVALID_REQUEST"),
        (("group", "add", "none", "ann"), "NOT_FOUND"),
        (("role", "grant", "King", "--user", "ann", "--in", "lab"), "INVALID_REQUEST"),
        (("role", "grant", FULL_ACCESS, "--user", "ann", "--in", "lab"), "NOT_FOUND"),
        (("role", "revoke", FULL_ACCESS, "--user", "ann", "--in", "lab"), "NOT_FOUND"),
        (("role", "list", "--user", "a b"), "INVALID_REQUEST"),
        (("role", "list", "--certificate", "a\nb"), "INVALID_REQUEST"),
        (("role", "list", "--in", "a b"), "INVALID_REQUEST"),
        (("token", "create", "--name", "x", "--user", "ann"), "NOT_FOUND"),
        (("token", "create", "--name", "x"), "INVALID_REQUEST"),
        (("token", "create", "--name", "x", "--user", "ann", "--expires", "367d"), "INVALID_REQUEST"),
        (("token", "revoke", "x"), "INVALID_REQUEST"),
        (("token", "list", "--user", "a b"), "INVALID_REQUEST"),
        (("--token", "imsd_x", "whoami"), "UNAUTHENTICATED"),
        (("--token-file", "/dev/null", "whoami"), "LOCAL_FILE"),
        (("--address", "tls://127.0.0.1:1", "--ca-file", "/dev/null", "whoami"), "LOCAL_FILE"),
    ],
)
def test_a_failure_is_told_in_one_sentence(empty_daemon: DaemonProcess, arguments: Any, reason: str) -> None:
    lines = failed(empty_daemon, *arguments).splitlines()
    assert lines[0].startswith("imsctl: ")
    assert lines[0].endswith(f"[{reason}]")
    assert len(lines) <= 2


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("token", "list"), "--user"),
        (("token", "create", "--name", "x"), "--user"),
        (("role", "grant", FULL_ACCESS, "--user", "ann", "--in", "a b"), "--in"),
        (("image", "list", "--project", "a b"), "--project"),
    ],
)
def test_a_failure_names_the_option_at_fault(
    empty_daemon: DaemonProcess, arguments: Any, option: str
) -> None:
    assert f"({option}) [" in failed(empty_daemon, *arguments)


def test_several_are_deleted_though_one_is_not_there(daemon: DaemonProcess) -> None:
    for name in ("a", "b"):
        daemon.imsctl("user", "create", name)
    result = daemon.imsctl("user", "delete", "a", "none", "b", check=False)
    assert (result.returncode, result.stdout) == (1, "deleted user a\ndeleted user b\n")
    assert "there is no user 'none' [NOT_FOUND]" in result.stderr


def test_a_project_that_has_something_is_not_forgotten(daemon: DaemonProcess, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * 4096)
    daemon.imsctl("--project", "lab", "image", "import", str(disk), "--name", "a")
    assert [project["id"] for project in daemon.imsctl_json("project", "list")] == ["lab"]
    assert "FAILED_PRECONDITION" in failed(daemon, "project", "delete", "lab")


def test_a_project_that_is_not_there_is_blamed_on_the_option_that_named_it(
    empty_daemon: DaemonProcess,
) -> None:
    grant = ("role", "grant", FULL_ACCESS, "--certificate", "x")
    for option in ("--in", "--project"):
        assert f"({option}) [PROJECT_UNKNOWN]" in failed(empty_daemon, *grant, option, "nowhere")

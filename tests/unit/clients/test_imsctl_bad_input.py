"""Numbers out of range, arguments that are no text, outputs that cannot be written."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.fake_daemon import FakeDaemon

IMPORT = ["image", "import", "disk", "--name", "web"]
SET = ["image", "set", "web"]


@pytest.mark.parametrize("command", [IMPORT, SET], ids=["import", "set"])
@pytest.mark.parametrize(
    ("option", "highest"), [("--min-disk", 1048576), ("--min-ram", 4194304), ("--max-ram", 4194304)]
)
@pytest.mark.parametrize("number", ["-1", "99999999999", "-99999999999999999999", "99999999999999999999"])
async def test_a_number_out_of_range_is_wrong_usage(
    imsctl: Imsctl, daemon: FakeDaemon, command: list[str], option: str, highest: int, number: str
) -> None:
    outcome = await imsctl(*command, option, number)
    assert outcome.code == 2, outcome
    expected = f"imsctl: invalid value for '{option}': {number} is not in the range 0<=x<={highest} [USAGE]"
    assert outcome.errors.splitlines()[0] == expected
    assert not daemon.state.calls


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (3, ["image", "show", "\udcff"]),
        (4, ["image", "list", "--name", "a\udcff"]),
        (4, ["image", "import", "--name", "\udcff", "disk"]),
        (3, ["image", "digest", "\udcff.raw"]),
        (2, ["--project", "\udcff", "image", "list"]),
    ],
)
async def test_an_argument_that_is_no_text_is_wrong_usage(
    imsctl: Imsctl, daemon: FakeDaemon, number: int, command: list[str]
) -> None:
    outcome = await imsctl(*command)
    assert outcome.code == 2, outcome
    assert outcome.errors.startswith(f"imsctl: argument {number}, {os.fsencode(command[number - 1])!r}, is ")
    assert "is not UTF-8 [USAGE]" in outcome.errors
    assert not daemon.state.calls


@pytest.mark.parametrize(
    "command", [["image", "digest", "./\x1b[2J"], [*IMPORT[:2], "./\x1b[2J", *IMPORT[3:]]]
)
async def test_the_name_of_a_missing_file_cannot_steer_the_terminal(
    imsctl: Imsctl, command: list[str]
) -> None:
    outcome = await imsctl(*command)
    assert outcome.code == 1
    assert "\x1b" not in outcome.errors
    assert "\\x1b[2J" in outcome.errors


async def in_a_shell(imsctl: Imsctl, redirection: str, *arguments: str) -> tuple[int, str]:
    """The exit code and errors of imsctl with its output redirected."""
    process = await imsctl.start(*arguments, shell=f'exec "$@" {redirection}')
    outcome = await imsctl.finish(process)
    return outcome.code, outcome.errors


@pytest.mark.parametrize("command", ["image list", "image list -o json", "image download web -o -", "--help"])
async def test_an_output_without_room_is_a_failure(imsctl: Imsctl, daemon: FakeDaemon, command: str) -> None:
    daemon.add_image("web", b"x" * 100_000)
    code, errors = await in_a_shell(imsctl, ">/dev/full", *command.split())
    assert code == 1
    assert errors.startswith("imsctl: cannot write the output: No space left on device [LOCAL_FILE]\n")


@pytest.mark.parametrize("command", ["image list", "image list -o json", "image download web -o -", "--help"])
async def test_a_closed_output_is_a_failure(imsctl: Imsctl, daemon: FakeDaemon, command: str) -> None:
    daemon.add_image("web", b"x" * 100_000)
    code, errors = await in_a_shell(imsctl, ">&-", *command.split())
    assert code == 1
    assert errors.startswith("imsctl: standard output is closed [LOCAL_FILE]\n")


async def test_a_long_list_without_room_is_a_failure(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    for number in range(300):
        daemon.add_image(f"image-{number}", description="x" * 500)
    code, errors = await in_a_shell(imsctl, ">/dev/full", "image", "list", "-o", "json")
    assert code == 1
    assert "[LOCAL_FILE]" in errors


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
async def test_errors_that_nobody_reads_change_no_exit_code(imsctl: Imsctl, redirection: str) -> None:
    process = await imsctl.start("image", "show", "missing", shell=f'exec "$@" {redirection}')
    outcome = await asyncio.wait_for(imsctl.finish(process), 60)
    assert (outcome.code, outcome.text) == (1, "")


async def test_a_variable_that_is_no_text_is_wrong_usage(imsctl: Imsctl) -> None:
    process = await imsctl.start("image", "list", shell="IMSD_PROJECT=$(printf '\\377') exec \"$@\"")
    outcome = await imsctl.finish(process)
    assert outcome.code == 2, outcome
    assert outcome.errors.startswith("imsctl: variable IMSD_PROJECT, b'\\xff', is not UTF-8 [USAGE]\n")


@pytest.mark.parametrize("number", ["1000000000000000001", "999999999999999999T", "8388608T"])
async def test_a_quota_out_of_range_is_wrong_usage(imsctl: Imsctl, daemon: FakeDaemon, number: str) -> None:
    outcome = await imsctl("quota", "set", "staged_bytes", number)
    assert outcome.code == 2, outcome
    assert outcome.errors.startswith("imsctl: invalid value for "), outcome
    assert not daemon.state.calls


async def test_a_status_of_shares_is_no_filter_of_images_of_the_project(
    imsctl: Imsctl, daemon: FakeDaemon
) -> None:
    for scope in ([], ["--public"]):
        outcome = await imsctl("image", "list", "--share-status", "pending", *scope)
        assert outcome.code == 2, outcome
        assert "--shared or --all" in outcome.errors
        assert not daemon.state.calls
    for scope in (["--shared"], ["--all"]):
        assert (await imsctl("image", "list", "--share-status", "pending", *scope)).code == 0

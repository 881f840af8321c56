"""clients/README.md and the help pages say what the commands do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from imsctl import attachment_json, identity_json, image_json, json_fields, store_json, trace_json
from imsctl.command import CommonOptions
from imsctl.command_line import GROUPS, app
from imsctl.image_output import CSV_COLUMNS
from typer.testing import CliRunner

from imsd.v1 import (
    attachment_pb2,
    catalog_pb2,
    driver_pb2,
    guest_pb2,
    identity_pb2,
    image_pb2,
    job_pb2,
    key_pb2,
    store_pb2,
    trace_pb2,
    upload_pb2,
)

ROOT = Path(__file__).parents[3]
README = (ROOT / "clients" / "README.md").read_text()

# Where users are told what to type, beside the help pages.
PAGES = ("README.md", "SECURITY.md", "clients/README.md", "imsd/README.md", "systemd/README.md")

DOCUMENTED = {
    "image": image_json.image_fields(image_pb2.Image()),
    "guest": image_json.guest_fields(guest_pb2.GuestReport()),
    "attachment": attachment_json.attachment_fields(attachment_pb2.Attachment()),
    "job": json_fields.job_fields(job_pb2.Job()),
    "upload": json_fields.upload_fields(upload_pb2.Upload()),
    "key": json_fields.key_fields(key_pb2.Key()),
    "store": store_json.store_fields(store_pb2.Store()),
    "driver": json_fields.driver_fields(driver_pb2.Driver()),
    "format": json_fields.format_fields(catalog_pb2.Format()),
    "service": json_fields.service_fields(catalog_pb2.ServiceInfo()),
    "project": identity_json.project_fields(identity_pb2.Project()),
    "user": identity_json.user_fields(identity_pb2.User()),
    "group": identity_json.group_fields(identity_pb2.Group()),
    "grant": identity_json.grant_fields(identity_pb2.RoleGrant()),
    "token": identity_json.token_fields(identity_pb2.Token()),
    "trace": trace_json.trace_fields(trace_pb2.Trace()),
    "caller": identity_json.caller_fields(identity_pb2.Caller()),
}


COMMON = {field.name for field in fields(CommonOptions)} | {"output", "help"}


def commands() -> Iterator[tuple[str, Any]]:
    root = typer.main.get_command(app)
    context: Any = typer.Context(root)
    assert isinstance(root, typer.core.TyperGroup)
    for group_name in GROUPS:
        group = root.get_command(context, group_name)
        if not isinstance(group, typer.core.TyperGroup):  # a command by itself
            yield group_name, group
            continue
        for name, command in group.commands.items():
            yield f"{group_name} {name}", command


COMMANDS = dict(commands())


def section(title: str) -> str:
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", README, re.M | re.S)
    assert found, f"clients/README.md has no section {title!r}"
    return found[1]


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_every_json_field_is_documented_and_nothing_else(kind: str) -> None:
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", section(f"JSON of {kind}"), re.M)
    assert listed == list(DOCUMENTED[kind])


def test_csv_columns_are_json_fields() -> None:
    assert set(CSV_COLUMNS) <= set(DOCUMENTED["image"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    assert f"`imsctl {name}" in README
    text = section(f"imsctl {name.split()[0]}")
    for parameter in COMMANDS[name].params:
        flags = [flag for flag in parameter.opts if flag.startswith("--")]
        is_common = parameter.name in COMMON
        for flag in flags:
            assert flag in (README if is_common else text), f"{flag} of {name} is not documented"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_page_has_an_example_that_is_a_command(name: str) -> None:
    help_page = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "300"}, prog_name="imsctl")
    assert help_page.exit_code == 0
    assert "Example:" in help_page.output
    assert f"imsctl {name}" in help_page.output.partition("Example:")[2]


def help_page(*words: str, columns: int = 80) -> str:
    env = {"COLUMNS": str(columns)}
    outcome = CliRunner().invoke(app, [*words, "--help"], env=env, prog_name="imsctl")
    assert outcome.exit_code == 0
    return outcome.output


def test_a_help_page_shows_arguments_by_their_names_alone() -> None:
    page = help_page("image", "export")
    assert "Usage: imsctl image export [OPTIONS] IMAGE BUCKET:OBJECT" in page
    assert "<str>" not in page
    assert "Usage: imsctl object list [OPTIONS] BUCKET [PREFIX]" in help_page("object", "list")


def test_a_paragraph_of_a_help_page_ends_where_the_terminal_does() -> None:
    lines = [line.strip() for line in help_page("trace", "export").splitlines()]
    at = lines.index("With --append nothing is left out and nothing written twice, however often it")
    assert lines[at + 1].startswith("is run, and it fails when the daemon's traces are not")


def test_images_are_imported_and_listed_first() -> None:
    found = re.findall(r"^│ ([a-z-]+) ", help_page("image").partition("Commands")[2], re.M)
    assert found[:3] == ["import", "list", "show"]


def shown_commands(page: str) -> list[list[str]]:
    """The words behind `imsctl` of every command in the blocks of shell commands on ``page``."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    found = []
    for line in "\n".join(blocks).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words = list(lexer)
        for start in [at for at, word in enumerate(words) if word == "imsctl"]:
            rest = words[start + 1 :]
            end = next((at for at, word in enumerate(rest) if set(word) <= set("|&;<>()")), len(rest))
            found.append(rest[:end])
    return found


def unknown_words(words: list[str]) -> list[str]:
    """What of a command there is not: the command itself, or options."""
    names = [word for word in words if re.fullmatch("[a-z][a-z-]*", word)]
    name = next((name for name in (" ".join(names[:2]), *names[:1]) if name in COMMANDS), "")
    if not name:
        return words
    known = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
    return [word for word in words if word.startswith("-") and word != "-" and word not in known]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_shown_is_one(page: str) -> None:
    assert [words for words in shown_commands(page) if unknown_words(words)] == []


def test_commands_are_found_where_they_are_shown() -> None:
    shown = shown_commands("README.md")
    assert ["image", "list", "--all", "--search", "debian"] in shown
    assert len(shown) == len({" ".join(words) for words in shown}) > 30


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert unknown_words(["image", "explode", "debian-12"])
    assert unknown_words(["image", "list", "--loudly"]) == ["--loudly"]
    assert not unknown_words(["--token-file", "ann.token", "whoami"])


def test_the_version_is_printed() -> None:
    from imsd import __version__

    outcome = CliRunner().invoke(app, ["--version"])
    assert (outcome.exit_code, outcome.output) == (0, f"imsctl {__version__}\n")


def test_fields_of_an_empty_image_are_of_the_documented_kinds() -> None:
    image = DOCUMENTED["image"]
    assert image["active_at"] is None
    assert image["tags"] == {}
    assert image["virtual_size"] == 0
    assert DOCUMENTED["job"]["error"] is None

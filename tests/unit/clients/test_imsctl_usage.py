"""A wrong command line: one sentence, [USAGE], the help page to look at, exit 2, and nothing sent."""

from __future__ import annotations

import pytest

from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.fake_daemon import FakeDaemon

IMPORT = ["image", "import", "disk", "--name", "web"]


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("image import", ["image", "import", "disk"]),
        ("image import", [*IMPORT, "--tag", "no-value"]),
        ("image import", [*IMPORT, "--format", "floppy"]),
        ("image import", [*IMPORT, "--sha256", "abc"]),
        ("image import", [*IMPORT, "--kind", "tape"]),
        ("image import", [*IMPORT, "--os-type", "vms"]),
        ("image import", [*IMPORT, "--server-kind", "toaster"]),
        ("image import", [*IMPORT, "--license", "stolen"]),
        ("image import", [*IMPORT, "--support", "warp"]),
        ("image import", [*IMPORT, "--support", "kvm=yes"]),
        ("image import", [*IMPORT, "--support", "kvm-gpu-type"]),
        ("image import", [*IMPORT, "--tag"]),
        ("image import", [*IMPORT, "--tag", "a=1", "--tag", "a=2"]),
        ("image set", ["image", "set", "web", "--property", "a=1", "--property", "a="]),
        ("image list", ["image", "list", "--sort", "colour"]),
        ("image list", ["image", "list", "-o", "xml"]),
        ("image list", ["image", "list", "--public", "--shared"]),
        ("image list", ["image", "list", "--created", "gte"]),
        ("image list", ["image", "list", "--created", "after:2026-05-01"]),
        ("image list", ["image", "list", "--updated", "gt:yesterday"]),
        ("image list", ["image", "list", "--visibility", "some"]),
        ("image list", ["image", "list", "--share-status", "maybe"]),
        ("image list", ["image", "list", "--os-bits", "many"]),
        ("image set", ["image", "set", "web", "--agent", "hss", "--no-agents"]),
        ("image set", ["image", "set", "web", "--remove-support", "warp"]),
        ("image resolve", ["image", "resolve", "web", "--arch", "vax"]),
        ("image create-queued", ["image", "create-queued"]),
        ("image set", ["image", "set", "web"]),
        ("image download", ["image", "download", "web", "-o", "x.raw", "--compress", "lz4"]),
        ("image", ["image", "unknown"]),
        ("job list", ["job", "list", "--state", "asleep"]),
        ("image list", ["--address", "nowhere", "image", "list"]),
        ("", ["--colour"]),
        ("", ["unknown"]),
    ],
)
async def test_a_wrong_command_line_is_a_sentence_and_a_hint(
    imsctl: Imsctl, daemon: FakeDaemon, path: str, command: list[str]
) -> None:
    outcome = await imsctl(*command)
    assert outcome.code == 2, outcome
    sentence, hint = outcome.errors.splitlines()
    assert sentence.startswith("imsctl: ")
    assert sentence.endswith(" [USAGE]")
    assert hint == f"  see `{f'imsctl {path}'.strip()} --help`"
    assert outcome.text == ""
    assert not daemon.state.calls


async def test_the_sentence_names_what_is_wrong(imsctl: Imsctl) -> None:
    assert "imsctl: missing option '--name' [USAGE]" in (await imsctl("image", "import", "disk")).errors
    assert "imsctl: nothing to change: give" in (await imsctl("image", "set", "web")).errors


async def test_a_tag_that_is_given_twice_is_named(imsctl: Imsctl) -> None:
    assert "the tag a is given twice" in (await imsctl(*IMPORT, "--tag", "a=1", "--tag", "a=2")).errors


@pytest.mark.parametrize("command", [[], ["image"]], ids=["imsctl", "imsctl image"])
async def test_without_a_command_the_help_is_shown(imsctl: Imsctl, command: list[str]) -> None:
    outcome = await imsctl(*command)
    assert outcome.code == 2
    assert "Usage: imsctl" in outcome.text
    assert outcome.errors == ""

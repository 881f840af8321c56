"""Arguments that name a file, an image, a URL, or nothing."""

from __future__ import annotations

import pytest

from imsd.v1 import image_pb2
from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.fake_daemon import FakeDaemon

NO_DAEMON = ("--address", "unix:/nowhere/at/all")


async def test_an_image_is_inspected_with_its_format_sizes_and_findings(
    imsctl: Imsctl, daemon: FakeDaemon
) -> None:
    finding = image_pb2.Finding(code="RAW_SIZE_ROUNDED_UP", message="it was rounded up")
    sizes = {"data_size_bytes": 3000, "stored_size_bytes": 2000}
    image = daemon.add_image("web", b"x" * 4096, findings=[finding], **sizes)
    found = (await imsctl("image", "inspect", "web", "-o", "json")).json
    assert found.pop("guest")["inspected"] is True
    assert found == {
        "id": image.id,
        "name": "web",
        "disk_format": "raw",
        "virtual_size": 4096,
        "data_size": 3000,
        "stored_size": 2000,
        "digest": image.digest,
        "findings": [{"code": "RAW_SIZE_ROUNDED_UP", "message": "it was rounded up"}],
    }
    text = (await imsctl("image", "inspect", "web")).text
    lines = dict(line.split("  ", 1) for line in text.splitlines() if "  " in line)
    assert {name: lines[name].strip() for name in ("format", "virtual size", "data", "stored", "digest")} == {
        "format": "raw",
        "virtual size": "4.0 KiB (4096 bytes)",
        "data": "2.9 KiB",
        "stored": "2.0 KiB",
        "digest": image.digest,
    }
    assert "note: it was rounded up [RAW_SIZE_ROUNDED_UP]" in text


@pytest.mark.parametrize("command", ["inspect", "digest"])
async def test_what_is_neither_a_file_nor_an_image_is_told_so(imsctl: Imsctl, command: str) -> None:
    outcome = await imsctl("image", command, "nonexist")
    assert outcome.code == 1
    assert outcome.errors.startswith(
        "imsctl: there is no image 'nonexist', and no such file here [NOT_FOUND]\n"
    )


@pytest.mark.parametrize("command", ["inspect", "digest"])
async def test_a_missing_file_is_told_when_no_daemon_answers(imsctl: Imsctl, command: str) -> None:
    outcome = await imsctl("image", command, "gone.qcow2", *NO_DAEMON)
    assert outcome.code == 1
    assert outcome.errors.startswith("imsctl: there is no file 'gone.qcow2' here; to look for an image: no ")
    assert "[DAEMON_UNREACHABLE]" in outcome.errors


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("ftp://x/y", "only https:// URLs are fetched, not ftp:// [USAGE]"),
        ("file:///x", "only https:// URLs are fetched: give the path alone [USAGE]"),
    ],
)
@pytest.mark.parametrize(
    "command", [["import", "--name", "web"], ["inspect"], ["digest"], ["convert"]], ids=lambda args: args[0]
)
async def test_a_url_that_nobody_fetches_is_wrong_usage(
    imsctl: Imsctl, daemon: FakeDaemon, command: list[str], what: str, told: str
) -> None:
    target = ["x.raw"] if command == ["convert"] else []
    outcome = await imsctl("image", *command, what, *target)
    assert outcome.code == 2
    assert told in outcome.errors
    assert not daemon.state.calls


@pytest.mark.parametrize("command", [["inspect"], ["digest"], ["convert"]], ids=lambda args: args[0])
@pytest.mark.parametrize("scheme", ["https", "HTTP"])
async def test_only_an_import_fetches(imsctl: Imsctl, command: list[str], scheme: str) -> None:
    target = ["x.raw"] if command == ["convert"] else []
    outcome = await imsctl("image", *command, f"{scheme}://example.org/disk", *target)
    assert outcome.code == 2
    assert "only files of this machine are read here: `imsctl image import` lets the daemon" in outcome.errors

"""`imsctl image import --request-id`: a repeated import makes one image, and never another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from google.rpc import code_pb2

from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.disks import disk
from tests.unit.clients.fake_daemon import FakeDaemon
from tests.unit.clients.fake_state import Refusal

BY_REQUEST = ("image", "import", "disk.raw", "--name", "web", "--request-id", "nightly-1", "-o", "json")


async def test_a_repeated_request_id_gets_the_image_that_was_made(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    first = await imsctl(*BY_REQUEST)
    again = await imsctl(*BY_REQUEST)
    assert (again.code, again.json) == (0, first.json), again.errors
    assert len(daemon.state.images) == 1
    detached = await imsctl(*BY_REQUEST, "--detach")
    assert detached.json["image_ids"] == [first.json["id"]]
    assert daemon.state.calls.count("WriteUpload") == 1


async def test_a_request_id_of_another_import_is_refused(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    assert (await imsctl(*BY_REQUEST)).code == 0
    renamed = await imsctl(*BY_REQUEST, "--description", "another")
    assert renamed.code == 1
    assert "[REQUEST_ID_REUSED]" in renamed.errors
    assert "upload abort" not in renamed.errors
    other_file = await imsctl(*BY_REQUEST, "--format", "iso")
    assert "request id 'nightly-1' was used for a different import [REQUEST_ID_REUSED]" in other_file.errors


async def test_a_request_id_of_a_complete_upload_is_not_used_for_another_image(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.held = asyncio.Event()
    assert (await imsctl(*BY_REQUEST, "--detach")).code == 0
    renamed = await imsctl(*BY_REQUEST, "--description", "another")
    assert renamed.code == 1
    assert "[REQUEST_ID_REUSED]" in renamed.errors


async def test_a_request_id_of_an_aborted_import_says_that_it_was_used(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    daemon.state.refuse_next["WriteUpload"] = [Refusal(code_pb2.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "no")]
    assert (await imsctl(*BY_REQUEST)).code == 1
    (upload_id,) = daemon.state.uploads
    assert (await imsctl("upload", "abort", upload_id)).code == 0
    again = await imsctl(*BY_REQUEST)
    assert again.code == 1
    assert "request id 'nightly-1' was used" in again.errors
    assert "[ALREADY_EXISTS]" in again.errors


async def test_a_repeated_request_id_whose_image_was_deleted_says_so(
    imsctl: Imsctl, daemon: FakeDaemon, tmp_path: Path
) -> None:
    disk(tmp_path)
    image_id = (await imsctl(*BY_REQUEST)).json["id"]
    del daemon.state.images[image_id]
    again = await imsctl(*BY_REQUEST)
    assert again.code == 1
    assert f"image {image_id} was made, and was deleted meanwhile [NOT_FOUND]" in again.errors

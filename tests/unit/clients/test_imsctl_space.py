"""What imsctl says of space."""

from __future__ import annotations

from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.fake_daemon import FakeDaemon


async def test_what_an_image_takes_is_shown(imsctl: Imsctl, daemon: FakeDaemon) -> None:
    image = daemon.add_image("web")
    shown = await imsctl("image", "space", "web")
    assert "unique         3.0 MiB" in shown.text
    assert "shared         2.0 MiB" in shown.text
    assert "freed at once  1.0 MiB when it is gone for good" in shown.text
    found = (await imsctl("image", "space", "web", "-o", "json")).json
    assert (found["image_id"], found["current"]) == (image.id, True)
    assert found["counted_at"] == "2023-11-14T22:13:20Z"


async def test_what_the_images_of_a_project_take_is_shown(imsctl: Imsctl) -> None:
    shown = await imsctl("project", "space", "--project", "lab")
    assert "packs    3.0 MiB" in shown.text
    found = (await imsctl("project", "space", "--project", "lab", "-o", "json")).json
    assert (found["project_id"], found["image_count"]) == ("lab", 2)

"""Who can write to the store puts another manifest in the place of an attached image's."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.block_server_process import BlockServerProcess, answers, is_same
from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, random_disk

WAIT_SECONDS = 60.0
DISKS = {name: random_disk(3 * MIB, seed=seed) for seed, name in enumerate(("victim", "other", "foreign"))}


@pytest.fixture
def daemon(server: BlockServerProcess, tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path, block_server__run_dir=server.run_dir)
    daemon.start()
    for name, content in DISKS.items():
        file(tmp_path, name).write_bytes(content)
        daemon.imsctl("image", "import", str(file(tmp_path, name)), "--name", name)
    yield daemon
    assert daemon.stop() in (0, -9)
    assert "Traceback" not in daemon.log.read_text()


def file(folder: Path, name: str) -> Path:
    return folder / f"{name}.raw"


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def shown(daemon: DaemonProcess, attachment_id: str) -> dict[str, Any]:
    return next(each for each in daemon.imsctl_json("attachment", "list") if each["id"] == attachment_id)


def stored_manifest(daemon: DaemonProcess, image_id: str) -> Path:
    name = str(daemon.value(f"select manifest_id from image where id = '{image_id}'"))
    return daemon.state_dir / "store" / "manifests" / name


@pytest.mark.parametrize("is_deleted", [False, True], ids=["image", "deleted image"])
def test_the_manifest_of_another_image_is_not_served_as_the_attached_one(
    daemon: DaemonProcess, server: BlockServerProcess, tmp_path: Path, is_deleted: bool
) -> None:
    victim, other = (daemon.imsctl_json("image", "attach", name) for name in ("victim", "other"))
    foreign = daemon.imsctl_json("image", "show", "foreign")["id"]
    place = stored_manifest(daemon, victim["image_id"])
    if is_deleted:
        daemon.imsctl("image", "delete", "victim", "--now")
    daemon.stop()
    server.signal(signal.SIGKILL)
    kept = shutil.copytree(place, tmp_path / "kept")
    shutil.copytree(stored_manifest(daemon, foreign), place, dirs_exist_ok=True)
    daemon.start()
    until(lambda: shown(daemon, victim["id"])["state"] == "failed", "it is served, or not told")
    assert "that of a disk" in shown(daemon, victim["id"])["detail"]
    until(lambda: shown(daemon, other["id"])["state"] == "ready", "the other attachment does not go on")
    assert is_same(file(tmp_path, "other"), other["uri"])
    # The operator brings back what was there.
    shutil.copytree(kept, place, dirs_exist_ok=True)
    until(lambda: shown(daemon, victim["id"])["state"] == "ready", "it stays away though all is well")
    assert is_same(file(tmp_path, "victim"), victim["uri"])


def test_a_description_that_an_earlier_release_left_is_replaced(
    daemon: DaemonProcess, server: BlockServerProcess, tmp_path: Path
) -> None:
    made = daemon.imsctl_json("image", "attach", "victim")
    (left,) = (daemon.state_dir / "nbd" / "attachments").iterdir()
    daemon.kill()
    server.signal(signal.SIGKILL)
    left.write_text(left.read_text().replace('"digest"', '"colour"'))
    daemon.restart()
    until(lambda: answers(made["uri"]), "the disk is not there again")
    assert is_same(file(tmp_path, "victim"), made["uri"])
    assert '"digest"' in left.read_text()

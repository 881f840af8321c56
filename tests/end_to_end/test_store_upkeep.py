"""Figures, scrubs and repacking as an operator meets them: a real daemon, its files on the disk, kill -9."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.disks import MIB, random_disk
from tests.end_to_end.key_files import with_keys
from tests.end_to_end.test_damage import damage


def import_disk(daemon: DaemonProcess, folder: Path, name: str, *parts: bytes) -> Path:
    """Parts with zeros between them, so that equal parts are equal chunks."""
    disk = folder / f"{name}.raw"
    disk.write_bytes(b"".join(part + bytes(MIB) for part in parts))
    daemon.imsctl("image", "import", str(disk), "--name", name)
    return disk


def part(seed: int, size: int = 4 * MIB) -> bytes:
    return random_disk(size, seed=seed)


def until(is_so: Callable[[], Any]) -> Any:
    """What ``is_so`` answers when it is true at last."""
    for _ in range(600):
        if found := is_so():
            return found
        time.sleep(0.1)
    raise AssertionError("it never became so")


def test_what_images_share_is_told_and_dead_bytes_go(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    daemon = start_daemon(sweep_interval_seconds=3600, repack_dead_percent=0)
    import_disk(daemon, tmp_path, "first", *map(part, range(6)))
    disk = import_disk(daemon, tmp_path, "second", part(2), part(7))
    space = daemon.imsctl_json("image", "space", "second")
    assert (space["unique_bytes"], space["shared_bytes"], space["current"]) == (4 * MIB, 4 * MIB, True)
    assert "unique" in daemon.imsctl("image", "space", "first").stdout
    assert daemon.imsctl_json("project", "space")["pack_bytes"] == 28 * MIB
    daemon.imsctl("image", "delete", "first", "--now")
    planned = daemon.imsctl_json("store", "repack", "main", "--dead", "10", "--dry-run")["repack_report"]
    assert planned["dead_bytes"] == 20 * MIB
    done = daemon.imsctl_json("store", "repack", "main", "--dead", "10")["repack_report"]
    assert (done["images"], done["copied_bytes"]) == (1, 4 * MIB)
    until(lambda: sum(daemon.blobs("packs/").values()) == 8 * MIB)
    assert "intact" in daemon.imsctl("image", "verify", "second").stdout
    copy = tmp_path / "copy.raw"
    daemon.imsctl("image", "download", "second", "--format", "raw", "-o", str(copy))
    assert copy.read_bytes() == disk.read_bytes()
    shown = daemon.imsctl("store", "space").stdout
    assert "8.0 MiB in 2 packs" in shown
    assert "never" in shown


def test_a_scrub_names_the_images_that_are_damaged(daemon: DaemonProcess, tmp_path: Path) -> None:
    import_disk(daemon, tmp_path, "good", part(1, MIB))
    assert "intact" in daemon.imsctl("store", "scrub", "main").stdout
    import_disk(daemon, tmp_path, "bad", part(2, 8 * MIB))
    daemon.imsctl("image", "copy", "bad", "--name", "copy-of-bad")
    damage(daemon)  # of the largest pack
    found = daemon.imsctl("store", "scrub", "main", "--rate", "0", check=False)
    assert found.returncode == 1
    assert "1 damaged blobs, 2 images affected" in found.stdout
    assert "image bad " in found.stdout
    assert "image copy-of-bad " in found.stdout
    assert "image good" not in found.stdout
    told = daemon.imsctl("store", "damage", "main", "-o", "json", check=False)
    [entry] = json.loads(told.stdout)
    assert {image["name"] for image in entry["images"]} == {"bad", "copy-of-bad"}
    assert "2 images affected" in daemon.imsctl("store", "space", "main").stdout


def test_a_scrub_goes_on_after_kill_9(start_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    daemon = start_daemon(scrub_bytes_per_second=MIB)
    for seed in range(4):
        import_disk(daemon, tmp_path, f"disk-{seed}", part(seed))
    job = daemon.imsctl_json("store", "scrub", "main", "--detach")
    second = daemon.imsctl("store", "scrub", "main", check=False)
    assert "[SCRUB_RUNNING]" in second.stderr

    def done() -> int:
        scrub = daemon.imsctl_json("store", "space", "main")["scrub"]
        return int(scrub["report"]["packs"]) if scrub else 0

    before = until(lambda: done() > 0 and done())
    daemon.kill()
    daemon.restart()
    assert done() >= before
    daemon.imsctl("job", "watch", job["id"])
    report = daemon.imsctl_json("job", "show", job["id"])
    assert report["attempt"] == 2
    # Every pack was read once, by whichever run, but for the one at which the first was killed.
    packs = daemon.imsctl_json("store", "space", "main")
    assert report["scrub_report"]["packs"] == packs["pack_count"] > before
    assert report["scrub_report"]["read_bytes"] < 18 * MIB


def test_encrypted_images_are_counted_and_scrubbed_without_their_key(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    daemon = with_keys(start_daemon, tmp_path, repack_dead_percent=0, key_cache_seconds=0)
    daemon.imsctl("key", "create", "payroll")
    disk = tmp_path / "sealed.raw"
    disk.write_bytes(b"".join(part(seed, MIB) + bytes(MIB) for seed in range(3)))
    daemon.imsctl("image", "import", str(disk), "--name", "sealed", "--encrypt-with", "payroll")
    daemon.imsctl("key", "disable", "payroll")
    assert "intact" in daemon.imsctl("store", "scrub", "main").stdout
    space = daemon.imsctl_json("image", "space", "sealed")
    assert space["unique_bytes"] == space["stored_bytes"] > 3 * MIB
    damage(daemon)
    found = daemon.imsctl("store", "scrub", "main", check=False)
    assert "image sealed " in found.stdout

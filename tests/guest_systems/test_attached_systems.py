"""A machine starts from an image that lies in an S3 service and is fetched as it is read.

The second start is of a machine whose cache is empty: what the first one read is there before it asks.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.block_server_process import BlockServerProcess
from tests.end_to_end.daemon_process import DaemonProcess
from tests.guest_systems.machine import printed_until
from tests.guest_systems.systems import Systems
from tests.seaweedfs import ADMIN, SeaweedFS

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(1500)]

LOGIN = b"guest login:"
WAIT_SECONDS = 300.0


@pytest.fixture
def server() -> Iterator[BlockServerProcess]:
    server = BlockServerProcess()
    yield server
    server.close()


@pytest.fixture
def daemon(
    server: BlockServerProcess, tmp_path: Path, seaweedfs: SeaweedFS, s3_bucket: str
) -> Iterator[DaemonProcess]:
    config = tmp_path / "imsd.toml"
    config.write_text(
        f'default_store = "cloud"\n[stores.cloud]\ndriver = "s3"\nendpoint = "{seaweedfs.endpoint}"\n'
        f'bucket = "{s3_bucket}"\nkeys_file = "{ADMIN.write(tmp_path / "keys")}"\n'
    )
    daemon = DaemonProcess(tmp_path, config=config, block_server__run_dir=server.run_dir)
    daemon.start()
    yield daemon
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@dataclass(frozen=True)
class Attached:
    """An attachment by its id, with the commands that `imsctl image attach` tells."""

    daemon: DaemonProcess
    id: str
    commands: dict[str, str]

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.daemon.imsctl_json("attachment", "show", self.id)
        return found

    def fetched_bytes(self) -> int:
        return int(self.shown()["fetched_bytes"])

    def fetched_in_advance(self) -> int:
        """Once nothing more comes."""
        found = [-1]
        while found[-1] != (now := self.fetched_bytes()) or not now:
            assert len(found) < WAIT_SECONDS, "it does not end"
            found.append(now)
            time.sleep(1.0)
        return now

    def start(self, folder: Path) -> bytes:
        """The console of a machine, started with a fresh overlay in ``folder``, up to its login."""
        folder.mkdir()
        overlay = str(folder / "overlay.qcow2")
        make, start = (self.commands[use].replace("overlay.qcow2", overlay) for use in ("overlay", "start"))
        subprocess.run(shlex.split(make), check=True, capture_output=True)
        return printed_until([*shlex.split(start), "-no-reboot"], LOGIN, b"ALERT!", b"Kernel panic")


def attached(daemon: DaemonProcess, image: str) -> Attached:
    told = dict(
        line.split(maxsplit=1) for line in daemon.imsctl("image", "attach", image).stdout.splitlines()
    )
    return Attached(daemon, told["id"], told)


def test_a_machine_starts_from_what_is_fetched_and_the_next_from_what_is_there(
    systems: Systems, daemon: DaemonProcess, server: BlockServerProcess, tmp_path: Path
) -> None:
    disk = systems.disk("debian-ext4-bios-uefi")
    daemon.imsctl("image", "import", str(disk), "--name", "debian")
    stored = int(daemon.imsctl_json("image", "show", "debian")["stored_size"])

    first = attached(daemon, "debian")
    assert LOGIN in first.start(tmp_path / "first")
    fetched = first.fetched_bytes()
    assert 0 < fetched < 0.5 * stored
    daemon.imsctl("image", "detach", first.id)

    server.signal(signal.SIGTERM)
    shutil.rmtree(daemon.state_dir / "nbd" / "cache")
    second = attached(daemon, "debian")
    before = second.fetched_in_advance()
    assert before >= 0.98 * fetched
    assert LOGIN in second.start(tmp_path / "second")
    # What is read ahead of a client, and not by it, is in no record.
    assert second.fetched_bytes() - before < 0.3 * fetched
    assert second.shown()["errors"] == 0

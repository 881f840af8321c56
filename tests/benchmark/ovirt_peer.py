"""ovirt-imageio: its daemon serving one disk on the loopback, and its own sparse-aware client."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.benchmark.peer_environment import free_port, programs, wait_for_port
from tests.benchmark.stopwatch import command

CONFIGURATION = """\
[daemon]
systemd_enable = false
drop_privileges = false
run_dir = {folder}
[tls]
enable = false
[remote]
host = 127.0.0.1
port = {port}
[local]
enable = false
[control]
transport = unix
socket = {folder}/control.sock
[handlers]
keys = stderr
[logger_root]
handlers = stderr
level = WARNING
"""
DOWNLOAD = """\
import sys
from ovirt_imageio import client
client.download(sys.argv[1], sys.argv[2], None, fmt="raw", secure=False)
"""


class OvirtImageio:
    """Serves ``disk``. Raises NotAvailable when it cannot be had here."""

    def __init__(self, folder: Path, disk: Path) -> None:
        bin_folder = programs("ovirt", "ovirt-imageio==2.5.1")
        self.folder = folder
        self._python = bin_folder / "python"
        (folder / "conf.d").mkdir(parents=True)
        port = free_port()
        (folder / "conf.d" / "50.conf").write_text(CONFIGURATION.format(folder=folder, port=port))
        ticket = folder / "ticket.json"
        facts = {"uuid": "disk", "url": f"file://{disk}", "size": disk.stat().st_size, "ops": ["read"]}
        ticket.write_text(json.dumps({**facts, "timeout": 36000, "sparse": True}))
        self._url = f"http://127.0.0.1:{port}/images/disk"
        log = folder / "log"
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [bin_folder / "ovirt-imageio", "-c", folder, "-t", ticket],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        wait_for_port(port, self.process, log)

    def download(self, target: Path) -> None:
        command(self._python, "-c", DOWNLOAD, self._url, target)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

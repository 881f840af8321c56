"""A real daemon in a process of its own, on a unix socket under the test's folder."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc

from imsd.core.store_ownership import OWNER_BLOB
from imsd.metadata.tables import metadata
from imsd.v1 import (
    attachment_pb2_grpc,
    bucket_pb2_grpc,
    catalog_pb2_grpc,
    driver_pb2_grpc,
    identity_pb2_grpc,
    image_pb2_grpc,
    job_pb2_grpc,
    key_pb2_grpc,
    member_pb2_grpc,
    policy_pb2_grpc,
    quota_pb2_grpc,
    store_pb2_grpc,
    store_upkeep_pb2_grpc,
    tag_pb2_grpc,
    trace_pb2_grpc,
    upload_pb2_grpc,
)

# Tables whose rows stay when an image is gone.
NOT_OF_IMAGES = {"alembic_version", "encryption_key", "job", "project", "request", "service", "usage_record"}
NOT_OF_IMAGES |= {"store_scrub", "scrub_damage"}
NOT_OF_IMAGES |= {name for name in metadata.tables if name.startswith("trace")}

START_SECONDS = 30.0
STOP_SECONDS = 60.0


class DaemonProcess:
    """Start, stop, kill and restart it; its state directory and socket stay the same."""

    def __init__(self, folder: Path, options: Sequence[str] = (), **settings: Any) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.socket = folder / "imsd.sock"
        self.address = f"unix:{self.socket}"
        self.log = folder / "daemon.log"
        self._options = list(options)
        self._settings = {f"IMSD_{key.upper()}": str(value) for key, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def store(self) -> Path:
        return self.state_dir / "store"

    def start(self) -> None:
        self.launch()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"the daemon ended at its start:\n{self.log.read_text()}")
            if self.socket.exists() and self._is_serving():
                return
            time.sleep(0.05)
        raise AssertionError(f"the daemon did not become ready:\n{self.log.read_text()}")

    def launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "imsd", "serve", "--state-dir", str(self.state_dir)]
        command += ["--listen", self.address, *self._options]
        environment = os.environ | self._settings
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return self._process

    def kill(self) -> None:
        """As a crash: SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """As systemd does: SIGTERM; returns the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_SECONDS)
        return self._process.returncode

    def restart(self) -> None:
        self.start()

    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def blobs(self, prefix: str = "") -> dict[str, int]:
        """Every blob of images and uploads whose id starts with ``prefix``, with its size."""
        found = {}
        for folder, _, names in os.walk(self.store):  # which does not mind folders that vanish meanwhile
            for name in names:
                path = Path(folder, name)
                blob = str(path.relative_to(self.store))
                if blob.startswith(prefix) and name != OWNER_BLOB:
                    with suppress(FileNotFoundError):
                        found[blob] = path.stat().st_size
        return found

    def thread_count(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def rows(self) -> dict[str, int]:
        """How many rows each table of images, uploads and their bytes has, where it has any."""
        tables = metadata.tables.keys() - NOT_OF_IMAGES
        with closing(sqlite3.connect(f"file:{self.state_dir}/imsd.sqlite3?mode=ro", uri=True)) as database:
            counts = {
                table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables
            }
        return {table: count for table, count in counts.items() if count}

    def value(self, query: str) -> Any:
        """The one value that ``query`` finds in the database."""
        with closing(sqlite3.connect(f"file:{self.state_dir}/imsd.sqlite3?mode=ro", uri=True)) as database:
            return database.execute(query).fetchone()[0]

    def values(self, query: str) -> list[Any]:
        """The first column of all rows that ``query`` finds in the database."""
        with closing(sqlite3.connect(f"file:{self.state_dir}/imsd.sqlite3?mode=ro", uri=True)) as database:
            return [row[0] for row in database.execute(query)]

    def imsctl(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command-line client against this daemon."""
        environment = os.environ | {"IMSD_ADDRESS": self.address, "NO_COLOR": "1", "COLUMNS": "200"}
        result = subprocess.run(
            [sys.executable, "-m", "imsctl", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            **options,
        )
        if check and result.returncode:
            raise AssertionError(f"imsctl {arguments} ended with {result.returncode}:\n{result.stderr}")
        return result

    def imsctl_json(self, *arguments: str) -> Any:
        return json.loads(self.imsctl(*arguments, "--output", "json").stdout)

    def _is_serving(self) -> bool:
        with grpc.insecure_channel(self.address) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=1)
            except grpc.FutureTimeoutError:
                return False
        return True


class Stubs:
    """The services of one channel. Their calls are not typed: the channel is, for mypy, anything."""

    def __init__(self, channel: Any) -> None:
        self.images: Any = image_pb2_grpc.ImageServiceStub(channel)
        self.uploads: Any = upload_pb2_grpc.UploadServiceStub(channel)
        self.jobs: Any = job_pb2_grpc.JobServiceStub(channel)
        self.catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        self.drivers: Any = driver_pb2_grpc.DriverServiceStub(channel)
        self.members: Any = member_pb2_grpc.MemberServiceStub(channel)
        self.tags: Any = tag_pb2_grpc.TagServiceStub(channel)
        self.quotas: Any = quota_pb2_grpc.QuotaServiceStub(channel)
        self.attachments: Any = attachment_pb2_grpc.AttachmentServiceStub(channel)
        self.buckets: Any = bucket_pb2_grpc.BucketServiceStub(channel)
        self.identity: Any = identity_pb2_grpc.IdentityServiceStub(channel)
        self.policies: Any = policy_pb2_grpc.PolicyServiceStub(channel)
        self.store_upkeep: Any = store_upkeep_pb2_grpc.StoreUpkeepServiceStub(channel)
        self.stores: Any = store_pb2_grpc.StoreServiceStub(channel)
        self.keys: Any = key_pb2_grpc.KeyServiceStub(channel)
        self.traces: Any = trace_pb2_grpc.TraceServiceStub(channel)

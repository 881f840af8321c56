"""A disk becomes an image in an S3 service: against a compressed file that is made, then uploaded."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from tests.benchmark.disks import Disks
from tests.benchmark.imports import BEST_FLAGS
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.report import Row, speed_row
from tests.benchmark.stopwatch import Contender, Times, command, measure
from tests.seaweedfs import ADMIN, REGION, SeaweedFS, started_seaweedfs

# The fastest of those that were tried: parts of 16 MiB, four at once, bodies not signed.
UPLOAD = """
import os, sys
import obstore
from obstore.store import S3Store
bucket, endpoint, path = sys.argv[1:]
store = S3Store(bucket, endpoint=endpoint, region="%s", unsigned_payload=True,
    client_options={"allow_http": True, "timeout": "600s"})
with open(path, "rb") as file:
    obstore.put(store, "disk.qcow2", file, chunk_size=16 << 20, max_concurrency=4)
os._exit(0)
"""


class Service:
    """A SeaweedFS with one bucket at a time."""

    def __init__(self, server: SeaweedFS, folder: Path) -> None:
        self._server = server
        self._keys = ADMIN.write(folder / "keys")
        self.config = folder / "imsd.toml"
        self._bucket = ""

    def make(self) -> None:
        """A new bucket, and the configuration of a daemon that keeps its images there."""
        self.remove()
        self._bucket = self._server.make_bucket()
        self.config.write_text(
            'default_store = "main"\n[stores.main]\ndriver = "s3"\n'
            f'bucket = "{self._bucket}"\nendpoint = "{self._server.endpoint}"\nkeys_file = "{self._keys}"\n'
        )

    def remove(self) -> None:
        if self._bucket:
            self._server.remove_bucket(self._bucket)

    def upload(self, path: Path) -> None:
        arguments = (self._bucket, self._server.endpoint, path)
        command(sys.executable, "-c", UPLOAD % REGION, *arguments, env={**os.environ, **ADMIN.environment})


def s3_import(disks: Disks, rounds: int) -> tuple[list[Row], list[Times]]:
    target = disks.scratch / "out.qcow2"
    disk = disks.first
    with ExitStack() as undo:
        server = undo.enter_context(started_seaweedfs(disks.scratch / "seaweedfs"))
        service = Service(server, disks.scratch)
        settings = {"IMSD_CONFIG": str(service.config)}
        daemon = undo.enter_context(closing(OurDaemon(disks.scratch / "daemon", settings)))

        def start() -> None:
            service.make()
            daemon.start()

        mine = Contender(
            label="imsd, import into S3",
            command=f"imsctl image import {disk.name} --name disk",
            before=start,
            run=lambda: daemon.imsctl("image", "import", disk, "--name", "disk"),
            after=daemon.stop,
            size=lambda: int(daemon.image("disk")["stored_size"]),
        )

        def convert_and_upload() -> None:
            command("qemu-img", "convert", "-O", "qcow2", *BEST_FLAGS, disk, target)
            service.upload(target)

        peer = Contender(
            label="qemu-img -c, zstd, then S3 upload",
            command=f"qemu-img convert -O qcow2 {' '.join(BEST_FLAGS)} {disk.name} out.qcow2; obstore.put",
            before=service.make,
            run=convert_and_upload,
            after=lambda: target.unlink(missing_ok=True),
            size=lambda: target.stat().st_size,
        )
        times = measure([mine, peer], rounds)
    row = speed_row("RAW file → image in an S3 service", times[mine.label], times[peer.label], 2)
    return [row], list(times.values())

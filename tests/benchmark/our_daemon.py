"""A daemon of our own for a measurement, and `imsctl` against it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from imsd.metadata.database import open_database
from tests.benchmark.stopwatch import command

PROGRAMS = Path(sys.executable).parent
DATABASE_NAME = "imsd.sqlite3"
START_PATIENCE_SECONDS = 30.0
STOP_PATIENCE_SECONDS = 60.0


async def _make_tables(url: str) -> None:
    async with open_database(url):
        pass


def our_environment() -> dict[str, str]:
    """Python may keep what it compiled, as it does for programs that are installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class OurDaemon:
    """`imsd serve` on embedded defaults with its state in ``folder``, which is made and removed.

    ``settings``: variables of its environment, beside those.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._settings = dict(settings or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._socket_folder = Path(tempfile.mkdtemp(prefix="imsd-bench."))
        self.address = f"unix:{self._socket_folder}/imsd.sock"

    def start(self, fill: Callable[[Path], None] | None = None) -> None:
        """Start on an empty state directory and wait until it answers.

        ``fill`` gets the path of the daemon's database, which has tables and no rows.
        """
        self.stop()
        self.folder.mkdir(parents=True)
        if fill is not None:
            (self.folder / "state").mkdir(mode=0o700)
            database = self.folder / "state" / DATABASE_NAME
            asyncio.run(_make_tables(f"sqlite+aiosqlite:///{database}"))
            fill(database)
        with (self.folder / "imsd.log").open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAMS / "imsd", "serve", "--state-dir", self.folder / "state", "--listen", self.address],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_PATIENCE_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the daemon did not start:\n{(self.folder / 'imsd.log').read_text()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it, if it runs, and remove what it stored."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STOP_PATIENCE_SECONDS)
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def imsctl(self, *arguments: str | Path) -> None:
        command(PROGRAMS / "imsctl", *arguments, env=self.environment())

    def image(self, name: str) -> dict[str, Any]:
        """The fields of an image."""
        shown = subprocess.run(
            [PROGRAMS / "imsctl", "image", "show", name, "-o", "json"],
            env=self.environment(),
            capture_output=True,
            check=True,
        )
        fields: dict[str, Any] = json.loads(shown.stdout)
        return fields

    def environment(self) -> dict[str, str]:
        """Defaults only, whatever this machine's own configuration says; but for how many images may be."""
        settings = {"IMSD_CONFIG": os.devnull, "IMSD_QUOTAS__IMAGES": "-1"}
        return {**our_environment(), "IMSD_ADDRESS": self.address, **settings, **self._settings}

    def peak_memory_bytes(self) -> int:
        """The most memory the daemon held at once so far (VmHWM, see proc(5))."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise RuntimeError("/proc has no VmHWM")

    def _answers(self) -> bool:
        asked = subprocess.run(
            [PROGRAMS / "imsctl", "driver", "list"], env=self.environment(), capture_output=True
        )
        return asked.returncode == 0

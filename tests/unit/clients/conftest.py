"""A fake daemon in this process, a client of it, and imsctl as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ims_client import ImsClient, connect

from tests.unit.clients.fake_daemon import FakeDaemon

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Outcome:
    """How a run of imsctl ended."""

    code: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        return self.output.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.output)


class Imsctl:
    """Runs the command line against the fake daemon."""

    def __init__(self, daemon: FakeDaemon, folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "IMSD_ADDRESS": daemon.address,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients"), str(ROOT / "plugins")]),
            "COLUMNS": "300",
            "NO_COLOR": "1",
            "TZ": "UTC",
        }

    async def start(
        self, *arguments: str, stdin: Any = asyncio.subprocess.DEVNULL, shell: str = ""
    ) -> asyncio.subprocess.Process:
        """``shell``: a script that runs its own arguments, which are the command."""
        return await asyncio.create_subprocess_exec(
            *(["/bin/sh", "-c", shell, "sh"] if shell else []),
            sys.executable,
            "-m",
            "imsctl",
            *arguments,
            cwd=self._folder,
            env=self._environment,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def finish(self, process: Process, given: bytes | None = None) -> Outcome:
        output, errors = await process.communicate(given)
        assert process.returncode is not None
        assert b"Traceback" not in errors, errors.decode()
        return Outcome(process.returncode, output, errors.decode())

    async def __call__(self, *arguments: str, given: bytes | None = None) -> Outcome:
        stdin = asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE
        return await self.finish(await self.start(*arguments, stdin=stdin), given)


@pytest.fixture
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path_factory.mktemp("d"))  # the path of a socket has 107 bytes at most
    await daemon.start()
    yield daemon
    await daemon.close()


@pytest.fixture
async def client(daemon: FakeDaemon) -> AsyncIterator[ImsClient]:
    async with connect(daemon.address) as client:
        yield client


@pytest.fixture
def imsctl(daemon: FakeDaemon, tmp_path: Path) -> Imsctl:
    return Imsctl(daemon, tmp_path)


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until ``condition()`` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)

"""A throw-away PostgreSQL server on a unix socket; when run by root, as the user ``postgres``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The server refuses to be run by root.
IS_ROOT = os.geteuid() == 0
AS_WHOM: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if IS_ROOT else {}

SETTINGS = "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c shared_buffers=16MB"


def find_programs() -> Path:
    """Where ``initdb`` and ``pg_ctl`` are, the newest version first. Raises FileNotFoundError."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
    if packaged:
        return packaged[0].parent
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    raise FileNotFoundError("no PostgreSQL server is installed: `make test` says how to")


@contextmanager
def run_server(programs: Path, folder: Path) -> Iterator[str]:
    """The address of an empty database in ``folder``, which root gives to the user ``postgres``."""
    if IS_ROOT:
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    initdb: list[str | Path] = [
        "-D",
        data,
        "-U",
        "ims",
        "--auth=trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]
    _run(programs / "initdb", *initdb)
    options = f"-k {folder} {SETTINGS}"
    _run(programs / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-t", "30", "-o", options, "start")
    try:
        yield f"postgresql+asyncpg://ims@/postgres?host={folder}"
    finally:
        _run(programs / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop")


def _run(*command: str | Path) -> None:
    # Not captured: the server would inherit the pipe, and this would wait for it to end.
    subprocess.run([str(word) for word in command], **AS_WHOM, cwd="/", stdout=subprocess.DEVNULL, check=True)

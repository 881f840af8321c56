"""A throw-away PostgreSQL server on a unix socket, run as the user ``postgres``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c shared_buffers=16MB"


def find_programs() -> Path | None:
    """Where ``initdb`` and ``pg_ctl`` are, the newest version first."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
    if packaged:
        return packaged[0].parent
    found = shutil.which("pg_ctl")
    return Path(found).resolve().parent if found else None


@contextmanager
def run_server(programs: Path, folder: Path) -> Iterator[str]:
    """The address of an empty database; ``folder`` is given to the user ``postgres``."""
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
    _run_as_postgres(programs / "initdb", *initdb)
    options = f"-k {folder} {SETTINGS}"
    _run_as_postgres(
        programs / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-t", "30", "-o", options, "start"
    )
    try:
        yield f"postgresql+asyncpg://ims@/postgres?host={folder}"
    finally:
        _run_as_postgres(programs / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop")


def _run_as_postgres(*command: str | Path) -> None:
    # Not captured: the server would inherit the pipe, and this would wait for it to end.
    subprocess.run(
        [str(word) for word in command], user="postgres", group="postgres", extra_groups=[], cwd="/",
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip

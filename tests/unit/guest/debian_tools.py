"""Programs of Debian that make volumes, wherever a distribution keeps them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# A user's path may lack the directories of programs that make file systems.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def run_tool(*command: str | Path, entries: str | None = None) -> str:
    """What a program prints, given ``entries`` to read; fails the test when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        input=entries,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": SEARCH_PATH},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

"""Standard output, whose failures can be told from those of other files."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class OutputFailed(Exception):
    """Nothing can be written to standard output; ``str()`` says why."""

    hint = "redirect it to a file with room, or to /dev/null"


class _Output(io.FileIO):
    """Raises `OutputFailed`, and BrokenPipeError when nobody reads any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            discard_output()
            raise OutputFailed(f"cannot write the output: {error.strerror}") from error


def watch_output() -> None:
    """From now on `print` raises as `_Output` does. Raises `OutputFailed` when the output is closed."""
    before: Any = sys.stdout
    if before is None:
        raise OutputFailed("standard output is closed")
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(before.fileno(), "w", closefd=False)),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.line_buffering,
    )


def discard_output() -> None:
    """Let what is still to be written go nowhere: Python would try again at its exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)

"""Where directories lie in each other, whatever names lead there."""

from __future__ import annotations

import os
from pathlib import Path


def lies_in(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or something below it; neither need exist. Blocks.

    Symbolic links and directories that are mounted at a second place are seen through.
    """
    inner, outer = Path(os.path.realpath(inner)), Path(os.path.realpath(outer))
    wanted = _identity(outer)
    return any(
        each == outer or (wanted is not None and _identity(each) == wanted)
        for each in (inner, *inner.parents)
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino

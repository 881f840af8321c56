"""Files to import."""

from __future__ import annotations

import random
from pathlib import Path

MIB = 1 << 20


def disk(folder: Path, size: int = 5 * MIB + 11, name: str = "disk.raw") -> bytes:
    """Write a file of random bytes, the same for the same size, and return them."""
    content = random.Random(size).randbytes(size)
    (folder / name).write_bytes(content)
    return content

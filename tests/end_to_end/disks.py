"""Disks for tests: the same bytes every time, with data, holes and odd edges."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

MIB = 1 << 20


def patterned_disk(size: int, seed: int = 1, data_share: float = 0.4) -> bytes:
    """A disk of which about ``data_share`` of the 64 KiB stretches hold bytes that compress by half."""
    dice = random.Random(seed)
    disk = bytearray(size)
    for start in range(0, size, 64 << 10):
        if dice.random() < data_share:
            length = min(64 << 10, size - start)
            half = dice.randbytes(length // 2)
            disk[start : start + length] = (half + bytes(length))[:length]
    return bytes(disk)


def random_disk(size: int, seed: int = 1) -> bytes:
    """A disk that neither compresses nor deduplicates."""
    return random.Random(seed).randbytes(size)


def qemu_img(*arguments: str | Path) -> str:
    result = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def as_qcow2(folder: Path, disk: bytes, *options: str) -> bytes:
    """``disk`` as a QCOW2 file made by qemu-img."""
    raw, qcow2 = folder / "disk.raw", folder / "disk.qcow2"
    raw.write_bytes(disk)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, qcow2)
    return qcow2.read_bytes()

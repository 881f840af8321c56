"""Files of table formats that QEMU made, and what QEMU takes them for."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.unit.formats.disk_files import qemu_img


@dataclass(frozen=True)
class Layout:
    """One way in which `qemu-img convert` writes a format; ``options``: of ``-o``, if any."""

    name: str
    options: str = ""
    is_compressed: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.options}{' compressed' * self.is_compressed}"


def converted(raw: Path, layout: Layout) -> Path:
    """The disk in ``raw`` as a file beside it."""
    path = raw.with_name(f"disk.{layout.name}")
    options = ["-o", layout.options] if layout.options else []
    command = ["convert", "-f", "raw", "-O", layout.name, *options]
    if not layout.is_compressed:
        qemu_img(*command, raw, path)
        return path
    # For a compressed qcow, qemu-img 7.2 writes the whole file and then fails without a word.
    subprocess.run(["qemu-img", *command, "-c", raw, path], timeout=60)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", layout.name, raw, path)
    return path


def as_qemu_reads(path: Path, name: str) -> bytes:
    """The disk that QEMU sees in a file of format ``name``."""
    back = path.with_name("back.raw")
    qemu_img("convert", "-f", name, "-O", "raw", path, back)
    return back.read_bytes()


def can_qemu_open(path: Path, name: str) -> bool:
    done = subprocess.run(["qemu-img", "info", "-f", name, path], capture_output=True, timeout=60)
    return done.returncode == 0


def write_as_guest(path: Path, name: str, *commands: str) -> None:
    """Run commands of `qemu-io` on a file of format ``name``."""
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", name, *arguments, path], check=True, capture_output=True, timeout=60)

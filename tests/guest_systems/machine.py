"""A machine in QEMU, without KVM, of which only the console is seen."""

from __future__ import annotations

import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

QEMU = (
    *("qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "512", "-nodefaults", "-display", "none"),
    *("-serial", "stdio", "-no-reboot"),
)
# A start takes half a minute; an emulated machine on a busy one takes longer.
PATIENCE_SECONDS = 400.0


def console_until(disk: Path, *signs: bytes) -> bytes:
    """What a machine started from the RAW file ``disk`` prints; its writes are lost."""
    return printed_until([*QEMU, "-drive", f"file={disk},if=virtio,format=raw,snapshot=on"], *signs)


def printed_until(command: Sequence[str], *signs: bytes) -> bytes:
    """What ``command`` prints, until one of ``signs`` is in it or patience ends; then it is killed."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as machine:
        assert machine.stdout is not None
        printed = b""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(machine.stdout, selectors.EVENT_READ)
            while not any(sign in printed for sign in signs) and time.monotonic() < deadline:
                if selector.select(1.0):
                    piece = machine.stdout.read1(65536)  # type: ignore[attr-defined]
                    if not piece:
                        break
                    printed += piece
        machine.kill()
    return printed

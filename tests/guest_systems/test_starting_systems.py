"""What inspection says of starting a disk is true: QEMU starts it, without KVM."""

from __future__ import annotations

import selectors
import subprocess
import time
from pathlib import Path

import pytest

from imsd.guest.codes import Severity
from tests.guest_systems.looking import codes, looked_at
from tests.guest_systems.systems import Systems

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]

QEMU = (
    *("qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "512", "-nodefaults", "-display", "none"),
    *("-serial", "stdio", "-no-reboot"),
)
# A start takes half a minute; an emulated machine on a busy one takes longer.
PATIENCE_SECONDS = 400.0


def console_until(disk: Path, *signs: bytes) -> bytes:
    """What a machine started from ``disk`` prints, until one of ``signs`` is in it or patience ends."""
    drive = f"file={disk},if=virtio,format=raw,snapshot=on"
    with subprocess.Popen(
        [*QEMU, "-drive", drive], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
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


def test_a_disk_that_nothing_speaks_against_starts(systems: Systems) -> None:
    disk = systems.disk("debian-ext4-bios-uefi")
    assert set(codes(looked_at(disk))) == {Severity.ADVICE}
    assert b"guest login:" in console_until(disk, b"login:", b"ALERT!", b"Kernel panic")


def test_a_disk_without_drivers_in_its_initramfs_does_not_start(systems: Systems) -> None:
    disk = systems.disk("debian-without-virtio")
    assert codes(looked_at(disk))[Severity.BLOCKS_BOOT] == {"VIRTIO_DISK_MISSING"}
    assert b"does not exist.  Dropping to a shell!" in console_until(disk, b"login:", b"Dropping to a shell!")

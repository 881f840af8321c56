"""What inspection says of starting a disk is true: QEMU starts it, without KVM."""

from __future__ import annotations

import pytest

from imsd.guest.codes import Severity
from tests.guest_systems.looking import codes, looked_at
from tests.guest_systems.machine import console_until
from tests.guest_systems.systems import Systems

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]


def test_a_disk_that_nothing_speaks_against_starts(systems: Systems) -> None:
    disk = systems.disk("debian-ext4-bios-uefi")
    assert set(codes(looked_at(disk))) == {Severity.ADVICE}
    assert b"guest login:" in console_until(disk, b"login:", b"ALERT!", b"Kernel panic")


def test_a_disk_without_drivers_in_its_initramfs_does_not_start(systems: Systems) -> None:
    disk = systems.disk("debian-without-virtio")
    assert codes(looked_at(disk))[Severity.BLOCKS_BOOT] == {"VIRTIO_DISK_MISSING"}
    assert b"does not exist.  Dropping to a shell!" in console_until(disk, b"login:", b"Dropping to a shell!")

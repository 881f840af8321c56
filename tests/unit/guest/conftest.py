"""Crafted volumes that several tests of one module read."""

from __future__ import annotations

import pytest

from tests.unit.guest.btrfs_disks import suse_like, ubuntu_like


@pytest.fixture(scope="module")
def ubuntu() -> bytes:
    return ubuntu_like().finish()


@pytest.fixture(scope="module")
def suse() -> bytes:
    return suse_like().finish()

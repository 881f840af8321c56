"""Inspecting a disk in a file, and what of the report a test compares."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from imsd.guest.budget import Budget, PagedVolume
from imsd.guest.codes import Severity
from imsd.guest.inspect import inspect
from imsd.guest.report import GuestReport


def looked_at(disk: Path) -> GuestReport:
    """What an inspection with the default budget says of a disk."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        volume = PagedVolume(
            disk.stat().st_size, lambda offset, length: os.pread(fd, length, offset), Budget()
        )
        return inspect(volume)
    finally:
        os.close(fd)


def codes(report: GuestReport) -> dict[Severity, set[str]]:
    """The findings by their severity."""
    found: dict[Severity, set[str]] = defaultdict(set)
    for each in report.findings:
        found[each.severity].add(each.code)
    return dict(found)

"""Files of disks, opened and closed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imsd.formats.detect import open_image
from imsd.formats.reader import OpenedImage
from imsd.formats.source import ByteSource
from tests.unit.formats.disk_files import LIMIT, file_source


@pytest.fixture
def source_of() -> Iterator[Callable[[Path], ByteSource]]:
    """A byte source of a local file, closed after the test."""
    opened: list[int] = []
    yield lambda path: file_source(path, opened)
    for fd in opened:
        os.close(fd)


@pytest.fixture
def image_of(source_of: Callable[[Path], ByteSource]) -> Callable[[Path], OpenedImage]:
    """The disk in a local file, whatever its format."""
    return lambda path: open_image(source_of(path), None, LIMIT)

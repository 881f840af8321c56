"""What the tests of refused files share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.disk_files import LIMIT, read_all


def refusal(call: Callable[[], object]) -> str:
    """The reason for which ``call`` is refused, with a message and a hint."""
    with pytest.raises(ImageRefused) as refused:
        call()
    assert refused.value.message
    assert refused.value.hint
    return refused.value.reason


def open_reason(file: bytes, declared: str, limit: int = LIMIT) -> str:
    return refusal(lambda: open_image(MemorySource(file), declared, limit))


def read_reason(file: bytes, declared: str) -> str:
    """The reason for which a file that opens is refused when all its disk is read."""
    blocks = open_image(MemorySource(file), declared, LIMIT).blocks
    return refusal(lambda: read_all(blocks))


def outcome(file: bytes, declared: str) -> str:
    """``"read"``, or the reason for which the file is refused; anything else that comes out is a defect."""
    try:
        read_all(open_image(MemorySource(file), declared, 64 << 20).blocks)
    except ImageRefused as refused:
        return refused.reason
    return "read"

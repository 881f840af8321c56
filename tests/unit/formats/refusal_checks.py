"""How tests look at refusals: the reason, and that there is a message and a hint."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.disk_files import LIMIT, read_all

# What may come of a file that was damaged anywhere.
OUTCOMES = {
    "read",
    "IMAGE_MALFORMED",
    "IMAGE_TRUNCATED",
    "IMAGE_BACKING_FILE",
    "IMAGE_EMPTY",
    "IMAGE_TOO_LARGE",
    "IMAGE_UNKNOWN_FEATURE",
    "FORMAT_UNSUPPORTED",
    "FORMAT_MISMATCH",
    "FORMAT_AMBIGUOUS",
}


def refusal(call: Callable[[], object]) -> str:
    """The reason for which ``call`` refuses."""
    with pytest.raises(ImageRefused) as refused:
        call()
    assert refused.value.message
    assert refused.value.hint
    return refused.value.reason


def open_reason(file: bytes, name: str, limit: int = LIMIT) -> str:
    """Why a file, declared as of format ``name``, is refused when it is opened."""
    return refusal(lambda: open_image(MemorySource(file), name, limit))


def read_reason(file: bytes, name: str) -> str:
    """Why a file that opens is refused when its disk is read."""
    blocks = open_image(MemorySource(file), name, LIMIT).blocks
    return refusal(lambda: read_all(blocks))


def outcome(file: bytes, declared: str) -> str:
    """``"read"``, or the reason for which the file is refused; anything else that comes out is a defect."""
    try:
        read_all(open_image(MemorySource(file), declared, 64 << 20).blocks)
    except ImageRefused as refused:
        return refused.reason
    return "read"

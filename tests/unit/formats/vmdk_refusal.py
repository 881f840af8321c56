"""Why a VMDK file is refused: when it is opened, read, or decoded in one pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from imsd.formats.vmdk_decoder import VmdkDecoder
from tests.unit.formats.disk_files import LIMIT, read_all
from tests.unit.formats.stream_feeding import fed


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ImageRefused) as refused:
        call()
    assert refused.value.message
    assert refused.value.hint
    return refused.value.reason


def open_reason(file: bytes, limit: int = LIMIT) -> str:
    return refusal(lambda: open_image(MemorySource(file), "vmdk", limit))


def read_reason(file: bytes) -> str:
    blocks = open_image(MemorySource(file), "vmdk", LIMIT).blocks
    return refusal(lambda: read_all(blocks))


def decode_reason(file: bytes) -> str:
    return refusal(lambda: fed(VmdkDecoder, file))

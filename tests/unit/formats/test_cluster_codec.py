"""Clusters come out as they went in, and never longer than asked for."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from imsd.formats.cluster_codec import deflate, deflate_small, deflate_smaller, inflate_into
from tests.unit.formats.disk_files import KIB, noise, text

CLUSTER = text(64 * KIB)


def inflated(data: bytes, length: int) -> bytes | None:
    """The first ``length`` bytes, None if they cannot be had."""
    out = memoryview(bytearray(length))
    return bytes(out) if inflate_into(data, out) else None


@pytest.mark.parametrize("compress", [deflate, deflate_small, deflate_smaller])
@pytest.mark.parametrize(
    "plain", [CLUSTER, noise(4 * KIB), bytes(2048 * KIB)], ids=["text", "noise", "zeros"]
)
def test_what_is_deflated_is_inflated(compress: Callable[[bytes], bytes], plain: bytes) -> None:
    assert inflated(compress(plain), len(plain)) == plain
    assert inflated(compress(plain) + noise(600), len(plain)) == plain


def test_of_a_longer_stream_only_the_start_is_taken() -> None:
    assert inflated(deflate_small(CLUSTER), 1000) == CLUSTER[:1000]
    bomb = zlib.compress(bytes(64 << 20), 9)[2:]
    assert inflated(bomb, 64 * KIB) == bytes(64 * KIB)


@pytest.mark.parametrize(
    "data", [b"", noise(500, 3), deflate_small(CLUSTER)[:900], deflate_small(CLUSTER[:900])]
)
def test_a_damaged_or_short_stream_is_none(data: bytes) -> None:
    assert inflated(data, len(CLUSTER)) is None

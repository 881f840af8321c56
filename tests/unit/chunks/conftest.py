"""The pool that the tests of the chunk store share the shape of."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from imsd.chunks.decode_pool import DecodePool


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    """Two threads, which are gone when the test is over."""
    # By what is new: threads of an earlier test may still be ending.
    before = set(threading.enumerate())
    pool = DecodePool(2)
    yield pool
    pool.close()
    new = set(threading.enumerate()) - before
    assert not [thread.name for thread in new if thread.name.startswith("decode")]

"""What every blob store must do: the promises of `imsd.contract.blob_store` as tests.

A driver's author subclasses `BlobStoreSuite` in a test file, with a fixture ``store`` that yields an
opened, empty store::

    class TestMyStore(BlobStoreSuite):
        @pytest.fixture
        async def store(self, tmp_path):
            async with open_my_store(MyOptions(path=tmp_path)) as store:
                yield store

It needs pytest and pytest-asyncio (``asyncio_mode = "auto"``). The same checks run on drivers, on
wrappers and on a store at the other end of a wire: all must agree. They are in `imsd.promises`, and
`imsctl store check` runs them on a store in use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from imsd.contract import BlobStore
from imsd.promises.promise import NotOffered, Place, Promise
from imsd.promises.store_promises import STORE_PROMISES


class BlobStoreSuite:
    """A test ``test_NAME`` for each promise."""

    def kept(self, written: bytes) -> bytes:
        """What a read gives for ``written``. Only a store that keeps no bytes overrides this."""
        return written


def _as_test(promise: Promise) -> Callable[[BlobStoreSuite, BlobStore], Awaitable[None]]:
    async def test(self: BlobStoreSuite, store: BlobStore) -> None:
        try:
            await promise.check(Place(store, kept=self.kept))
        except NotOffered as why:
            pytest.skip(str(why))

    test.__doc__ = promise.summary
    return test


for _promise in STORE_PROMISES:
    setattr(BlobStoreSuite, f"test_{_promise.name}", _as_test(_promise))

"""Plugin: blob stores on a local directory."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import StoreDriver, hookimpl

from .options import LocalBucketOptions, LocalStoreOptions
from .store import open_local_store


@hookimpl
def imsd_blob_stores() -> Sequence[StoreDriver[LocalStoreOptions]]:
    return [
        StoreDriver(
            name="localfs",
            summary="a directory of this machine, with every commit synced to the disk",
            options=LocalStoreOptions,
            open=open_local_store,
            directories=lambda options: [options.path],
            bucket_options=LocalBucketOptions,
        )
    ]

"""Plugin: blob stores in a bucket of an S3 service."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import StoreDriver, hookimpl

from .keys import files_of_keys
from .options import S3BucketOptions, S3StoreOptions
from .store import open_s3_store


@hookimpl
def imsd_blob_stores() -> Sequence[StoreDriver[S3StoreOptions]]:
    return [
        StoreDriver(
            name="s3",
            summary="a bucket of an S3 service",
            options=S3StoreOptions,
            open=open_s3_store,
            places=lambda options: [options.place],
            files=files_of_keys,
            bucket_options=S3BucketOptions,
        )
    ]

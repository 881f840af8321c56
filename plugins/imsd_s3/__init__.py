"""Plugin: blob stores in a bucket of an S3 service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from imsd.contract import BlobStore, StoreDriver, hookimpl

from .keys import files_of_keys
from .options import S3BucketOptions, S3StoreOptions


@asynccontextmanager
async def open_lazily(options: S3StoreOptions) -> AsyncIterator[BlobStore]:
    # An HTTP client takes ten megabytes: those who have no such store do without.
    from .store import open_s3_store

    async with open_s3_store(options) as store:
        yield store


@hookimpl
def imsd_blob_stores() -> Sequence[StoreDriver[S3StoreOptions]]:
    return [
        StoreDriver(
            name="s3",
            summary="a bucket of an S3 service",
            options=S3StoreOptions,
            open=open_lazily,
            places=lambda options: [options.place],
            files=files_of_keys,
            bucket_options=S3BucketOptions,
        )
    ]

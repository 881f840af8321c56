"""The suite on stores in buckets of a real S3 service."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from imsd_s3.options import S3StoreOptions
from imsd_s3.store import open_s3_store

from imsd.contract import BlobStore
from imsd.testing.blob_store_suite import BlobStoreSuite
from tests.faulty_way import Fault, Passing, faulty_way, status_answer
from tests.seaweedfs import ADMIN, SeaweedFS


class TestS3Store(BlobStoreSuite):
    @pytest.fixture
    async def store(self, seaweedfs: SeaweedFS, s3_bucket: str, tmp_path: Path) -> AsyncIterator[BlobStore]:
        options = S3StoreOptions(
            bucket=s3_bucket, endpoint=seaweedfs.endpoint, keys_file=ADMIN.write(tmp_path / "keys")
        )
        async with open_s3_store(options) as store:
            yield store


class TestS3StoreWithAPrefix(BlobStoreSuite):
    """Beside objects of others, in small parts, one at a time."""

    @pytest.fixture
    async def store(self, seaweedfs: SeaweedFS, s3_bucket: str, tmp_path: Path) -> AsyncIterator[BlobStore]:
        keys_file = ADMIN.write(tmp_path / "keys")
        whole = S3StoreOptions(bucket=s3_bucket, endpoint=seaweedfs.endpoint, keys_file=keys_file)
        async with open_s3_store(whole) as around:
            for blob in ("images-/other", "images.old", "imagesque", "zebra", "a"):
                async with around.begin(blob) as ingest:  # type: ignore[arg-type]
                    await ingest.write([b"not of the store"])
                    await ingest.commit()
        options = S3StoreOptions(
            bucket=s3_bucket,
            endpoint=seaweedfs.endpoint,
            keys_file=keys_file,
            prefix="images",
            part_bytes=5 << 20,
            parts_at_once=1,
            requests_at_once=1,
        )
        async with open_s3_store(options) as store:
            yield store


class TestS3StoreOverAFaultyWay(BlobStoreSuite):
    """Every fifth request fails, each time in another way."""

    @pytest.fixture
    async def store(self, seaweedfs: SeaweedFS, s3_bucket: str, tmp_path: Path) -> AsyncIterator[BlobStore]:
        async with faulty_way(seaweedfs.port) as way:
            options = S3StoreOptions(
                bucket=s3_bucket,
                endpoint=way.endpoint,
                keys_file=ADMIN.write(tmp_path / "keys"),
                part_bytes=5 << 20,
            )
            async with open_s3_store(options) as store:
                for number, fault in enumerate(FAULTS):
                    way.add(replace(fault, fits=every_fifth(number), times=None))
                yield store


FAULTS = [
    Fault(answer=status_answer(503, "SlowDown")),
    Fault(cut_answer_after=0),
    Fault(cut_request_after=1000),
    Fault(cut_answer_after=300),
    Fault(answer=status_answer(500, "InternalError")),
]


def every_fifth(number: int) -> Callable[[Passing], bool]:
    """Whether this is the turn of the fault ``number``."""
    turns = itertools.count()

    def fits(_: Passing) -> bool:
        return next(turns) % (5 * len(FAULTS)) == 5 * number

    return fits

"""The S3 service of the tests is the real one: it refuses wrong keys and keeps what it stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.seaweedfs import SeaweedFS, started_seaweedfs


def test_what_is_stored_survives_a_crash_and_ports_stay(tmp_path: Path) -> None:
    with started_seaweedfs(tmp_path) as server:
        endpoint, bucket = server.endpoint, server.make_bucket()
        server.stop()
        server.start()
        assert server.endpoint == endpoint
        with pytest.raises(AssertionError):
            server.make_bucket(bucket)


def test_each_test_has_a_bucket_of_its_own(seaweedfs: SeaweedFS, s3_bucket: str) -> None:
    assert seaweedfs.make_bucket() != s3_bucket

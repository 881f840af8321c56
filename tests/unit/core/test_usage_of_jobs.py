"""A file that became an image, or those of a package, counts once; and the quota of a package's images."""

from __future__ import annotations

import gzip
import random
from datetime import timedelta

import pytest

from imsd.core.quota_rules import IMAGES
from imsd.core.usage import IMPORT_BYTES, Usage
from imsd.metadata.database import Database
from tests.packages import ova
from tests.unit.core.import_world import MIB, ImportService, ImportWorld, failed

DISK = random.Random(7).randbytes(2 * MIB)
PACKAGE = ova({f"disk{number}.vmdk": DISK[: number * MIB // 2] for number in (1, 2, 3)})


@pytest.fixture
def world(database: Database) -> ImportWorld:
    return ImportWorld(database)


async def imported(service: ImportService) -> int:
    usage = Usage(service.runtime, timedelta(days=1))
    found, _ = await usage.list(usage.query("*", None, None), 100, "")
    return sum(each.quantity for each in found if each.resource == IMPORT_BYTES)


@pytest.mark.parametrize("file", [DISK, gzip.compress(DISK, 1), PACKAGE], ids=["disk", "packed", "package"])
async def test_an_import_counts_its_file_as_it_came_once(world: ImportWorld, file: bytes) -> None:
    async with world.serving(hold_at=1) as service:
        job_id = await service.start(upload_id=await service.send(file))
        await service.until(job_id, lambda view: view.record.phase == "guest" or service.inspector.asked > 0)
        assert await imported(service) == 0
    async with world.serving() as service:
        await service.end_of(job_id)
        assert await imported(service) == len(file)


async def test_an_import_that_fails_counts_nothing(world: ImportWorld) -> None:
    async with world.serving() as service:
        of_the_future = b"QFI\xfb\x00\x00\x00\x09" + bytes(MIB)
        assert failed(await service.import_file(of_the_future)) == "FORMAT_UNSUPPORTED"
        assert await imported(service) == 0


@pytest.mark.parametrize(("quota", "fits"), [(3, True), (2, False)])
async def test_every_image_of_a_package_counts_for_the_quota(
    world: ImportWorld, quota: int, fits: bool
) -> None:
    async with world.serving(quotas={IMAGES: quota}) as service:
        done = await service.import_file(PACKAGE)
        if fits:
            assert len(done.image_ids) == 3
        else:
            assert failed(done) == "QUOTA_EXCEEDED"
            assert "image" not in await service.left()

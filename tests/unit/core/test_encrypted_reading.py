"""Reading encrypted images: the disk they were made of and no other, and nothing of it kept as it is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imsd.chunks.spool import SpoolFolder
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import DataLoss, run_blocking
from imsd.core.downloads import Outlet
from imsd.core.keys.encryption import cipher_of_image
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord
from imsd.metadata.tables import image as image_table
from tests.unit.chunks.ingest_world import text
from tests.unit.core.copy_world import content_of
from tests.unit.core.encrypted_world import new_key
from tests.unit.core.import_world import MIB, ImportService, ImportWorld
from tests.unit.core.key_world import Clock, CountingKeys
from tests.unit.formats.disk_files import bytes_of

DISK = text(1, 4 * MIB)


@pytest.fixture
async def service(database: Database, tmp_path: Path) -> AsyncIterator[ImportService]:
    world = ImportWorld(database, (tmp_path,), key_service=CountingKeys(Clock()))
    async with world.serving() as service:
        yield service


async def imported(service: ImportService, **wanted: str) -> ImageRecord:
    view = await service.import_file(DISK, disk_format="raw", **wanted)
    return await service.image(view.record.image_id)


def nameless(folder: Path) -> bytes:
    """The content of the files of this process in ``folder`` that have no name."""
    content = b""
    for link in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(link).startswith(f"{folder}/"):
                content += link.read_bytes()
        except OSError:
            continue  # closed meanwhile
    return content


async def spooled_and_sent(service: ImportService, image: ImageRecord, folder: Path) -> tuple[bytes, bytes]:
    await run_blocking(folder.mkdir)
    outlet = Outlet(service.runtime, service.sweeper, SpoolFolder(folder, 64 * MIB))
    async with outlet.open(image, "qcow2", "zlib") as download:
        spooled = await run_blocking(nameless, folder)
        return spooled, bytes_of([output async for outputs in download.pieces for output in outputs])


async def test_only_the_clusters_of_a_plain_image_can_be_read_in_its_spool(
    service: ImportService, tmp_path: Path
) -> None:
    await new_key(service, "payroll")
    plain, sent = await spooled_and_sent(service, await imported(service), tmp_path / "plain")
    assert plain[:512] in sent
    image = await imported(service, key="payroll")
    sealed, sent_as_well = await spooled_and_sent(service, image, tmp_path / "sealed")
    assert sent_as_well == sent
    assert len(sealed) > len(plain) > MIB // 2
    assert not any(sealed[at : at + 16] in sent for at in range(0, len(sealed), 512))


@pytest.mark.parametrize("wanted", [{"key": "payroll"}, {}], ids=["encrypted", "plain"])
async def test_a_manifest_of_another_disk_is_not_taken(
    service: ImportService, database: Database, wanted: dict[str, str]
) -> None:
    """Such as one of an earlier run of the import, under the same data key, in the place of the image's."""
    await new_key(service, "payroll")
    image = await imported(service, **wanted)
    assert await content_of(service, image) == DISK
    cipher = await cipher_of_image(service.runtime, image)
    other = TreeHasher().digest()
    if cipher is not None:
        other = cipher.tree_digest(other)
    async with database.transaction() as c:
        await c.execute(image_table.update().where(image_table.c.id == image.id).values(digest=other))
    with pytest.raises(DataLoss, match=f"{image.digest}, not {other}"):
        await content_of(service, await service.image(image.id))

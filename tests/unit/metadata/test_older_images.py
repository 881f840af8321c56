"""Images that an older program made look as new ones do after an upgrade."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, text

from imsd.core.os_identity import identify
from imsd.guest.catalogue.listing import listed_systems
from imsd.metadata import images, schema
from imsd.metadata.database import Database, open_database
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus
from imsd.metadata.tables import metadata
from tests.unit.metadata.samples import an_image

LINUX = {"is_verified": True, "os_type": "Linux", "bits": 64}


async def upgraded(database_url: str, *records: ImageRecord) -> list[ImageRecord]:
    """The images in a database of revision 0007, opened by this program."""
    async with open_database(database_url) as database, database.transaction() as c:
        await c.execute(delete(metadata.tables["image"]))
        for record in records:
            await images.insert_image(c, record)
        await c.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0007'"))
    async with open_database(database_url) as database:
        return [await _image(database, record.id) for record in records]


async def _image(database: Database, image_id: str) -> ImageRecord:
    async with database.reading() as c:
        found = await images.get_image(c, "lab", image_id)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (an_image(os_version="Redhat Linux Enterprise 6.6 32bit"), ("linux", 32, "Red Hat")),
        (an_image(os_version="FreeBSD 12.1 64bit"), ("other", 64, "FreeBSD")),
        (an_image(os_version="windows  10 64bit"), ("windows", 64, "Windows")),
        (an_image(os_version="Other_Linux (64_bit)"), ("linux", 64, "Other")),
        (an_image(os_version="Alpine Linux 3.20", guest=LINUX), ("linux", 64, "Other")),
        (an_image(os_version="TempleOS 5.03"), ("other", 0, "Other")),
        (an_image(os_version="Alpine Linux 3.20", guest={"os_type": "Linux"}), ("other", 0, "Other")),
        (an_image(kind=ImageKind.ISO, os_version="Ubuntu 18.04 Server 64bit"), ("linux", 64, "Ubuntu")),
        (an_image(os_version="Windows 10 64bit", os_type="linux", platform="Mine"), ("linux", 0, "Mine")),
        (an_image(os_version="CentOS 7.6 64bit", status=ImageStatus.QUEUED), ("", 0, "")),
    ],
)
async def test_what_an_image_is_follows_from_its_system(
    database_url: str, image: ImageRecord, expected: tuple[str, int, str]
) -> None:
    [after] = await upgraded(database_url, image)
    assert (after.os_type, after.os_bits, after.platform) == expected
    assert (after.os_version, after.version) == (image.os_version, image.version)


async def test_an_image_without_a_system_is_another_linux(database_url: str) -> None:
    [after] = await upgraded(database_url, an_image())
    assert (after.os_version, after.os_type, after.os_bits) == ("Other_Linux (64_bit)", "linux", 64)


async def test_every_listed_system_is_known_to_the_migration_as_to_the_program(sqlite_url: str) -> None:
    names = sorted({system.os_version for system in listed_systems()})
    found = await upgraded(sqlite_url, *(an_image(os_version=name) for name in names))
    for image in found:
        known = identify(image.os_version)
        assert (image.os_type, image.os_bits, image.platform) == (
            known.os_type,
            known.os_bits,
            known.platform,
        )


async def test_more_images_than_a_batch_are_filled(sqlite_url: str) -> None:
    found = await upgraded(sqlite_url, *(an_image(os_version="CentOS 7.6 64bit") for _ in range(2100)))
    assert {image.platform for image in found} == {"CentOS"}

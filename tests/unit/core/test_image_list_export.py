"""The list of images as a CSV file: harmless in a spreadsheet, complete, and never whole in memory."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from imsd.contract import InvalidRequest
from imsd.core.image_list_export import PAGE, PIECE_BYTES, ListFile
from imsd.core.images import Images
from imsd.core.runtime import Runtime
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, ServerKind, Visibility
from tests.unit.metadata.samples import START, an_image

PROJECT = "lab"


@pytest.fixture
def images(runtime: Runtime) -> Images:
    return Images(runtime)


async def put(database: Database, *records: ImageRecord) -> None:
    async with database.transaction() as c:
        for record in records:
            await image_rows.insert_image(c, record)


async def rows_of(file: ListFile) -> list[list[str]]:
    content = b"".join([piece async for piece in file.pieces])
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'),
        ('a,"b"\nc', 'a,"b"\nc'),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
async def test_a_text_is_never_a_formula(images: Images, database: Database, text: str, cell: str) -> None:
    await put(database, an_image(os_version=text))
    header, row = await rows_of(images.list_file(PROJECT, is_public=False))
    assert row[header.index("OS")] == cell


async def test_a_name_that_begins_like_a_formula_is_a_text(images: Images, database: Database) -> None:
    await put(database, an_image(name="-2+3"), an_image(name="-2", visibility=Visibility.PUBLIC))
    for is_public in (False, True):
        _, *rows = await rows_of(images.list_file(PROJECT, is_public=is_public))
        assert all(row[0].startswith("'-2") for row in rows)


async def test_the_columns_are_those_of_the_console(images: Images, database: Database) -> None:
    own = an_image(
        name="web",
        os_version="CentOS 7.6 64bit",
        min_disk_gb=40,
        min_ram_mb=512,
        stored_size=123,
        created_at=START,
    )
    await put(database, own)
    header, row = await rows_of(images.list_file(PROJECT, is_public=False))
    assert dict(zip(header, row, strict=True)) == {
        "Name": "web",
        "ID": own.id,
        "Status": "Normal",
        "OS": "CentOS 7.6 64bit",
        "Image Type": "ECS system disk image",
        "Created": "2026-05-01T12:00:00Z",
        "Disk Capacity (GB)": "40",
        "Shared Disk": "No",
        "Image Size (bytes)": "123",
        "Encrypted": "No",
        "Minimum Memory (MB)": "512",
    }
    (public_header,) = await rows_of(images.list_file(PROJECT, is_public=True))
    assert public_header == [
        "Name",
        "Status",
        "OS",
        "Image Type",
        "Created",
        "System Disk (GB)",
        "Minimum Memory (MB)",
    ]


@pytest.mark.parametrize(
    ("values", "status", "kind"),
    [
        ({"status": ImageStatus.SAVING}, "Creating", "ECS system disk image"),
        ({"status": ImageStatus.DEACTIVATED}, "Deactivated", "ECS system disk image"),
        ({"is_published": True}, "Published", "ECS system disk image"),
        ({"kind": ImageKind.DATA_DISK}, "Normal", "Data disk image"),
        ({"kind": ImageKind.ISO}, "Normal", "ISO image"),
        ({"server_kind": ServerKind.BARE_METAL}, "Normal", "BMS system disk image"),
        ({"server_kind": ServerKind.BARE_METAL, "kind": ImageKind.ISO}, "Normal", "ISO image"),
    ],
)
async def test_states_and_types_are_called_as_in_the_console(
    images: Images, database: Database, values: dict[str, Any], status: str, kind: str
) -> None:
    await put(database, an_image(**values))
    header, row = await rows_of(images.list_file(PROJECT, is_public=False))
    assert (row[header.index("Status")], row[header.index("Image Type")]) == (status, kind)


async def test_a_list_has_the_images_of_its_project_or_the_public_ones(
    images: Images, database: Database
) -> None:
    await put(
        database,
        an_image(name="mine"),
        an_image(name="foreign", project_id="other"),
        an_image(name="for-all", project_id="other", visibility=Visibility.PUBLIC),
        an_image(name="deleted", status=ImageStatus.PENDING_DELETE),
    )
    for is_public, expected in ((False, ["mine"]), (True, ["for-all"])):
        _, *rows = await rows_of(images.list_file(PROJECT, is_public=is_public))
        assert [row[0] for row in rows] == expected


async def test_a_long_list_comes_whole_in_small_pieces(images: Images, database: Database) -> None:
    count = 2 * PAGE + 7
    await put(database, *(an_image(name=f"n{number}", os_version="x" * 255) for number in range(count)))
    pieces = [piece async for piece in images.list_file(PROJECT, is_public=False).pieces]
    assert max(map(len, pieces)) <= PIECE_BYTES
    _, *rows = csv.reader(io.StringIO(b"".join(pieces).decode(), newline=""))
    assert {row[0] for row in rows} == {f"n{number}" for number in range(count)}


async def test_the_name_of_the_file_says_what_where_and_when(images: Images) -> None:
    for is_public, what in ((False, "private"), (True, "public")):
        name = images.list_file(PROJECT, is_public=is_public).name
        assert name.startswith(f"{what}-images-local-20")
        assert name.endswith("Z.csv")
    with pytest.raises(InvalidRequest):
        images.list_file("a b", is_public=False)

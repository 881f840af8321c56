"""The list of a project's images, or of the public ones, as a CSV file (contract §10.9).

The file is for spreadsheets, and what is in it comes from other people: a text that a spreadsheet would take
for a formula is made a text again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from imsd.metadata.image_query import ImageQuery, Scope
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, ServerKind

from . import checks

PAGE = 500

# One message of the file; a client takes 4 MiB.
PIECE_BYTES = 64 << 10

# What makes a cell a formula, full-width forms included, which some spreadsheets take for the same.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

# Contract §6.1, as the console of the hosted service calls them.
LABELS: Mapping[ImageStatus, str] = {
    ImageStatus.QUEUED: "Creating",
    ImageStatus.SAVING: "Creating",
    ImageStatus.ACTIVE: "Normal",
    ImageStatus.DEACTIVATED: "Deactivated",
}

TYPES: Mapping[ImageKind, str] = {
    ImageKind.SYSTEM_DISK: "ECS system disk image",
    ImageKind.DATA_DISK: "Data disk image",
    ImageKind.ISO: "ISO image",
}

# A page of images and the token of the next one, as `Images.list` has them.
ListImages = Callable[[ImageQuery, int, str], Awaitable[tuple[Sequence[ImageRecord], str]]]

Column = tuple[str, Callable[[ImageRecord], object]]

_COMMON: tuple[Column, ...] = (
    ("Status", lambda image: "Published" if image.is_published else LABELS.get(image.status, image.status)),
    ("OS", lambda image: image.os_version),
    ("Image Type", lambda image: _type_of(image)),
    ("Created", lambda image: _time(image.created_at)),
)

# No image here has a disk that servers share.
PRIVATE_COLUMNS: tuple[Column, ...] = (
    ("Name", lambda image: image.name),
    ("ID", lambda image: image.id),
    *_COMMON,
    ("Disk Capacity (GB)", lambda image: image.min_disk_gb),
    ("Shared Disk", lambda _: "No"),
    ("Image Size (bytes)", lambda image: image.stored_size),
    ("Encrypted", lambda image: "Yes" if image.key_id else "No"),
    ("Minimum Memory (MB)", lambda image: image.min_ram_mb),
)

PUBLIC_COLUMNS: tuple[Column, ...] = (
    ("Name", lambda image: image.name),
    *_COMMON,
    ("System Disk (GB)", lambda image: image.min_disk_gb),
    ("Minimum Memory (MB)", lambda image: image.min_ram_mb),
)


@dataclass(frozen=True, slots=True)
class ListFile:
    """``pieces``: the bytes of the file in order, at most `PIECE_BYTES` in each."""

    name: str
    pieces: AsyncIterator[bytes]


def list_query(project_id: str, *, is_public: bool) -> ImageQuery:
    """The images of the project, or the public ones. Raises InvalidRequest."""
    scope = Scope.PUBLIC if is_public else Scope.OWN
    return ImageQuery(project_id=checks.project_id(project_id), scope=scope)


def image_list_file(list_images: ListImages, query: ImageQuery, region: str, now: datetime) -> ListFile:
    """The file of a `list_query`, read page by page while it is taken."""
    is_public = query.scope is Scope.PUBLIC
    name = f"{'public' if is_public else 'private'}-images-{region}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.csv"
    return ListFile(name, _pieces(list_images, query, PUBLIC_COLUMNS if is_public else PRIVATE_COLUMNS))


async def _pieces(
    list_images: ListImages, query: ImageQuery, columns: Sequence[Column]
) -> AsyncIterator[bytes]:
    text = _lines([[heading for heading, _ in columns]])
    token = ""
    while True:
        page, token = await list_images(query, PAGE, token)
        text += _lines([[_cell(value_of(image)) for _, value_of in columns] for image in page])
        for start in range(0, len(text), PIECE_BYTES):
            yield text[start : start + PIECE_BYTES]
        if not token:
            return
        text = b""


def _lines(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    """A text that no spreadsheet takes for a formula; a number stays one."""
    text = str(value)
    is_formula = isinstance(value, str) and text.lstrip(" ").startswith(FORMULA_STARTS)
    return f"'{text}" if is_formula else text


def _type_of(image: ImageRecord) -> str:
    is_bare_metal = image.server_kind is ServerKind.BARE_METAL and image.kind is ImageKind.SYSTEM_DISK
    return "BMS system disk image" if is_bare_metal else TYPES[image.kind]


def _time(value: datetime) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

"""What lies in each store, by the rows of packs, manifests, uploads and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .chunk_rows import CONDEMNED, LIVE, WRITING
from .tables import image, manifest, pack, upload


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredThings:
    """Counts, and bytes of packs by their states and of staged parts."""

    image_count: int = 0
    pack_count: int = 0
    pack_bytes: int = 0
    condemned_pack_count: int = 0
    condemned_bytes: int = 0
    writing_pack_count: int = 0
    manifest_count: int = 0
    upload_count: int = 0
    staged_bytes: int = 0

    @property
    def stored_bytes(self) -> int:
        return self.pack_bytes + self.condemned_bytes + self.staged_bytes


@dataclass(frozen=True, slots=True)
class ProjectPart:
    """``stored_bytes``: of each of its images, what several have counted with each."""

    project_id: str
    image_count: int
    stored_bytes: int


_PACKS = {
    LIVE: ("pack_count", "pack_bytes"),
    CONDEMNED: ("condemned_pack_count", "condemned_bytes"),
    WRITING: ("writing_pack_count", ""),
}


async def stored_things(c: AsyncConnection) -> Mapping[str, StoredThings]:
    """By the names of all stores in which there is something; some milliseconds for 100,000 packs."""
    found: dict[str, dict[str, int]] = {}

    def note(store: str, **counts: int) -> None:
        found.setdefault(store, {}).update({name: value for name, value in counts.items() if name})

    packs = select(pack.c.store, pack.c.state, func.count(), _sum(pack.c.size_bytes))
    for store, state, count, size in await c.execute(packs.group_by(pack.c.store, pack.c.state)):
        count_name, size_name = _PACKS[state]
        note(store, **{count_name: count, size_name: int(size)})
    manifests = select(manifest.c.store, func.count()).where(manifest.c.state == LIVE)
    for store, count in await c.execute(manifests.group_by(manifest.c.store)):
        note(store, manifest_count=count)
    uploads = select(upload.c.store, func.count(), _sum(upload.c.staged_bytes))
    for store, count, size in await c.execute(uploads.group_by(upload.c.store)):
        note(store, upload_count=count, staged_bytes=int(size))
    for store, count in await c.execute(select(image.c.store, func.count()).group_by(image.c.store)):
        note(store, image_count=count)
    return {store: StoredThings(**counts) for store, counts in found.items()}


async def project_parts(c: AsyncConnection, store: str, limit: int) -> tuple[Sequence[ProjectPart], int]:
    """The projects that have most in a store, at most ``limit`` of them, and how many there are."""
    size = _sum(image.c.stored_size)
    rows = (
        select(image.c.project_id, func.count(), size)
        .where(image.c.store == store)
        .group_by(image.c.project_id)
    )
    largest = rows.order_by(size.desc(), image.c.project_id).limit(limit)
    parts = [ProjectPart(row[0], row[1], int(row[2])) for row in await c.execute(largest)]
    count = select(func.count(image.c.project_id.distinct())).where(image.c.store == store)
    return parts, (await c.execute(count)).scalar_one()


def _sum(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)

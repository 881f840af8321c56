"""What images, projects and stores take: queries over packs and who lists them, and the counts of their use.

What one manifest alone needs of a pack is counted from the manifests (`imsd.chunks.pack_chunks`) and
remembered; which manifests list a pack is known at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, insert, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import HolderKind, PackUse

from .rows import in_batches
from .tables import image, manifest_holder, pack, pack_reference, pack_use

LIVE = "live"

# A pack that more manifests list is counted anew once in `MANY_EVERY` only.
MANY_MANIFESTS = 256

_BY_MANIFEST = pack_reference.c.holder_kind == HolderKind.MANIFEST
_BY_IMAGE = manifest_holder.c.holder_kind == HolderKind.IMAGE

# Who lists a pack, beside the row of `pack_reference` that a query begins with.
_other = pack_reference.alias("other")
_OTHER_LISTS = and_(_other.c.pack_id == pack.c.id, _other.c.holder_kind == HolderKind.MANIFEST)


@dataclass(frozen=True, slots=True)
class ManifestSpace:
    """Bytes, of the packs that a manifest lists.

    ``freed_bytes``: of those that no other manifest lists; ``unique_bytes``: of chunks that it alone needs,
    as of ``counted_at`` (None: of some pack never counted); ``due_packs``: packs of which that has changed
    since; ``is_held_by_others``: other images have the same manifest.
    """

    pack_count: int
    pack_bytes: int
    freed_bytes: int
    unique_bytes: int
    counted_at: datetime | None
    due_packs: int
    is_held_by_others: bool


@dataclass(frozen=True, slots=True)
class ProjectSpace:
    """``stored_bytes``: of its images, each counted on its own; ``pack_bytes``: of their packs, each once;
    ``shared_bytes``: of those packs that images of other projects need too."""

    image_count: int
    virtual_bytes: int
    stored_bytes: int
    pack_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class PackedSpace:
    """Of a store: its live packs, and how much of them is needed; what was never counted counts as needed.

    ``due_packs``: those whose use has changed since it was counted; ``counted_at``: the oldest count.
    """

    pack_count: int
    pack_bytes: int
    live_bytes: int
    due_packs: int
    counted_at: datetime | None


# -- counting ------------------------------------------------------------------------------------------


async def due_packs(c: AsyncConnection, store: str, long_ago: datetime, limit: int) -> Sequence[str]:
    """Packs whose use is to be counted: neighbours in time, which the same manifests list.

    ``long_ago``: when a pack that very many manifests list must have been counted last.
    """
    listing = select(func.count()).where(pack_reference.c.pack_id == pack.c.id, _BY_MANIFEST)
    manifests = listing.scalar_subquery()
    is_worth_it = or_(pack.c.counted_at.is_(None), pack.c.counted_at < long_ago, manifests <= MANY_MANIFESTS)
    query = (
        select(pack.c.id)
        .where(pack.c.store == store, pack.c.state == LIVE, pack.c.is_count_due == true())
        .where(exists().where(pack_reference.c.pack_id == pack.c.id, _BY_MANIFEST), is_worth_it)
        .order_by(pack.c.created_at, pack.c.id)
        .limit(limit)
    )
    return (await c.execute(query)).scalars().all()


async def due_packs_of(c: AsyncConnection, manifest_id: str) -> Sequence[str]:
    """The packs of one manifest whose use is to be counted, the oldest first."""
    query = (
        select(pack.c.id)
        .join(pack_reference, pack_reference.c.pack_id == pack.c.id)
        .where(_BY_MANIFEST, pack_reference.c.holder_id == manifest_id, pack.c.is_count_due == true())
        .order_by(pack.c.created_at, pack.c.id)
    )
    return (await c.execute(query)).scalars().all()


async def listed_by(c: AsyncConnection, packs: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The manifests that list each of ``packs``, in order; those that none lists are left out."""
    found: dict[str, list[str]] = {}
    for batch in in_batches(list(packs)):
        query = select(pack_reference.c.pack_id, pack_reference.c.holder_id)
        for pack_id, manifest_id in await c.execute(
            query.where(_BY_MANIFEST, pack_reference.c.pack_id.in_(batch))
        ):
            found.setdefault(pack_id, []).append(manifest_id)
    return {pack_id: tuple(sorted(found[pack_id])) for pack_id in packs if pack_id in found}


async def save_uses(
    c: AsyncConnection, listed: Mapping[str, Sequence[str]], uses: Sequence[PackUse], now: datetime
) -> None:
    """Remember what was counted, of packs that the same manifests list as when they were counted."""
    current = await listed_by(c, [use.pack_id for use in uses])
    for use in uses:
        if current.get(use.pack_id) != tuple(listed[use.pack_id]):
            continue
        live = case((pack.c.size_bytes < use.live_bytes, pack.c.size_bytes), else_=use.live_bytes)
        change = update(pack).where(pack.c.id == use.pack_id, pack.c.state == LIVE)
        await c.execute(change.values(live_bytes=live, counted_at=now, is_count_due=False))
        await c.execute(delete(pack_use).where(pack_use.c.pack_id == use.pack_id))
        rows = [
            {"pack_id": use.pack_id, "manifest_id": manifest_id, "unique_bytes": size}
            for manifest_id, size in use.unique_bytes.items()
        ]
        if rows:
            await c.execute(insert(pack_use), rows)


# -- figures -------------------------------------------------------------------------------------------


async def manifest_space(c: AsyncConnection, manifest_id: str, image_id: str) -> ManifestSpace:
    """What the packs of a manifest take; ``image_id``: the image that is asked about."""
    alone = ~exists().where(_OTHER_LISTS, _other.c.holder_id != manifest_id)
    query = (
        select(
            func.count(),
            _sum(pack.c.size_bytes),
            _sum(case((alone, pack.c.size_bytes), else_=0)),
            func.min(pack.c.counted_at, type_=pack.c.counted_at.type),
            func.count(pack.c.counted_at),
            _sum(case((pack.c.is_count_due == true(), 1), else_=0)),
        )
        .select_from(pack)
        .join(pack_reference, pack_reference.c.pack_id == pack.c.id)
        .where(_BY_MANIFEST, pack_reference.c.holder_id == manifest_id)
    )
    count, size, freed, oldest, counted, due = (await c.execute(query)).one()
    unique = select(_sum(pack_use.c.unique_bytes)).where(pack_use.c.manifest_id == manifest_id)
    others = select(manifest_holder.c.holder_id).where(
        manifest_holder.c.manifest_id == manifest_id, _BY_IMAGE, manifest_holder.c.holder_id != image_id
    )
    is_held = (await c.execute(others.limit(1))).first() is not None
    unique_bytes = (await c.execute(unique)).scalar_one()
    counted_at = oldest if counted == count else None
    return ManifestSpace(count, int(size), int(freed), int(unique_bytes), counted_at, int(due), is_held)


async def project_space(c: AsyncConnection, project_id: str, statuses: Collection[str]) -> ProjectSpace:
    """What the images of a project take; ``statuses``: of the images that count."""
    totals = select(func.count(), _sum(image.c.virtual_size), _sum(image.c.stored_size)).where(
        image.c.project_id == project_id, image.c.status.in_(list(statuses))
    )
    count, virtual, stored = (await c.execute(totals)).one()
    is_another = _listed_by_images(image.c.project_id != project_id)
    packs = select(_sum(pack.c.size_bytes), _sum(case((is_another, pack.c.size_bytes), else_=0))).where(
        pack.c.id.in_(_packs_of(project_id))
    )
    size, shared = (await c.execute(packs)).one()
    return ProjectSpace(count, int(virtual), int(stored), int(size), int(shared))


async def packed_space(c: AsyncConnection, store: str) -> PackedSpace:
    """What the live packs of a store take."""
    query = select(
        func.count(),
        _sum(pack.c.size_bytes),
        _sum(func.coalesce(pack.c.live_bytes, pack.c.size_bytes)),
        _sum(case((pack.c.is_count_due == true(), 1), else_=0)),
        func.min(pack.c.counted_at, type_=pack.c.counted_at.type),
    ).where(pack.c.store == store, pack.c.state == LIVE)
    count, size, live, due, counted_at = (await c.execute(query)).one()
    return PackedSpace(count, int(size), int(live), int(due), counted_at)


def _sum(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)


def _packs_of(project_id: str) -> Any:
    return (
        select(pack_reference.c.pack_id)
        .join(manifest_holder, manifest_holder.c.manifest_id == pack_reference.c.holder_id)
        .join(image, image.c.id == manifest_holder.c.holder_id)
        .where(_BY_MANIFEST, _BY_IMAGE, image.c.project_id == project_id)
    )


def _listed_by_images(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return (
        select(_other.c.pack_id)
        .join(manifest_holder, manifest_holder.c.manifest_id == _other.c.holder_id)
        .join(image, image.c.id == manifest_holder.c.holder_id)
        .where(_OTHER_LISTS, _BY_IMAGE, condition)
        .exists()
    )

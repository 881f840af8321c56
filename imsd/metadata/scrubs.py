"""Scrubs of stores: how far they came, and what they found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, literal, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import HolderKind, pack_blob

from .pack_space import LIVE
from .rows import in_batches
from .tables import chunk, image, manifest, manifest_holder, pack, scrub_damage, store_scrub


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRecord:
    """The scrub of a store that runs or was broken off, and what the last whole one found.

    ``position``: what is done; ``report``: what was found so far. ``finished_at``: None until it is whole;
    then ``last_report`` and ``last_finished_at`` are its own.
    """

    store: str
    job_id: str
    position: Mapping[str, Any]
    report: Mapping[str, int]
    started_at: datetime
    finished_at: datetime | None
    last_report: Mapping[str, int]
    last_finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageRecord:
    """A damaged blob, and a manifest that needs what is damaged (empty: none does).

    ``chunk_count``: damaged chunks, 0 of a manifest; ``damaged_bytes``: as stored.
    """

    store: str
    blob: str
    manifest_id: str
    chunk_count: int
    damaged_bytes: int
    message: str
    found_at: datetime


@dataclass(frozen=True, slots=True)
class AffectedImage:
    id: str
    name: str
    project_id: str


# -- the row of a scrub --------------------------------------------------------------------------------


async def get_scrub(c: AsyncConnection, store: str) -> ScrubRecord | None:
    row = (await c.execute(select(store_scrub).where(store_scrub.c.store == store))).one_or_none()
    return None if row is None else ScrubRecord(**row._mapping)


async def begin_scrub(c: AsyncConnection, store: str, job_id: str, now: datetime, report: Any) -> None:
    """A scrub from the start; what the last whole one found stays known."""
    values = {"job_id": job_id, "position": {}, "report": report, "started_at": now, "finished_at": None}
    changed = await c.execute(update(store_scrub).where(store_scrub.c.store == store).values(**values))
    if changed.rowcount == 0:
        first: dict[str, Any] = {"store": store, "last_report": {}, "last_finished_at": None}
        await c.execute(insert(store_scrub).values(**first, **values))


async def save_scrub(c: AsyncConnection, store: str, **values: Any) -> None:
    """Change columns of the row."""
    await c.execute(update(store_scrub).where(store_scrub.c.store == store).values(**values))


# -- what is to be read --------------------------------------------------------------------------------


async def manifests_after(c: AsyncConnection, store: str, after: str, limit: int) -> Sequence[str]:
    query = select(manifest.c.id).where(
        manifest.c.store == store, manifest.c.state == LIVE, manifest.c.id > after
    )
    return (await c.execute(query.order_by(manifest.c.id).limit(limit))).scalars().all()


async def packs_after(
    c: AsyncConnection, store: str, after: tuple[datetime, str] | None, limit: int
) -> Sequence[tuple[str, datetime, int]]:
    """Live packs with the times when they were begun and their sizes, the oldest first."""
    order = (pack.c.created_at, pack.c.id)
    query = select(pack.c.id, pack.c.created_at, pack.c.size_bytes).where(
        pack.c.store == store, pack.c.state == LIVE
    )
    if after is not None:
        last = [literal(value, column.type) for value, column in zip(after, order, strict=True)]
        query = query.where(tuple_(*order) > tuple_(*last))
    found = await c.execute(query.order_by(*order).limit(limit))
    return [(row.id, row.created_at, row.size_bytes) for row in found]


async def indexed_chunks(c: AsyncConnection, pack_id: str) -> Sequence[tuple[int, int, bytes]]:
    """Offset, stored length and check of the chunks of a pack that a look-up finds."""
    columns = (chunk.c.pack_offset, chunk.c.stored_length, chunk.c.stored_check)
    return [tuple(row) for row in await c.execute(select(*columns).where(chunk.c.pack_id == pack_id))]


async def is_live(c: AsyncConnection, *, pack_id: str = "", manifest_id: str = "") -> bool:
    """Whether a pack or manifest is still to be there."""
    table, wanted = (pack, pack_id) if pack_id else (manifest, manifest_id)
    query = select(table.c.id).where(table.c.id == wanted, table.c.state == LIVE)
    return (await c.execute(query)).one_or_none() is not None


# -- what was found ------------------------------------------------------------------------------------


async def put_damage(c: AsyncConnection, records: Collection[DamageRecord]) -> None:
    """Remember damage; of a blob and manifest that are known already, the newest counts."""
    dialect = sqlite if c.dialect.name == "sqlite" else postgresql
    for record in records:
        new = dialect.insert(scrub_damage).values(
            store=record.store,
            blob=record.blob,
            manifest_id=record.manifest_id,
            chunk_count=record.chunk_count,
            damaged_bytes=record.damaged_bytes,
            message=record.message,
            found_at=record.found_at,
        )
        key = list(scrub_damage.primary_key.columns)
        values = {
            name: new.excluded[name] for name in ("chunk_count", "damaged_bytes", "message", "found_at")
        }
        await c.execute(new.on_conflict_do_update(index_elements=key, set_=values))


async def forget_damage(c: AsyncConnection, store: str, before: datetime) -> None:
    """Forget what a newer scrub did not find again."""
    gone = delete(scrub_damage).where(scrub_damage.c.store == store, scrub_damage.c.found_at < before)
    await c.execute(gone)


async def list_damage(
    c: AsyncConnection, store: str, after: tuple[str, str] | None, limit: int
) -> Sequence[DamageRecord]:
    """In the order of blobs and manifests; ``after``: those of the last one seen."""
    order = (scrub_damage.c.blob, scrub_damage.c.manifest_id)
    query = select(scrub_damage).where(scrub_damage.c.store == store)
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(*[literal(value) for value in after]))
    return [DamageRecord(**row._mapping) for row in await c.execute(query.order_by(*order).limit(limit))]


async def images_of(c: AsyncConnection, manifest_ids: Collection[str]) -> Mapping[str, list[AffectedImage]]:
    """The images that have each of these manifests, of every project; deleted ones until they are purged."""
    query = (
        select(manifest_holder.c.manifest_id, image.c.id, image.c.name, image.c.project_id)
        .join(image, image.c.id == manifest_holder.c.holder_id)
        .where(manifest_holder.c.holder_kind == HolderKind.IMAGE)
        .order_by(image.c.project_id, image.c.name, image.c.id)
    )
    found: dict[str, list[AffectedImage]] = {}
    for batch in in_batches(list(manifest_ids)):
        for manifest_id, *said in await c.execute(query.where(manifest_holder.c.manifest_id.in_(batch))):
            found.setdefault(manifest_id, []).append(AffectedImage(*said))
    return found


async def damage_counts(c: AsyncConnection, store: str, since: datetime) -> tuple[int, int]:
    """How many blobs were found damaged since a time, and how many images need something of that."""
    found = scrub_damage.c.store == store, scrub_damage.c.found_at >= since
    blobs = select(func.count(scrub_damage.c.blob.distinct())).where(*found)
    images = (
        select(func.count(manifest_holder.c.holder_id.distinct()))
        .join(scrub_damage, scrub_damage.c.manifest_id == manifest_holder.c.manifest_id)
        .where(*found, manifest_holder.c.holder_kind == HolderKind.IMAGE)
    )
    return (await c.execute(blobs)).scalar_one(), (await c.execute(images)).scalar_one()


async def follow_images(
    c: AsyncConnection, from_manifest: str, to_manifest: str, packs: Collection[str]
) -> None:
    """The images of a manifest have another one now, that lists ``packs``: what is damaged in these is still
    theirs."""
    known = await c.execute(select(scrub_damage.c.blob).where(scrub_damage.c.manifest_id == from_manifest))
    kept = set(known.scalars()).intersection(map(pack_blob, packs))
    for batch in in_batches(sorted(kept)):
        change = update(scrub_damage).where(
            scrub_damage.c.manifest_id == from_manifest, scrub_damage.c.blob.in_(batch)
        )
        await c.execute(change.values(manifest_id=to_manifest))

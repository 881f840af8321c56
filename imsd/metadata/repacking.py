"""Which packs are mostly dead, which manifests list them, and how images come to another manifest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, false, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Holder, HolderKind
from imsd.contract import Conflict

from . import chunk_index, scrubs
from .key_tables import data_key
from .pack_space import LIVE
from .rows import in_batches
from .tables import chunk, image, manifest_holder, pack, pack_reference


class DeadPack(NamedTuple):
    """A pack that is mostly dead: its bytes, and how many of these nobody needs."""

    id: str
    size_bytes: int
    dead_bytes: int


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image that has a manifest. ``data_size``: of its disk, in bytes."""

    id: str
    project_id: str
    data_size: int


async def dead_bytes(c: AsyncConnection, store: str, dead_percent: int) -> int:
    """What nobody needs of packs of which that is at least ``dead_percent``, as it was counted last."""
    total = func.coalesce(func.sum(pack.c.size_bytes - pack.c.live_bytes), 0)
    return int((await c.execute(select(total).where(*_is_dead(store, dead_percent)))).scalar_one())


async def dead_packs(c: AsyncConnection, store: str, dead_percent: int, limit: int) -> Sequence[DeadPack]:
    """These packs, those with the least that is needed first."""
    query = select(pack.c.id, pack.c.size_bytes, pack.c.size_bytes - pack.c.live_bytes)
    query = query.where(*_is_dead(store, dead_percent)).order_by(pack.c.live_bytes, pack.c.id)
    return [DeadPack(*row) for row in await c.execute(query.limit(limit))]


async def manifests_listing(c: AsyncConnection, packs: Collection[str]) -> Sequence[str]:
    """The manifests that list any of these packs."""
    found: set[str] = set()
    for batch in in_batches(list(packs)):
        query = select(pack_reference.c.holder_id).where(
            pack_reference.c.holder_kind == HolderKind.MANIFEST, pack_reference.c.pack_id.in_(batch)
        )
        found.update((await c.execute(query)).scalars())
    return sorted(found)


async def images_with(c: AsyncConnection, manifest_id: str) -> Sequence[ListedImage]:
    """The images that hold a manifest, the oldest first."""
    query = (
        select(image.c.id, image.c.project_id, image.c.data_size)
        .join(manifest_holder, manifest_holder.c.holder_id == image.c.id)
        .where(
            manifest_holder.c.manifest_id == manifest_id,
            manifest_holder.c.holder_kind == HolderKind.IMAGE,
        )
        .order_by(image.c.created_at, image.c.id)
    )
    return [ListedImage(*row) for row in await c.execute(query)]


async def domains_of(c: AsyncConnection, packs: Collection[str]) -> dict[str, str]:
    """In which domain the chunks of each of these packs are found; those of which none is are left out."""
    found: dict[str, str] = {}
    for batch in in_batches(list(packs)):
        query = select(chunk.c.pack_id, func.min(chunk.c.domain)).where(chunk.c.pack_id.in_(batch))
        rows = await c.execute(query.group_by(chunk.c.pack_id))
        found.update((str(pack_id), str(domain)) for pack_id, domain in rows)
    return found


async def switch_images(
    c: AsyncConnection,
    from_manifest: str,
    to_manifest: str,
    writer: Holder,
    packs: Collection[str],
    now: datetime,
) -> int:
    """Let every image that holds a manifest hold another one of the same disk; returns how many there are.

    For users the images are what they were, and what scrubs found of them stays known; the data key of an
    encrypted one is marked as changed at ``now``, because its descriptor lies beside the manifest. Without
    images nothing changes. Raises Conflict, as `chunk_index.switch_manifest`.
    """
    ids = [each.id for each in await images_with(c, from_manifest)]
    if not ids:
        return 0
    await chunk_index.switch_manifest(
        c,
        from_manifest=from_manifest,
        to_manifest=to_manifest,
        writer=writer,
        packs=packs,
        image_ids=ids,
    )
    await scrubs.follow_images(c, from_manifest, to_manifest, packs)
    for batch in in_batches(ids):
        change = update(image).where(image.c.id.in_(batch), image.c.manifest_id == from_manifest)
        if (await c.execute(change.values(manifest_id=to_manifest))).rowcount != len(batch):
            raise Conflict(f"an image does not have the manifest {from_manifest} that it holds")
        keys = update(data_key).where(data_key.c.image_id.in_(batch))
        await c.execute(keys.values(updated_at=now))
    return len(ids)


def _is_dead(store: str, dead_percent: int) -> tuple[ColumnElement[bool], ...]:
    return (
        pack.c.store == store,
        pack.c.state == LIVE,
        pack.c.is_count_due == false(),
        pack.c.live_bytes * 100 <= pack.c.size_bytes * (100 - dead_percent),
    )

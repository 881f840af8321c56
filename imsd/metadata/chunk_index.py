"""The chunk index in SQL: which chunks and packs exist, and who holds them.

The rules are told in `imsd.chunks.index`; two invariants carry them here:

* A row of `chunk` belongs to a pack that is `live`: `commit_pack` makes the pack live with its first rows
  and checks that it still is with every further batch; `condemn` deletes the rows with the state.
* A pack is condemned only in a transaction that sees no reference to it, and a reference is made only in
  a transaction that sees the pack live. There is one writer, so one of the two comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    LargeBinary,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import ChunkIndex, Codec, Doomed, Holder, HolderKind, IndexedChunk, Location
from imsd.contract import Conflict, NotFound

from .database import Database
from .records import JobState, UploadState
from .rows import in_batches, insert_new
from .tables import chunk, job, manifest, manifest_holder, pack, pack_reference, upload

WRITING, LIVE, CONDEMNED = "writing", "live", "condemned"

MAX_DIGESTS = 4096
DIGEST_BYTES = 32

# Other writers wait for this many insertions at most.
ROWS_PER_TRANSACTION = 2000

# Condemning a pack deletes its index rows: 500 of them on average, 16,384 at most.
PACKS_PER_TRANSACTION = 8

# Condemning a manifest deletes its references: a pack each, 2,000 for a disk of 120 GiB.
MANIFESTS_PER_TRANSACTION = 16


class SqlChunkIndex(ChunkIndex):
    """Fulfils `ChunkIndex` on a `Database`; ``clock`` gives the time of new rows."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def begin_pack(self, holder: Holder, pack_id: str, store: str) -> None:
        async with self._database.transaction() as c:
            await _require_holder(c, holder)
            row = {"id": pack_id, "store": store, "state": WRITING, "size_bytes": 0}
            await _insert_thing(c, pack, row | {"created_at": self._clock()})
            await c.execute(insert(pack_reference).values(pack_id=pack_id, **_name(holder)))

    async def commit_pack(
        self, holder: Holder, domain: str, pack_id: str, size_bytes: int, chunks: Sequence[IndexedChunk]
    ) -> None:
        rows = [_chunk_row(domain, pack_id, item) for item in chunks]
        batches = list(in_batches(rows, ROWS_PER_TRANSACTION)) or [[]]
        for number, batch in enumerate(batches):
            async with self._database.transaction() as c:
                await _require_holder(c, holder)
                # Its bytes are durable, so the first batch may already be found.
                expected, values = (LIVE, {}) if number else (WRITING, {"size_bytes": size_bytes})
                change = update(pack).where(pack.c.id == pack_id, pack.c.state == expected, _is_held(holder))
                if (await c.execute(change.values(state=LIVE, **values))).rowcount == 0:
                    raise Conflict(f"pack {pack_id} is not being written by {holder.kind} {holder.id}")
                if batch:
                    await c.execute(insert_new(c, chunk), batch)

    async def find(self, holder: Holder, domain: str, digests: Sequence[bytes]) -> Mapping[bytes, Location]:
        if len(digests) > MAX_DIGESTS:
            raise ValueError(f"{len(digests)} digests in one look-up, {MAX_DIGESTS} are allowed")
        if not digests:
            return {}
        async with self._database.transaction() as c:
            await _require_holder(c, holder)
            found = await _locations(c, domain, digests)
            await _refer(c, holder, {location.pack_id for location in found.values()})
        return found

    async def begin_manifest(self, holder: Holder, manifest_id: str, store: str) -> None:
        async with self._database.transaction() as c:
            await _require_holder(c, holder)
            row = {"id": manifest_id, "store": store, "state": WRITING, "created_at": self._clock()}
            await _insert_thing(c, manifest, row)
            await c.execute(insert(manifest_holder).values(manifest_id=manifest_id, **_name(holder)))

    async def release(self, holder: Holder) -> None:
        async with self._database.transaction() as c:
            await release_holder(c, holder)

    async def condemn(self, store: str, limit: int = 1000) -> tuple[Sequence[Doomed], Sequence[Doomed]]:
        await self._condemn(manifest, store, limit)
        await self._condemn(pack, store, limit)
        async with self._database.reading() as c:
            return await _condemned(c, manifest, store, limit), await _condemned(c, pack, store, limit)

    async def forget(self, manifests: Iterable[str], packs: Iterable[str]) -> None:
        for table, ids in ((manifest, manifests), (pack, packs)):
            for batch in in_batches(list(ids)):
                async with self._database.transaction() as c:
                    await c.execute(delete(table).where(table.c.id.in_(batch), table.c.state == CONDEMNED))

    async def known(self, manifests: Sequence[str], packs: Sequence[str]) -> tuple[set[str], set[str]]:
        async with self._database.reading() as c:
            return await _known(c, manifest, manifests), await _known(c, pack, packs)

    async def hold_manifest(self, holder: Holder, manifest_id: str) -> str:
        async with self._database.transaction() as c:
            await _require_holder(c, holder)
            row = (
                await c.execute(
                    select(manifest.c.store).where(manifest.c.id == manifest_id, manifest.c.state == LIVE)
                )
            ).one_or_none()
            if row is None:
                raise NotFound(f"there is no manifest {manifest_id}")
            hold = insert_new(c, manifest_holder).values(manifest_id=manifest_id, **_name(holder))
            await c.execute(hold)
            return str(row.store)

    async def _condemn(self, table: Table, store: str, limit: int) -> None:
        # The scan for what nobody holds reads a snapshot, so that writers need not wait for it; each
        # batch is looked at again in the transaction that condemns it.
        async with self._database.reading() as c:
            query = select(table.c.id).where(
                table.c.store == store, table.c.state.in_([WRITING, LIVE]), _is_held_by_nobody(table)
            )
            candidates = (await c.execute(query.limit(limit))).scalars().all()
        size = PACKS_PER_TRANSACTION if table is pack else MANIFESTS_PER_TRANSACTION
        for batch in in_batches(candidates, size):
            async with self._database.transaction() as c:
                await _condemn_batch(c, table, batch)


# -- inside a transaction of the core -----------------------------------------------------------------


async def publish_manifest(
    c: AsyncConnection, *, manifest_id: str, writer: Holder, image_id: str, packs: Collection[str]
) -> None:
    """Make a written manifest live and the image its holder, in the transaction that makes the image active.

    The writer's references to ``packs``, those the manifest lists, become the manifest's; others stay
    the writer's until it is released. Raises Conflict for a stale fence, a manifest that is not being
    written by ``writer``, or a pack that is not live or not referenced by ``writer``.
    """
    await _require_holder(c, writer)
    is_held = exists().where(
        manifest_holder.c.manifest_id == manifest.c.id, *_held_by(manifest_holder, writer)
    )
    change = update(manifest).where(manifest.c.id == manifest_id, manifest.c.state == WRITING, is_held)
    if (await c.execute(change.values(state=LIVE))).rowcount == 0:
        raise Conflict(f"manifest {manifest_id} is not being written by {writer.kind} {writer.id}")
    image = Holder(HolderKind.IMAGE, image_id)
    await c.execute(insert(manifest_holder).values(manifest_id=manifest_id, **_name(image)))
    await c.execute(
        delete(manifest_holder).where(
            manifest_holder.c.manifest_id == manifest_id, *_held_by(manifest_holder, writer)
        )
    )
    for batch in in_batches(sorted(set(packs))):
        await _hand_over(c, writer, Holder(HolderKind.MANIFEST, manifest_id), batch)


async def release_holder(c: AsyncConnection, holder: Holder) -> None:
    """Drop every reference and hold of ``holder``, whatever its fence."""
    for table in (pack_reference, manifest_holder):
        await c.execute(delete(table).where(*_held_by(table, holder)))


async def copy_references(c: AsyncConnection, from_holder: Holder, to_holder: Holder) -> None:
    """Let ``to_holder`` hold all that ``from_holder`` holds, too."""
    await _require_holder(c, to_holder)
    for table, thing in ((pack_reference, "pack_id"), (manifest_holder, "manifest_id")):
        rows = select(table.c[thing], *_constants(to_holder)).where(*_held_by(table, from_holder))
        await c.execute(insert_new(c, table).from_select([thing, "holder_kind", "holder_id"], rows))


async def release_readers(c: AsyncConnection) -> None:
    """Drop the holds of all readers: at the start of the daemon none of them lives any more."""
    for table in (pack_reference, manifest_holder):
        await c.execute(delete(table).where(table.c.holder_kind == HolderKind.READER))


async def domain_chunk_count(c: AsyncConnection, domain: str) -> int:
    query = select(func.count()).select_from(chunk).where(chunk.c.domain == domain)
    return int((await c.execute(query)).scalar_one())


# -- pieces ------------------------------------------------------------------------------------------


async def _require_holder(c: AsyncConnection, holder: Holder) -> None:
    """Raises Conflict unless a job runs, or an upload is written, with the holder's fence."""
    if holder.kind is HolderKind.JOB:
        held = select(job.c.id).where(
            job.c.id == holder.id, job.c.fence == holder.fence, job.c.state == JobState.RUNNING
        )
    elif holder.kind is HolderKind.UPLOAD:
        held = select(upload.c.id).where(
            upload.c.id == holder.id, upload.c.fence == holder.fence, upload.c.state == UploadState.OPEN
        )
    else:
        return
    if (await c.execute(held)).one_or_none() is None:
        raise Conflict(
            f"{holder.kind} {holder.id} was taken over or has ended",
            reason="UPLOAD_TAKEN_OVER" if holder.kind is HolderKind.UPLOAD else None,
            hint="let its newer run go on",
        )


async def _insert_thing(c: AsyncConnection, table: Table, row: Mapping[str, Any]) -> None:
    try:
        await c.execute(insert(table).values(row))
    except IntegrityError as error:
        raise Conflict(f"{table.name} {row['id']} exists already") from error


def _look_up() -> Select[Any]:
    """The chunks of ``domain`` whose digests lie one after the other in ``digests``.

    One parameter, whatever their number: a thousand of them cost more than the look-up itself.
    """
    blob = bindparam("digests", type_=LargeBinary())
    number = select(literal(0, Integer).label("n")).cte("number", recursive=True)
    following = select(number.c.n + 1).where(number.c.n + 1 < bindparam("count", type_=Integer()))
    number = number.union_all(following)
    digest = func.substr(blob, number.c.n * DIGEST_BYTES + 1, DIGEST_BYTES, type_=LargeBinary())
    columns = chunk.c
    return (
        select(
            columns.digest,
            columns.pack_id,
            columns.pack_offset,
            columns.stored_length,
            columns.length,
            columns.codec,
        )
        .select_from(number)
        .join(chunk, and_(columns.domain == bindparam("domain"), columns.digest == digest))
        .join(pack, and_(pack.c.id == columns.pack_id, pack.c.state == LIVE))
    )


_LOOK_UP = _look_up()
_CODECS = tuple(Codec)  # calling the enum costs as much as the rest of a row


async def _locations(c: AsyncConnection, domain: str, digests: Sequence[bytes]) -> dict[bytes, Location]:
    given = {"domain": domain, "digests": b"".join(digests), "count": len(digests)}
    return {
        row[0]: Location(row[1], row[2], row[3], row[4], _CODECS[row[5]])
        for row in await c.execute(_LOOK_UP, given)
    }


async def _refer(c: AsyncConnection, holder: Holder, packs: Collection[str]) -> None:
    if packs:
        rows = [{"pack_id": pack_id, **_name(holder)} for pack_id in sorted(packs)]
        await c.execute(insert_new(c, pack_reference), rows)


async def _hand_over(c: AsyncConnection, giver: Holder, taker: Holder, packs: Sequence[str]) -> None:
    given = and_(pack_reference.c.pack_id.in_(packs), *_held_by(pack_reference, giver))
    rows = (
        select(pack_reference.c.pack_id, *_constants(taker))
        .join(pack, pack.c.id == pack_reference.c.pack_id)
        .where(given, pack.c.state == LIVE)
    )
    columns = ["pack_id", "holder_kind", "holder_id"]
    taken = (await c.execute(insert(pack_reference).from_select(columns, rows))).rowcount
    if taken != len(packs):
        raise Conflict(f"{len(packs) - taken} packs that the manifest lists are not live or not held")
    await c.execute(delete(pack_reference).where(given))


async def _condemn_batch(c: AsyncConnection, table: Table, ids: Sequence[str]) -> None:
    change = update(table).where(table.c.id.in_(ids), _is_held_by_nobody(table), table.c.state != CONDEMNED)
    condemned = (await c.execute(change.values(state=CONDEMNED).returning(table.c.id))).scalars().all()
    if table is pack:
        await c.execute(delete(chunk).where(chunk.c.pack_id.in_(condemned)))
    else:
        is_theirs = and_(
            pack_reference.c.holder_kind == HolderKind.MANIFEST, pack_reference.c.holder_id.in_(condemned)
        )
        await c.execute(delete(pack_reference).where(is_theirs))


async def _condemned(c: AsyncConnection, table: Table, store: str, limit: int) -> list[Doomed]:
    query = select(table.c.id).where(table.c.store == store, table.c.state == CONDEMNED).limit(limit)
    return [Doomed(doomed, store) for doomed in (await c.execute(query)).scalars()]


async def _known(c: AsyncConnection, table: Table, ids: Sequence[str]) -> set[str]:
    known: set[str] = set()
    for batch in in_batches(ids):
        known.update((await c.execute(select(table.c.id).where(table.c.id.in_(batch)))).scalars())
    return known


def _is_held(holder: Holder) -> ColumnElement[bool]:
    return exists().where(pack_reference.c.pack_id == pack.c.id, *_held_by(pack_reference, holder))


def _is_held_by_nobody(table: Table) -> ColumnElement[bool]:
    if table is pack:
        return ~exists().where(pack_reference.c.pack_id == pack.c.id)
    return ~exists().where(manifest_holder.c.manifest_id == manifest.c.id)


def _held_by(table: Table, holder: Holder) -> tuple[ColumnElement[bool], ...]:
    return table.c.holder_kind == holder.kind, table.c.holder_id == holder.id


def _name(holder: Holder) -> dict[str, str]:
    return {"holder_kind": holder.kind, "holder_id": holder.id}


def _constants(holder: Holder) -> tuple[ColumnElement[str], ...]:
    columns = pack_reference.c
    return literal(holder.kind, columns.holder_kind.type), literal(holder.id, columns.holder_id.type)


def _chunk_row(domain: str, pack_id: str, item: IndexedChunk) -> dict[str, Any]:
    place = item.location
    if place.pack_id != pack_id:
        raise ValueError(f"a chunk of pack {place.pack_id} is committed with pack {pack_id}")
    return {
        "domain": domain,
        "digest": item.digest,
        "pack_id": pack_id,
        "pack_offset": place.offset,
        "stored_length": place.stored_length,
        "length": place.length,
        "codec": place.codec,
    }

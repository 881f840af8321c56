"""Rows of chunks, packs, manifests and their holders: what one transaction of the chunk index does.

Functions of an ordinary, synchronous connection, see `Database.run`. The rules they keep are told in
`chunk_index`. Statements that run for every window of a disk are built once: building one costs as much
as running it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Integer,
    LargeBinary,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from imsd.chunks.index import Codec, Doomed, Holder, HolderKind, IndexedChunk, Location
from imsd.contract import Conflict, NotFound

from .records import JobState, UploadState
from .rows import in_batches, insert_new
from .tables import chunk, job, manifest, manifest_holder, pack, pack_reference, upload

WRITING, LIVE, CONDEMNED = "writing", "live", "condemned"

MAX_DIGESTS = 4096
DIGEST_BYTES = 32


# -- writing -----------------------------------------------------------------------------------------


def begin(c: Connection, table: Table, holder: Holder, thing_id: str, store: str, now: datetime) -> None:
    """Insert a pack or a manifest that is being written by ``holder``. Raises Conflict."""
    require_holder(c, holder)
    row = {"id": thing_id, "store": store, "state": WRITING, "created_at": now}
    try:
        c.execute(insert(table), row | ({"size_bytes": 0} if table is pack else {}))
    except IntegrityError as error:
        raise Conflict(f"{table.name} {thing_id} exists already") from error
    if table is pack:
        c.execute(insert(pack_reference), {"pack_id": thing_id, **_name(holder)})
    else:
        c.execute(insert(manifest_holder), {"manifest_id": thing_id, **_name(holder)})


def make_live(
    c: Connection,
    holder: Holder,
    domain: str,
    pack_id: str,
    size_bytes: int,
    chunks: Sequence[IndexedChunk],
) -> None:
    """Make a written pack live, with the first of its chunks. Raises Conflict."""
    require_holder(c, holder)
    store = _change_pack(c, holder, pack_id, WRITING, size_bytes=size_bytes)
    _insert_chunks(c, store, domain, pack_id, chunks)


def add_chunks(
    c: Connection, holder: Holder, domain: str, pack_id: str, chunks: Sequence[IndexedChunk]
) -> None:
    """Make further chunks of a live pack findable. Raises Conflict."""
    require_holder(c, holder)
    store = _change_pack(c, holder, pack_id, LIVE)
    _insert_chunks(c, store, domain, pack_id, chunks)


def publish_manifest(
    c: Connection, manifest_id: str, writer: Holder, image: Holder, packs: Collection[str]
) -> None:
    """As `chunk_index.publish_manifest`."""
    _make_manifest_live(c, manifest_id, writer, packs)
    c.execute(insert(manifest_holder).values(manifest_id=manifest_id, **_name(image)))


def switch_manifest(
    c: Connection,
    from_manifest: str,
    to_manifest: str,
    writer: Holder,
    packs: Collection[str],
    image_ids: Collection[str],
) -> None:
    """As `chunk_index.switch_manifest`."""
    _make_manifest_live(c, to_manifest, writer, packs)
    holds = manifest_holder.c
    for batch in in_batches(sorted(set(image_ids))):
        change = update(manifest_holder).where(
            holds.manifest_id == from_manifest,
            holds.holder_kind == HolderKind.IMAGE,
            holds.holder_id.in_(batch),
        )
        if c.execute(change.values(manifest_id=to_manifest)).rowcount != len(batch):
            raise Conflict(f"an image does not hold the manifest {from_manifest} any more")


def _make_manifest_live(c: Connection, manifest_id: str, writer: Holder, packs: Collection[str]) -> None:
    """The writer lets go of it, and of the packs, which the manifest references now. Raises Conflict."""
    require_holder(c, writer)
    is_held = exists().where(
        manifest_holder.c.manifest_id == manifest.c.id, *_held_by(manifest_holder, writer)
    )
    change = update(manifest).where(manifest.c.id == manifest_id, manifest.c.state == WRITING, is_held)
    if c.execute(change.values(state=LIVE)).rowcount == 0:
        raise Conflict(f"manifest {manifest_id} is not being written by {writer.kind} {writer.id}")
    c.execute(
        delete(manifest_holder).where(
            manifest_holder.c.manifest_id == manifest_id, *_held_by(manifest_holder, writer)
        )
    )
    for batch in in_batches(sorted(set(packs))):
        _hand_over(c, writer, Holder(HolderKind.MANIFEST, manifest_id), batch)


# -- finding and holding -------------------------------------------------------------------------------


def find(
    c: Connection, holder: Holder, store: str, domain: str, digests: Sequence[bytes]
) -> dict[bytes, Location]:
    """The known ones of ``digests``, from live packs, which ``holder`` references from now on."""
    require_holder(c, holder)
    given = {"store": store, "domain": domain, "digests": b"".join(digests), "count": len(digests)}
    found = {
        row[0]: Location(row[1], row[2], row[3], row[4], _CODECS[row[5]], row[6], row[7], row[8])
        for row in c.execute(_LOOK_UP, given)
    }
    if packs := {location.pack_id for location in found.values()}:
        rows = [(pack_id, str(holder.kind), holder.id) for pack_id in sorted(packs)]
        c.exec_driver_sql(_insertion(c.dialect, pack_reference), rows)
    return found


def hold_manifest(c: Connection, holder: Holder, manifest_id: str) -> str:
    """Hold a live manifest; returns its store. Raises NotFound, Conflict."""
    require_holder(c, holder)
    live = select(manifest.c.store).where(manifest.c.id == manifest_id, manifest.c.state == LIVE)
    row = c.execute(live).one_or_none()
    if row is None:
        raise NotFound(f"there is no manifest {manifest_id}")
    c.execute(insert_new(c.dialect, manifest_holder).values(manifest_id=manifest_id, **_name(holder)))
    return str(row.store)


def hold_packs_of(c: Connection, holder: Holder, manifest_id: str) -> None:
    """Reference every pack of a live manifest. Raises NotFound, Conflict."""
    require_holder(c, holder)
    live = select(manifest.c.id).where(manifest.c.id == manifest_id, manifest.c.state == LIVE)
    if c.execute(live).one_or_none() is None:
        raise NotFound(f"there is no manifest {manifest_id}")
    copy_references(c, Holder(HolderKind.MANIFEST, manifest_id), holder)


def copy_references(c: Connection, from_holder: Holder, to_holder: Holder) -> None:
    """As `chunk_index.copy_references`."""
    require_holder(c, to_holder)
    for table, thing in ((pack_reference, "pack_id"), (manifest_holder, "manifest_id")):
        rows = select(table.c[thing], *_constants(to_holder)).where(*_held_by(table, from_holder))
        c.execute(insert_new(c.dialect, table).from_select([thing, "holder_kind", "holder_id"], rows))


def release(c: Connection, holder: Holder) -> None:
    """Drop every reference and hold of ``holder``, whatever its fence."""
    for table in (pack_reference, manifest_holder):
        c.execute(delete(table).where(*_held_by(table, holder)))


def release_readers(c: Connection) -> None:
    """Drop the holds of all readers."""
    for table in (pack_reference, manifest_holder):
        c.execute(delete(table).where(table.c.holder_kind == HolderKind.READER))


def require_holder(c: Connection, holder: Holder) -> None:
    """Raises Conflict unless a job runs, or an upload is written, with the holder's fence."""
    if (held := _HOLDS.get(holder.kind)) is None:
        return
    if c.execute(held, {"id": holder.id, "fence": holder.fence}).one_or_none() is None:
        raise Conflict(
            f"{holder.kind} {holder.id} was taken over or has ended",
            reason="UPLOAD_TAKEN_OVER" if holder.kind is HolderKind.UPLOAD else None,
            hint="let its newer run go on",
        )


# -- sweeping ------------------------------------------------------------------------------------------


def held_by_nobody(c: Connection, table: Table, store: str, limit: int) -> Sequence[str]:
    """Packs or manifests that may be condemned."""
    query = select(table.c.id).where(
        table.c.store == store, table.c.state.in_([WRITING, LIVE]), _is_held_by_nobody(table)
    )
    return c.execute(query.limit(limit)).scalars().all()


def condemn(c: Connection, table: Table, ids: Sequence[str]) -> None:
    """Condemn those of ``ids`` that nobody holds now, and with them what they make findable or hold."""
    change = update(table).where(table.c.id.in_(ids), _is_held_by_nobody(table), table.c.state != CONDEMNED)
    doomed = c.execute(change.values(state=CONDEMNED).returning(table.c.id)).scalars().all()
    if table is pack:
        distrust(c, doomed)
    else:
        is_theirs = and_(
            pack_reference.c.holder_kind == HolderKind.MANIFEST, pack_reference.c.holder_id.in_(doomed)
        )
        _count_anew(c, pack.c.id.in_(select(pack_reference.c.pack_id).where(is_theirs)))
        c.execute(delete(pack_reference).where(is_theirs))


def condemned(c: Connection, table: Table, store: str, limit: int) -> list[Doomed]:
    """What is condemned in a store."""
    query = select(table.c.id).where(table.c.store == store, table.c.state == CONDEMNED).limit(limit)
    return [Doomed(doomed, store) for doomed in c.execute(query).scalars()]


def distrust(c: Connection, packs: Sequence[str]) -> None:
    """Let nothing find the chunks of ``packs`` any more."""
    c.execute(delete(chunk).where(chunk.c.pack_id.in_(packs)))


def forget(c: Connection, table: Table, ids: Sequence[str]) -> None:
    """Remove the rows of condemned things, whose bytes are gone."""
    c.execute(delete(table).where(table.c.id.in_(ids), table.c.state == CONDEMNED))


def known(c: Connection, table: Table, ids: Sequence[str]) -> set[str]:
    """Those of ``ids`` that have a row, in whatever state."""
    rows: set[str] = set()
    for batch in in_batches(ids):
        rows.update(c.execute(select(table.c.id).where(table.c.id.in_(batch))).scalars())
    return rows


# -- pieces --------------------------------------------------------------------------------------------


def _look_up() -> Select[Any]:
    """The chunks of ``store`` and ``domain`` whose digests lie one after the other in ``digests``.

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
            columns.stored_check,
            columns.first_length,
            columns.first_stored,
        )
        .select_from(number)
        .join(
            chunk,
            and_(
                columns.store == bindparam("store"),
                columns.domain == bindparam("domain"),
                columns.digest == digest,
            ),
        )
        .join(pack, and_(pack.c.id == columns.pack_id, pack.c.state == LIVE))
    )


def _holds(table: Table, state: str) -> Select[Any]:
    """A row when the holder ``id`` has the ``fence`` and is at work."""
    return select(table.c.id).where(
        table.c.id == bindparam("id"), table.c.fence == bindparam("fence"), table.c.state == state
    )


_LOOK_UP = _look_up()
_HOLDS: Mapping[HolderKind, Select[Any]] = {
    HolderKind.JOB: _holds(job, JobState.RUNNING),
    HolderKind.UPLOAD: _holds(upload, UploadState.OPEN),
}
_CODECS = {codec.value: codec for codec in Codec}  # calling the enum costs as much as the rest of a row


def _change_pack(c: Connection, holder: Holder, pack_id: str, state: str, **values: int) -> str:
    """Make a pack that ``holder`` holds live; returns its store. Raises Conflict."""
    is_held = exists().where(pack_reference.c.pack_id == pack.c.id, *_held_by(pack_reference, holder))
    change = update(pack).where(pack.c.id == pack_id, pack.c.state == state, is_held)
    changed = c.execute(change.values(state=LIVE, **values).returning(pack.c.store)).scalar_one_or_none()
    if changed is None:
        raise Conflict(f"pack {pack_id} is not being written by {holder.kind} {holder.id}")
    return str(changed)


def _insert_chunks(
    c: Connection, store: str, domain: str, pack_id: str, chunks: Sequence[IndexedChunk]
) -> None:
    """Rows go to the driver as they are: preparing each for it costs SQLAlchemy as much as the insertion."""
    if chunks:
        # Sorted: near each other in the index.
        rows = sorted((store, domain, *_chunk_row(pack_id, item)) for item in chunks)
        c.exec_driver_sql(_insertion(c.dialect, chunk), rows)


def _chunk_row(pack_id: str, item: IndexedChunk) -> tuple[str | bytes | int, ...]:
    """The columns of `chunk` in their order, those after the domain."""
    digest, place = item
    pack, offset, stored_length, length, codec, check, first_length, first_stored = place
    if pack != pack_id:
        raise ValueError(f"a chunk of pack {pack} is committed with pack {pack_id}")
    where = (pack, offset, stored_length, length, int(codec), check, first_length, first_stored)
    return digest, *where


@cache
def _insertion(dialect: Dialect, table: Table) -> str:
    """The SQL that inserts one row unless it is there, values in the order of the columns."""
    names = [column.name for column in table.columns]
    compiled = insert_new(dialect, table).compile(dialect=dialect, column_keys=names)
    return str(compiled)


def _hand_over(c: Connection, giver: Holder, taker: Holder, packs: Sequence[str]) -> None:
    given = and_(pack_reference.c.pack_id.in_(packs), *_held_by(pack_reference, giver))
    rows = (
        select(pack_reference.c.pack_id, *_constants(taker))
        .join(pack, pack.c.id == pack_reference.c.pack_id)
        .where(given, pack.c.state == LIVE)
    )
    columns = ["pack_id", "holder_kind", "holder_id"]
    taken = c.execute(insert(pack_reference).from_select(columns, rows)).rowcount
    if taken != len(packs):
        raise Conflict(f"{len(packs) - taken} packs that the manifest lists are not live or not held")
    c.execute(delete(pack_reference).where(given))
    _count_anew(c, pack.c.id.in_(packs))


def _count_anew(c: Connection, packs: ColumnElement[bool]) -> None:
    """Other manifests than before list these packs: what is known of their use does not hold any more."""
    c.execute(update(pack).where(packs, pack.c.is_count_due == false()).values(is_count_due=True))


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

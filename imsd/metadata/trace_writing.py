"""Traces as they are written: what runs inside the recorder's transactions, in the database's thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Row, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from imsd.trace_chain import GENESIS, Seal, Trace, TraceOutcome, time_of

from .identity_tables import api_token
from .records import Visibility
from .rows import in_batches
from .tables import image, image_member, upload
from .trace_tables import trace, trace_chain, trace_intent, trace_seal


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where a chain goes on. ``sealed_at`` None: no seal yet; ``oldest_at`` None: no trace is kept."""

    sequence: int = 0
    hash: str = GENESIS
    sealed_sequence: int = 0
    sealed_at: datetime | None = None
    oldest_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TraceIntent:
    """A call that runs. ``trace``: what is known of it so far; its time is when the call began."""

    trace: Trace
    owner: str
    lease_until: datetime


def insert_intents(c: Connection, intents: Sequence[TraceIntent]) -> None:
    c.execute(
        insert(trace_intent),
        [
            {
                "id": intent.trace.id,
                "owner": intent.owner,
                "content": intent.trace.fields(),
                "began_at": intent.trace.time,
                "lease_until": intent.lease_until,
            }
            for intent in intents
        ],
    )


def lost_intents(c: Connection, but_of: str, expired_at: datetime | None, limit: int) -> list[Trace]:
    """What other daemons than ``but_of`` had begun; ``expired_at``: only those that show no life since."""
    query = select(trace_intent.c.content).where(trace_intent.c.owner != but_of)
    if expired_at is not None:
        query = query.where(trace_intent.c.lease_until < expired_at)
    rows = c.execute(query.order_by(trace_intent.c.began_at).limit(limit))
    return [_from_fields(row.content) for row in rows]


def renew_intents(c: Connection, owner: str, lease_until: datetime) -> None:
    c.execute(update(trace_intent).where(trace_intent.c.owner == owner).values(lease_until=lease_until))


def delete_intents(c: Connection, ids: Collection[str]) -> int:
    """Returns how many there were."""
    batches = in_batches(list(ids))
    gone = [delete(trace_intent).where(trace_intent.c.id.in_(batch)) for batch in batches]
    return sum(int(c.execute(each).rowcount) for each in gone)


def written(c: Connection, ids: Collection[str]) -> set[str]:
    """Which of these traces are written already."""
    found: set[str] = set()
    for batch in in_batches(list(ids)):
        found.update(c.execute(select(trace.c.id).where(trace.c.id.in_(batch))).scalars())
    return found


def chain_heads(c: Connection, project_ids: Collection[str]) -> dict[str, ChainHead]:
    """Of chains that began."""
    found = {}
    for batch in in_batches(list(project_ids)):
        for row in c.execute(select(trace_chain).where(trace_chain.c.project_id.in_(batch))):
            found[row.project_id] = ChainHead(*row[1:])
    return found


def insert_traces(c: Connection, traces: Sequence[Trace]) -> None:
    if traces:
        c.execute(insert(trace), [_row(each) for each in traces])


def save_heads(c: Connection, heads: Mapping[str, ChainHead]) -> None:
    build = sqlite.insert if c.dialect.name == "sqlite" else postgresql.insert
    change = build(trace_chain)
    names = [column.name for column in trace_chain.c if not column.primary_key]
    change = change.on_conflict_do_update(
        index_elements=["project_id"], set_={name: change.excluded[name] for name in names}
    )
    if heads:
        c.execute(change, [{"project_id": project_id, **asdict(head)} for project_id, head in heads.items()])


def insert_seals(c: Connection, seals: Sequence[Seal]) -> None:
    if seals:
        c.execute(insert(trace_seal), [asdict(seal) for seal in seals])


def unsealed_projects(c: Connection, limit: int) -> list[str]:
    query = select(trace_chain.c.project_id).where(trace_chain.c.sequence > trace_chain.c.sealed_sequence)
    return list(c.execute(query.limit(limit)).scalars())


def resource_names(c: Connection, traces: Iterable[Trace]) -> dict[str, str]:
    """What the resources of these traces are called, by the id of the trace; nobody learns a foreign name."""
    wanted: dict[str, list[Trace]] = {}
    for each in traces:
        if each.resource_id and not each.resource_name:
            wanted.setdefault(each.resource_type, []).append(each)
    names: dict[str, str] = {}
    for resource_type, of_type in wanted.items():
        if resource_type in _NAMES:
            names |= _NAMES[resource_type](c, of_type)
    return names


def _image_names(c: Connection, traces: Sequence[Trace]) -> dict[str, str]:
    columns = (image.c.id, image.c.name, image.c.project_id, image.c.visibility)
    found = {row.id: row for row in _with_ids(c, columns, traces)}
    members = select(image_member.c.image_id, image_member.c.project_id)
    shared = [row.id for row in found.values() if row.visibility == Visibility.SHARED]
    pairs = (
        {tuple(row) for row in c.execute(members.where(image_member.c.image_id.in_(shared)))}
        if shared
        else ()
    )

    def is_seen(row: Any, project_id: str) -> bool:
        is_open = row.visibility == Visibility.PUBLIC or row.project_id == project_id
        return is_open or (row.id, project_id) in pairs

    return {
        each.id: row.name
        for each in traces
        if (row := found.get(each.resource_id)) is not None and is_seen(row, each.project_id)
    }


def _members(c: Connection, image_ids: Sequence[str]) -> set[tuple[str, str]]:
    found = select(image_member.c.image_id, image_member.c.project_id)
    return {(row[0], row[1]) for row in c.execute(found.where(image_member.c.image_id.in_(image_ids)))}


def _upload_names(c: Connection, traces: Sequence[Trace]) -> dict[str, str]:
    rows = _with_ids(c, (upload.c.id, upload.c.file_name, upload.c.project_id), traces)
    found = {(row.id, row.project_id): row.file_name for row in rows}
    return {each.id: found.get((each.resource_id, each.project_id), "") for each in traces}


def _token_names(c: Connection, traces: Sequence[Trace]) -> dict[str, str]:
    found = {row.id: row.name for row in _with_ids(c, (api_token.c.id, api_token.c.name), traces)}
    return {each.id: found.get(each.resource_id, "") for each in traces}


def _with_ids(c: Connection, columns: Sequence[Column[Any]], traces: Sequence[Trace]) -> Iterator[Row[Any]]:
    """Rows whose id, the first of ``columns``, is that of the resource of one of ``traces``."""
    for batch in in_batches(sorted({each.resource_id for each in traces})):
        yield from c.execute(select(*columns).where(columns[0].in_(batch)))


_NAMES: Mapping[str, Callable[[Connection, Sequence[Trace]], dict[str, str]]] = {
    "image": _image_names,
    "upload": _upload_names,
    "token": _token_names,
}


def _row(each: Trace) -> dict[str, Any]:
    row = each.fields()
    del row["service"]
    row["time"] = each.time
    return row


def _from_fields(fields: Mapping[str, Any]) -> Trace:
    known = {name: value for name, value in fields.items() if name != "service"}
    known["time"] = time_of(known["time"])
    known["outcome"] = TraceOutcome(known["outcome"])
    return Trace(**known)

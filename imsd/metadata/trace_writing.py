"""Traces as they are written: what runs inside the recorder's transactions, in the database's thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Executable,
    Row,
    Select,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from imsd.trace_chain import GENESIS, Seal, Trace, TraceOutcome, time_of

from .identity_tables import api_token, deleted_project, project
from .records import Visibility
from .rows import in_batches
from .tables import image, image_member, upload
from .trace_tables import trace, trace_chain, trace_intent, trace_seal


def _any_of(column: Column[Any]) -> ColumnElement[bool]:
    return column.in_(bindparam("some", expanding=True))


# Made once: to make a statement takes longer than to execute it, and each call that changes something needs
# all of these.
_INSERT_INTENT: Final = insert(trace_intent)
_DELETE_INTENTS: Final = delete(trace_intent).where(_any_of(trace_intent.c.id))
_WRITTEN: Final = select(trace.c.id).where(_any_of(trace.c.id))
_KNOWN_PROJECTS: Final = select(project.c.id).where(_any_of(project.c.id))
_DELETED_PROJECTS: Final = select(deleted_project.c.id).where(_any_of(deleted_project.c.id))
_HEADS: Final = select(trace_chain).where(_any_of(trace_chain.c.project_id))
_INSERT_TRACE: Final = insert(trace)
_INSERT_SEAL: Final = insert(trace_seal)
_IMAGES: Final = select(image.c.id, image.c.name, image.c.project_id, image.c.visibility).where(
    _any_of(image.c.id)
)
_MEMBERS: Final = select(image_member.c.image_id, image_member.c.project_id).where(
    _any_of(image_member.c.image_id)
)
_UPLOADS: Final = select(upload.c.id, upload.c.file_name, upload.c.project_id).where(_any_of(upload.c.id))
_TOKENS: Final = select(api_token.c.id, api_token.c.name).where(_any_of(api_token.c.id))


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where a chain goes on. ``sealed_at`` None: no seal yet; ``oldest_at`` None: no trace is kept.

    ``mac``: the mark of who wrote the newest trace, see `SealKey.mark`.
    """

    sequence: int = 0
    hash: str = GENESIS
    sealed_sequence: int = 0
    sealed_at: datetime | None = None
    oldest_at: datetime | None = None
    mac: str = ""


@dataclass(frozen=True, slots=True)
class TraceIntent:
    """A call that runs. ``trace``: what is known of it so far; its time is when the call began."""

    trace: Trace
    owner: str
    lease_until: datetime


def insert_intents(c: Connection, intents: Sequence[TraceIntent]) -> None:
    c.execute(
        _INSERT_INTENT,
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
    return sum(int(found.rowcount) for found in _of_each(c, _DELETE_INTENTS, ids))


def written(c: Connection, ids: Collection[str]) -> set[str]:
    """Which of these traces are written already."""
    return {row.id for found in _of_each(c, _WRITTEN, ids) for row in found}


def known_projects(c: Connection, project_ids: Collection[str]) -> set[str]:
    """Those of ``project_ids`` that there are."""
    return {row.id for found in _of_each(c, _KNOWN_PROJECTS, project_ids) for row in found}


def deleted_projects(c: Connection, project_ids: Collection[str]) -> set[str]:
    """Those of ``project_ids`` that there were, and that there are no more."""
    return {row.id for found in _of_each(c, _DELETED_PROJECTS, project_ids) for row in found}


def chain_heads(c: Connection, project_ids: Collection[str]) -> dict[str, ChainHead]:
    """Of chains that began."""
    return {row[0]: ChainHead(*row[1:]) for found in _of_each(c, _HEADS, project_ids) for row in found}


def insert_traces(c: Connection, traces: Sequence[Trace]) -> None:
    if traces:
        c.execute(_INSERT_TRACE, [_row(each) for each in traces])


def save_heads(c: Connection, heads: Mapping[str, ChainHead]) -> None:
    if heads:
        rows = [
            {
                "project_id": project_id,
                "sequence": head.sequence,
                "hash": head.hash,
                "sealed_sequence": head.sealed_sequence,
                "sealed_at": head.sealed_at,
                "oldest_at": head.oldest_at,
                "mac": head.mac,
            }
            for project_id, head in heads.items()
        ]
        c.execute(_saving(c.dialect.name), rows)


@cache
def _saving(dialect: str) -> Any:
    change = (sqlite.insert if dialect == "sqlite" else postgresql.insert)(trace_chain)
    names = [column.name for column in trace_chain.c if not column.primary_key]
    return change.on_conflict_do_update(
        index_elements=["project_id"], set_={name: change.excluded[name] for name in names}
    )


def insert_seals(c: Connection, seals: Sequence[Seal]) -> None:
    if seals:
        c.execute(_INSERT_SEAL, [asdict(seal) for seal in seals])


def seal_at(c: Connection, project_id: str, sequence: int) -> Seal | None:
    of_trace = (trace_seal.c.project_id == project_id) & (trace_seal.c.sequence == sequence)
    row = c.execute(select(trace_seal).where(of_trace)).one_or_none()
    return None if row is None else Seal(**row._mapping)


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
    found = {row.id: row for row in _resources(c, _IMAGES, traces)}
    shared = [row.id for row in found.values() if row.visibility == Visibility.SHARED]
    members = {tuple(row) for batch in _of_each(c, _MEMBERS, shared) for row in batch}

    def is_seen(row: Any, project_id: str) -> bool:
        is_open = row.visibility == Visibility.PUBLIC or row.project_id == project_id
        return is_open or (row.id, project_id) in members

    return {
        each.id: row.name
        for each in traces
        if (row := found.get(each.resource_id)) is not None and is_seen(row, each.project_id)
    }


def _upload_names(c: Connection, traces: Sequence[Trace]) -> dict[str, str]:
    found = {(row.id, row.project_id): row.file_name for row in _resources(c, _UPLOADS, traces)}
    return {each.id: found.get((each.resource_id, each.project_id), "") for each in traces}


def _token_names(c: Connection, traces: Sequence[Trace]) -> dict[str, str]:
    found = {row.id: row.name for row in _resources(c, _TOKENS, traces)}
    return {each.id: found.get(each.resource_id, "") for each in traces}


def _resources(c: Connection, query: Select[Any], traces: Sequence[Trace]) -> Iterator[Row[Any]]:
    for found in _of_each(c, query, {each.resource_id for each in traces}):
        yield from found


def _of_each(c: Connection, statement: Executable, values: Collection[str]) -> Iterator[CursorResult[Any]]:
    """What ``statement`` gives for ``values``, a part of them at a time."""
    for batch in in_batches(list(values)):
        yield c.execute(statement, {"some": batch})


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

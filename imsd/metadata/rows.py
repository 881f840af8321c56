"""Between records and rows: a column is named as the field of the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Dialect, Insert, Table, literal, tuple_
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

# A page goes on after the entry with this sort value and id, whether or not it still exists.
Marker = tuple[str | int | datetime, str]

# SQLite of any build takes this many variables in a statement.
MAX_VARIABLES = 900


def to_row(record: Any, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """The columns of a record (a dataclass)."""
    names = (field.name for field in fields(record) if field.name not in without)
    return {name: plain(getattr(record, name)) for name in names}


def plain(value: Any) -> Any:
    """What the JSON columns and drivers take for mappings and sequences of any kind."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def made(kind: type[T], values: Mapping[str, Any]) -> T:
    """An instance of ``kind``, a frozen dataclass without slots or further checks, of all its fields.

    Its own ``__init__`` sets each of sixty fields by `object.__setattr__`: most of what its row costs.
    """
    instance = object.__new__(kind)
    instance.__dict__.update(values)
    return instance


def in_batches(items: Sequence[T], size: int = MAX_VARIABLES) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def beyond(
    column: Column[Any], last_id: Column[Any], marker: Marker, *, descending: bool
) -> ColumnElement[bool]:
    """The entries that come after ``marker`` in the order of ``column``, then of the id."""
    there = (literal(marker[0], column.type), literal(marker[1], last_id.type))
    return beyond_all((column, last_id), there, descending=descending)


def beyond_all(
    here: Sequence[ColumnElement[Any]], there: Sequence[ColumnElement[Any]], *, descending: bool
) -> ColumnElement[bool]:
    """As `beyond`, of any number of columns and of what they are compared with."""
    return tuple_(*here) < tuple_(*there) if descending else tuple_(*here) > tuple_(*there)


def insert_new(dialect: Dialect, table: Table) -> Insert:
    """An INSERT that leaves rows alone whose primary key is there already."""
    if dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()

"""Several rows as one JSON value, which the database makes: all of a query as an array, or keys with values.

Python's SQLite lets go of its interpreter lock for each row and waits for it again, up to 5 ms while another
thread computes: a page of 25 images took 150 ms beside one busy thread, and takes 2 ms as one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, Select, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement


def as_one_value(rows: Select[Any]) -> Select[tuple[Sequence[Sequence[Any]] | None]]:
    """``rows`` in their order, each with its columns in theirs; null or empty when there are none.

    A time is text of ISO 8601, without a zone in SQLite, which has 0 and 1 for booleans. PostgreSQL takes no
    more than 100 columns.
    """
    inner = rows.subquery("entry")
    return select(_array_of_all(*inner.c))


class _array_of_all(FunctionElement[Sequence[Sequence[Any]] | None]):  # noqa: N801  # as functions of SQL are
    """An aggregate over the rows of a subquery, which both databases go through in its order."""

    type = JSON()
    inherit_cache = True


@compiles(_array_of_all, "sqlite")
def _array_in_sqlite(element: _array_of_all, compiler: SQLCompiler, **options: Any) -> str:
    # What holds JSON is text there, which would be quoted.
    entry = [_unquoted(column, compiler.process(column, **options)) for column in element.clauses]
    return f"json_group_array(json_array({', '.join(entry)}))"


def _unquoted(column: ColumnElement[Any], sql: str) -> str:
    return f"json({sql})" if isinstance(column.type, JSON) else sql


@compiles(_array_of_all, "postgresql")
def _array_in_postgresql(element: _array_of_all, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_agg(json_build_array({compiler.process(element.clauses, **options)}))"


class object_of(FunctionElement[dict[str, Any]]):  # noqa: N801
    """An aggregate of a key and a value; NULL or empty when there are none."""

    type = JSON()
    inherit_cache = True


@compiles(object_of, "sqlite")
def _object_in_sqlite(element: object_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_object({compiler.process(element.clauses, **options)})"


@compiles(object_of, "postgresql")
def _object_in_postgresql(element: object_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_object_agg({compiler.process(element.clauses, **options)})"

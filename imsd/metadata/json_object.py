"""Keys and values of several rows as one JSON object, on every database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class object_of(FunctionElement[dict[str, Any]]):  # noqa: N801  # named as the functions of SQL are
    """An aggregate of a key and a value; NULL or empty when there are none."""

    type = JSON()
    inherit_cache = True


@compiles(object_of, "sqlite")
def _in_sqlite(element: object_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_object({compiler.process(element.clauses, **options)})"


@compiles(object_of, "postgresql")
def _in_postgresql(element: object_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_object_agg({compiler.process(element.clauses, **options)})"

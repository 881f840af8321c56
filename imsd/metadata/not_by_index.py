"""A column that SQLite shall not look for in an index, though there is one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class not_by_index(FunctionElement[str]):  # noqa: N801  # named as the functions of SQL are
    """A text that nearly all rows have in common: SQLite, which keeps no statistics, would look for it first.

    PostgreSQL has statistics. To anything but the column itself they do not apply.
    """

    type = String()
    inherit_cache = True


@compiles(not_by_index, "sqlite")
def _in_sqlite(element: not_by_index, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


@compiles(not_by_index, "postgresql")
def _in_postgresql(element: not_by_index, compiler: SQLCompiler, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))

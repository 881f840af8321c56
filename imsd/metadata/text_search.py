"""Looking for a part of a text, in any case of its letters, on every database."""

from __future__ import annotations

import re

from sqlalchemy import ColumnElement, func


def contains(column: ColumnElement[str], part: str) -> ColumnElement[bool]:
    """Whether ``part`` is in the text, in any case; none of its characters stands for others.

    SQLite's ``lower`` is made to know all letters when a connection is opened, see `sqlite_driver`.
    """
    pattern = "%" + re.sub(r"([\\%_])", r"\\\1", part) + "%"
    return func.lower(column).like(func.lower(pattern), escape="\\")

"""Rows to write and to look for, in a table that has few rules of its own."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from imsd.metadata.database import Database
from imsd.metadata.tables import request
from tests.unit.metadata.samples import START


def row(number: int) -> dict[str, object]:
    return {
        "project_id": "lab",
        "request_id": f"r{number:06}",
        "fingerprint": "f",
        "resource_id": "x",
        "created_at": START,
    }


async def write(database: Database, number: int) -> None:
    async with database.transaction() as c:
        await c.execute(insert(request).values(row(number)))


def insert_rows(c: Connection, *numbers: int, then: type[Exception] | None = None) -> int:
    """For `Database.run`."""
    for number in numbers:
        c.execute(insert(request).values(row(number)))
    if then:
        raise then
    return len(numbers)


async def run_write(database: Database, number: int) -> None:
    """As `write`, in a function that the database runs."""
    await database.run(insert_rows, number)


async def seen(database: Database) -> list[str]:
    async with database.reading() as c:
        return list((await c.execute(select(request.c.request_id).order_by(request.c.request_id))).scalars())

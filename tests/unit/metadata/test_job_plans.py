"""What is asked of jobs, and what is removed of them, is found by an index: a project may have many."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import CursorResult, event

from imsd.metadata import jobs
from imsd.metadata.database import Database
from imsd.metadata.jobs import JobQuery
from imsd.metadata.records import JobKind, JobState
from tests.unit.metadata.samples import at, new_id


async def plan_of(database: Database, ask: Any) -> str:
    """How SQLite finds what a function asks for."""
    async with database.transaction() as c:
        sent: list[tuple[str, Any]] = []

        def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
            sent.append((statement, parameters))

        assert c.sync_connection is not None
        event.listen(c.sync_connection, "before_cursor_execute", note)
        await ask(c)
        event.remove(c.sync_connection, "before_cursor_execute", note)
        statement, parameters = sent[-1]  # before it, the transaction began
        explained: CursorResult[Any] = await c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "\n".join(str(row._mapping["detail"]) for row in explained)


@pytest.mark.parametrize(
    "more", [{}, {"states": (JobState.INIT, JobState.RUNNING), "kinds": (JobKind.VERIFY_IMAGE,)}]
)
async def test_the_jobs_of_an_image_are_not_looked_for_among_all(
    sqlite_database: Database, more: dict[str, Any]
) -> None:
    query = JobQuery(project_id="lab", image_id=new_id(), **more)
    plan = await plan_of(sqlite_database, lambda c: jobs.list_jobs(c, query, 10, None))
    assert "(project_id=? AND image_id=?)" in plan
    assert "TEMP B-TREE" not in plan


async def test_old_jobs_are_not_looked_for_among_all(sqlite_database: Database) -> None:
    plan = await plan_of(sqlite_database, lambda c: jobs.forget_jobs(c, at(0), 10))
    assert "ix_job_finished_at (finished_at<?)" in plan

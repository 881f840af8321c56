"""The rows of the sub-jobs of a job that is watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from imsctl.job_watch import watch_job
from imsctl.progress import NoProgress, ProgressRow, Snapshot

from imsd.v1 import job_pb2

PARENT, PARTS = "parent", ["one", "two"]


class Rows(NoProgress):
    """Notes what is shown, by label."""

    def __init__(self) -> None:
        self.shown: dict[str, list[str]] = {}

    def row(self, label: str = "") -> ProgressRow:
        return _Row(self.shown.setdefault(label, []))


class _Row(ProgressRow):
    def __init__(self, shown: list[str]) -> None:
        self._shown = shown

    def show(self, snapshot: Snapshot) -> None:
        self._shown.append(snapshot.phase)


class Client:
    """A job with two sub-jobs that never end by themselves."""

    def __init__(self) -> None:
        self.jobs: Any = self
        self.watched: list[str] = []

    async def wait_for_job(self, job_id: str, on_change: Callable[[job_pb2.Job], None]) -> job_pb2.Job:
        self.watched.append(job_id)
        running = job_pb2.Job(id=job_id, state=job_pb2.JOB_STATE_RUNNING)
        running.progress.phase = f"phase of {job_id}"
        if job_id != PARENT:
            on_change(running)
            await asyncio.Event().wait()
        on_change(running)
        running.sub_job_ids.extend(PARTS)
        for _ in range(3):
            on_change(running)
            await asyncio.sleep(0)
        done = job_pb2.Job(id=PARENT, state=job_pb2.JOB_STATE_SUCCESS, sub_job_ids=PARTS)
        on_change(done)
        return done


async def test_every_sub_job_has_a_row_from_its_start_to_the_end_of_all() -> None:
    client, rows, own = Client(), Rows(), Rows()
    client_of_any_type: Any = client
    done = await watch_job(client_of_any_type, PARENT, own.row(), rows)
    await asyncio.sleep(0)
    assert done.state == job_pb2.JOB_STATE_SUCCESS
    assert client.watched == [PARENT, *PARTS]
    assert rows.shown == {"disk 1": ["phase of one", "done"], "disk 2": ["phase of two", "done"]}
    assert own.shown[""] == ["phase of parent"] * 4 + ["done"]
    assert len(asyncio.all_tasks()) == 1, "the sub-jobs are still watched"


async def test_without_a_view_only_the_job_is_watched() -> None:
    client, own = Client(), Rows()
    client_of_any_type: Any = client
    await watch_job(client_of_any_type, PARENT, own.row())
    assert client.watched == [PARENT]

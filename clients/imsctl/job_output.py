"""Jobs as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.v1 import job_pb2

from . import wording
from .json_fields import enum_text, job_fields
from .output import print_fields, print_json, print_table
from .progress import job_snapshot
from .session import Session


def state_text(job: job_pb2.Job) -> str:
    return enum_text(job_pb2.JobState, job.state)


def kind_text(job: job_pb2.Job) -> str:
    return enum_text(job_pb2.JobKind, job.kind).replace("_", " ")


def print_job(session: Session, job: job_pb2.Job) -> None:
    if session.is_json:
        print_json(job_fields(job))
        return
    error = job.error
    print_fields(
        {
            "id": job.id,
            "kind": kind_text(job),
            "state": state_text(job),
            "phase": job.progress.phase,
            "progress": job_snapshot(job).numbers().strip(),
            "error": f"{error.message} [{error.reason}]" if error.reason else "",
            "hint": error.hint,
            "images": ", ".join(job.image_ids),
            "sub-jobs": ", ".join(job.sub_job_ids),
            "parent": job.parent_job_id,
            "uploads": ", ".join(job.upload_ids),
            "attempt": str(job.attempt) if job.attempt > 1 else "",
            "created": wording.local_time(job.created_at),
            "started": wording.local_time(job.started_at),
            "finished": wording.local_time(job.finished_at),
        }
    )


def print_jobs(session: Session, jobs: Sequence[job_pb2.Job]) -> None:
    if session.is_json:
        print_json([job_fields(job) for job in jobs])
        return
    header = ("ID", "KIND", "STATE", "PHASE", "DONE>", "IMAGE", "CREATED", "REASON")
    print_table(header, [_row(job) for job in jobs])


def _row(job: job_pb2.Job) -> tuple[str, ...]:
    return (
        job.id,
        kind_text(job),
        state_text(job),
        job.progress.phase,
        f"{job.progress.percent:.0f} %",
        " ".join(job.image_ids),
        wording.local_time(job.created_at),
        job.error.reason,
    )

"""`imsctl job`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import typer
from ims_client import CallFailed, ClientError, ImsClient, JobCancelled

from imsd.v1 import job_pb2

from . import choice
from .command import command, group
from .job_output import print_job, print_jobs, state_text
from .job_watch import watch_job
from .json_fields import enum_texts, job_fields
from .output import print_json
from .paging import take
from .progress import ProgressView
from .session import FAILED, Interrupted, Session, print_failure

app = group("Work that takes longer than a request.", "imsctl job list --state running")

KINDS = enum_texts(job_pb2.JobKind)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")]
JobsArgument = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs.")]


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    state: Annotated[
        list[str],
        typer.Option(
            metavar="STATE",
            help="init, running, success, fail, cancelling or cancelled; may be repeated.",
        ),
    ] = field(default_factory=list)
    kind: Annotated[list[str], typer.Option(metavar="KIND", help=f"{', '.join(KINDS)}; may be repeated.")] = (
        field(default_factory=list)
    )
    image: Annotated[str, typer.Option(metavar="IMAGE", help="Only jobs on this image.")] = ""
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most N jobs; 0: all.")] = 0


@command(app, "list", example="imsctl job list --state running --state init")
async def list_(session: Session, options: ListOptions) -> None:
    """Show the jobs of the project, newest first."""
    states = [
        job_pb2.JobState.ValueType(choice.choose(job_pb2.JobState, text, "--state")) for text in options.state
    ]
    kinds = [
        job_pb2.JobKind.ValueType(choice.choose(job_pb2.JobKind, text, "--kind")) for text in options.kind
    ]
    async with session.connect() as client:
        image_id = (await client.images.resolve(options.image)).id if options.image else ""
        found = await take(client.jobs.list(states, kinds, image_id), options.limit)
    print_jobs(session, found)


@command(app, "show", example="imsctl job show 3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11 -o json")
async def show(session: Session, job: JobArgument) -> None:
    """Show one job."""
    async with session.connect() as client:
        found = await client.jobs.get(job)
    print_job(session, found)


@command(app, "watch", example="imsctl job watch 3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11")
async def watch(session: Session, jobs: JobsArgument) -> int:
    """Follow jobs to their end; exit 1 unless all succeed. Ctrl-C leaves them running."""
    jobs = list(dict.fromkeys(jobs))
    async with session.connect() as client:
        with session.progress() as view:
            watched = [asyncio.create_task(_watch_one(client, job, view, len(jobs) > 1)) for job in jobs]
            try:
                outcomes = await asyncio.gather(*watched, return_exceptions=True)
            except asyncio.CancelledError:
                left = [job for job, watching in zip(jobs, watched, strict=True) if watching.cancelled()]
                raise _left_running(left) from None
        for outcome in outcomes:
            if isinstance(outcome, ClientError):
                print_failure(outcome.message, outcome.hint, outcome.reason)
            elif isinstance(outcome, BaseException):
                raise outcome
        known = [await client.jobs.get(job) for job in jobs if not _is_unknown(outcomes[jobs.index(job)])]
    if session.is_json:
        print_json([job_fields(job) for job in known])
    else:
        for job in known:
            print(f"{job.id} {state_text(job)}")
    return FAILED if any(isinstance(outcome, ClientError) for outcome in outcomes) else 0


@dataclass(frozen=True, kw_only=True)
class CancelOptions:
    detach: Annotated[bool, typer.Option("--detach", help="Return at once, while the clean-up goes on.")] = (
        False
    )


@command(app, "cancel", example="imsctl job cancel 3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11")
async def cancel(session: Session, jobs: JobsArgument, options: CancelOptions) -> int:
    """End jobs and remove what they made; a job that has ended stays as it is."""
    ended, failures = [], 0
    async with session.connect() as client:
        for job_id in jobs:
            try:
                job = await client.jobs.cancel(job_id)
                if not options.detach:
                    job = await _settled(client, job_id)
            except CallFailed as error:
                if error.reason == "DAEMON_UNREACHABLE":
                    raise
                failures += 1
                print_failure(error.message, error.hint, error.reason)
                continue
            ended.append(job)
            if not session.is_json:
                print(f"{job.id} {state_text(job)}")
    if session.is_json:
        print_json([job_fields(job) for job in ended])
    return FAILED if failures else 0


def _left_running(jobs: list[str]) -> Interrupted:
    """What to say when the user watches ``jobs`` no longer."""
    message = "the job goes on" if len(jobs) == 1 else "the jobs go on"
    cancel = f"`imsctl job cancel {' '.join(jobs)}`"
    return Interrupted(f"interrupted: {message}", f"to end what still runs: {cancel}")


async def _watch_one(client: ImsClient, job_id: str, view: ProgressView, is_labelled: bool) -> job_pb2.Job:
    row = view.row(job_id[:8] if is_labelled else "")
    return await watch_job(client, job_id, row, None if is_labelled else view)


async def _settled(client: ImsClient, job_id: str) -> job_pb2.Job:
    """The job in its final state, whichever that is."""
    try:
        return await client.jobs.wait_for_job(job_id)
    except JobCancelled as cancelled:
        return cancelled.job
    except ClientError as error:
        job: job_pb2.Job | None = getattr(error, "job", None)
        if job is None:
            raise
        return job


def _is_unknown(outcome: job_pb2.Job | BaseException) -> bool:
    """Whether asking for the job would fail as watching it did."""
    return isinstance(outcome, CallFailed)

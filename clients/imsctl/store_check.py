"""`imsctl store check`: whether a store in use does what drivers promise, and how fast it is."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from imsd.v1 import job_pb2

from . import wording
from .command import command
from .json_fields import job_fields
from .output import print_json
from .own_job import run_own_job
from .session import FAILED, Session
from .store_app import OptionalStore, app

OUTCOME = job_pb2.TriedPromise
MARKS = {OUTCOME.OUTCOME_KEPT: "kept", OUTCOME.OUTCOME_BROKEN: "BROKEN", OUTCOME.OUTCOME_SKIPPED: "skipped"}


@command(app, "check", example=["imsctl store check", "imsctl store check archive -o json"])
async def check(
    session: Session,
    store: OptionalStore = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the job is started; print it.")
    ] = False,
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="Start at most one job; a repeat gets the one that was started.")
    ] = "",
) -> int:
    """Try on a store in use what drivers promise, and measure it; exit 1 if a promise is broken.

    Nothing of images is touched, and what the check writes it deletes.
    """
    # A repeated call gets the job of the first.
    request_id = request_id or f"imsctl-{uuid.uuid4()}"
    async with session.connect() as client:
        job = await run_own_job(
            session, client, lambda: client.stores.check(store, request_id), is_detached=detach
        )
        if job is None:
            return 0
    report = job.store_report
    if session.is_json:
        print_json(job_fields(job))
    else:
        _print_report(report)
    is_broken = any(each.outcome == OUTCOME.OUTCOME_BROKEN for each in report.promises)
    return FAILED if is_broken else 0


def _print_report(report: job_pb2.StoreReport) -> None:
    for each in report.promises:
        why = f" ({each.detail})" if each.detail else ""
        print(f"{MARKS.get(each.outcome, '?'):8} {each.summary}{why}")
    counts = dict.fromkeys(MARKS.values(), 0)
    for each in report.promises:
        counts[MARKS[each.outcome]] += 1
    print()
    verdict = (
        "does what it must" if not counts["BROKEN"] else "does not do what it must: keep no images there"
    )
    told = ", ".join(f"{count} {mark.lower()}" for mark, count in counts.items() if count)
    print(f"The store {report.store} {verdict}: {told}.")
    if report.HasField("rates"):
        _print_rates(report.rates)


def _print_rates(rates: job_pb2.StoreRates) -> None:
    written, read = wording.size(rates.write_bytes_per_second), wording.size(rates.read_bytes_per_second)
    times = map(_milliseconds, (rates.commit_seconds, rates.stat_seconds, rates.read_seconds))
    committed, looked_at, small = times
    print(f"It takes {written}/s and gives {read}/s.")
    print(f"A small blob is committed in {committed}, looked at in {looked_at} and read in {small}.")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"

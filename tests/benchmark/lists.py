"""Lists of images beside OpenStack Glance: 100,000 images of 1,000 projects, the same rows in both.

    python -m tests.benchmark.lists [--images N] [--seconds S] [--rounds N]

Both are one process with an SQLite database behind a write-ahead log, and are asked by a process of its
own (`load`). Before anything is timed, both must give the same images in the same order.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from tests.benchmark.disks import Disks
from tests.benchmark.glance_peer import Glance
from tests.benchmark.list_questions import Question, http_request, make_questions, require_same_answers
from tests.benchmark.load import Load, Plan
from tests.benchmark.made_images import IMAGES, made_images, write_glance, write_ours
from tests.benchmark.our_daemon import OurDaemon
from tests.benchmark.report import Row, table
from tests.benchmark.stopwatch import NotAvailable, Times, wait_until_idle

IN_FLIGHT = 8
PACE = 50.0  # requests a second
RATE_GOAL = "10 ×"
LATENCY_GOAL = "p99 ≤ 50 ms"
SECONDS = 5.0  # of each load; a paced one takes twice as long


@dataclass(slots=True)
class Measured:
    """All rounds of one question to one service."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def rate_text(self) -> str:
        return f"{self.rate:,.0f} a second ({min(self.rates):,.0f}–{max(self.rates):,.0f})"

    def latency_text(self) -> str:
        if not self.latencies:
            return "no answer"
        milliseconds = sorted(1000 * latency for latency in self.latencies)
        p99 = milliseconds[int(len(milliseconds) * 0.99)]
        text = f"p99 {p99:,.1f} ms, median {statistics.median(milliseconds):,.1f} ms"
        return text + (f"; {self.failures} without an answer" if self.failures else "")


def lists(
    disks: Disks, rounds: int, images: int = IMAGES, seconds: float = SECONDS
) -> tuple[list[Row], list[Times]]:
    made = made_images(images)
    with ExitStack() as undo:
        daemon = undo.enter_context(closing(OurDaemon(disks.scratch / "daemon")))
        daemon.start(partial(write_ours, images=made))
        questions = asyncio.run(make_questions(daemon.address, made))
        ports = [0]
        try:
            glance = Glance(disks.scratch / "glance", partial(write_glance, images=made))
            ports.append(undo.enter_context(closing(glance)).port)
        except NotAvailable as missing:
            reason = f"Glance: not available ({missing})"
        rows: list[Row] = []
        for question in questions:
            for port in ports[1:]:
                asyncio.run(require_same_answers(daemon.address, port, question))
            ours, *theirs = _measure(
                [_plan(question, daemon.address, port) for port in ports], rounds, seconds
            )
            rows += _rows(question.job, ours, *theirs) if theirs else _lone_rows(question.job, ours, reason)
    return rows, []


def _plan(question: Question, address: str, port: int) -> Plan:
    """To ask Glance at ``port`` or, if that is 0, our daemon; neither how often nor how long yet."""
    if port:
        requests = [http_request(port, each.glance) for each in question.asked]
        address, method = f"127.0.0.1:{port}", ""
    else:
        requests = [each.ours.SerializeToString() for each in question.asked]
        method = question.method
    encoded = tuple(base64.b64encode(request).decode() for request in requests)
    return Plan(address=address, method=method, requests=encoded, seconds=0)


def _measure(plans: list[Plan], rounds: int, seconds: float) -> list[Measured]:
    """Each plan in turn, ``rounds`` times, saturated and then paced."""
    measured = [Measured() for _ in plans]
    for _ in range(rounds):
        for plan, result in zip(plans, measured, strict=True):
            load = _follow(replace(plan, seconds=seconds, in_flight=IN_FLIGHT))
            if load.failures:
                raise RuntimeError(f"{load.failures} requests of {plan.method or 'Glance'} failed")
            result.rates.append(load.rate)
            load = _follow(replace(plan, seconds=2 * seconds, rate=PACE))
            result.latencies += load.latencies
            result.failures += load.failures
    return measured


def _follow(plan: Plan) -> Load:
    wait_until_idle()
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmark.load"],
        input=json.dumps(asdict(plan)).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    load = Load(**json.loads(done.stdout))
    kind = f"{plan.in_flight} in flight" if plan.in_flight else f"{plan.rate:.0f} a second"
    print(
        f"    {plan.method or 'Glance':<34} {kind:<13} {load.rate:9,.1f} answers a second, "
        f"the load took {100 * load.own_share:.0f} % of a processor",
        flush=True,
    )
    return load


def _rows(job: str, ours: Measured, theirs: Measured) -> list[Row]:
    ratio = f"{ours.rate / theirs.rate:.1f} × as many"
    rows = [
        Row(f"list: {job}", ours.rate_text(), f"Glance: {theirs.rate_text()}", ratio, RATE_GOAL),
        Row(
            f"same, at {PACE:.0f} a second",
            ours.latency_text(),
            f"Glance: {theirs.latency_text()}",
            "",
            LATENCY_GOAL,
        ),
    ]
    for row in rows:
        print(f"  {row.job:<44} {row.ours:<44} {row.peer} {row.ratio}", flush=True)
    return rows


def _lone_rows(job: str, ours: Measured, reason: str) -> list[Row]:
    return [
        Row(f"list: {job}", ours.rate_text(), reason, "", RATE_GOAL),
        Row(f"same, at {PACE:.0f} a second", ours.latency_text(), "", "", LATENCY_GOAL),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure lists of images beside Glance.")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="imsd-bench.", dir="/dev/shm"))
    try:
        rows, _ = lists(Disks(scratch / "run"), options.rounds, options.images, options.seconds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table(rows))


if __name__ == "__main__":
    main()

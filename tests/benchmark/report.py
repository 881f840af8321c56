"""Rows of results, and the page they are written to."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmark.stopwatch import Times

BEGIN = "<!-- results: begin -->"
END = "<!-- results: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ratio`` is how much better ours is; ``goal`` what was set out for."""

    job: str
    ours: str
    peer: str
    ratio: str
    goal: str


def speed_row(job: str, ours: Times, peer: Times, goal: float | None, size_goal: float | None = None) -> Row:
    """Ours against a peer, in medians; with ``size_goal`` the result's size is compared as well."""
    ratio = f"{peer.median / ours.median:.1f} × as fast"
    wanted = f"{goal:g} ×" if goal else ""
    if size_goal is not None and peer.size_bytes:
        ratio += f", {ours.size_bytes / peer.size_bytes:.3f} × the size"
        wanted += f", size ≤ {size_goal:g} ×"
    return Row(job, str(ours), f"{peer.contender.label}: {peer}", ratio, wanted)


def absent_row(job: str, peer: str, reason: Exception, ours: Times | None = None) -> Row:
    return Row(job, str(ours or ""), f"{peer}: not available ({reason})", "", "")


def mebibytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def table(rows: Sequence[Row]) -> str:
    lines = ["| job | imsd | peer | imsd is | goal |", "|---|---|---|---|---|"]
    lines += [f"| {row.job} | {row.ours} | {row.peer} | {row.ratio} | {row.goal} |" for row in rows]
    return "\n".join(lines)


def commands(measured: Sequence[Times]) -> str:
    """What was run, once each."""
    seen = {times.contender.label: times.contender.command for times in measured}
    lines = ["| contender | command |", "|---|---|"]
    return "\n".join(lines + [f"| {label} | `{command}` |" for label, command in seen.items()])


def machine() -> str:
    """The facts of this machine that the figures depend on."""
    processors = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    model = processors[0] if processors else platform.machine()
    return (
        f"{len(processors)} × {model}, {memory:.0f} GiB memory, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def version(*command: str) -> str:
    """The first line a program says of itself, or 'not available'."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError:
        return f"{command[0]} not available"
    return (said.stdout or said.stderr).strip().splitlines()[0]


def write_between_markers(page: Path, content: str) -> None:
    """Replace what stands between the two markers of ``page``."""
    text = page.read_text()
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise RuntimeError(f"{page} has no markers {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")

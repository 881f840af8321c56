"""`imsctl trace`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from imsd.v1 import trace_pb2

from . import choice, wording
from .command import command, group
from .json_fields import enum_text
from .output import print_fields, print_json, print_table, printable
from .paging import take
from .session import FAILED, Session
from .trace_json import trace_fields

app = group("What was changed, by whom and with which outcome.", "imsctl trace list --since 1d")

SINCE_HELP = "From this time on: 2026-05-01, 2026-05-01T12:00 (UTC) or how long ago, as 90m, 12h or 7d."
UNTIL_HELP = "To before this time."
LISTED = 100

_AGO = re.compile(r"(\d{1,9})([mhd])\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    name: Annotated[
        list[str], typer.Option(metavar="NAME", help="As createImage or addMember; may be repeated.")
    ] = field(default_factory=list)
    outcome: Annotated[
        list[str],
        typer.Option(metavar="OUTCOME", help="succeeded, denied, failed or interrupted; may be repeated."),
    ] = field(default_factory=list)
    caller: Annotated[str, typer.Option(metavar="ID", help="Only of this user, or certificate.")] = ""
    resource: Annotated[str, typer.Option(metavar="ID", help="Only about this image, upload, user ...")] = ""
    type: Annotated[
        str, typer.Option(metavar="TYPE", help="Only about things of this type: image, upload, job, user ...")
    ] = ""
    request: Annotated[str, typer.Option("--request-id", metavar="ID", help="Only of this request.")] = ""
    since: Annotated[str, typer.Option(metavar="TIME", help=SINCE_HELP)] = ""
    until: Annotated[str, typer.Option(metavar="TIME", help=UNTIL_HELP)] = ""
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most N traces; 0: all.")] = LISTED

    def filter(self) -> trace_pb2.TraceFilter:
        """Raises typer.BadParameter."""
        return trace_pb2.TraceFilter(
            names=self.name,
            outcomes=[_outcome(text) for text in self.outcome],
            caller_id=self.caller,
            resource_id=self.resource,
            resource_type=self.type,
            request_id=self.request,
            from_time=_moment(self.since, "--since"),
            to_time=_moment(self.until, "--until"),
        )


@command(
    app,
    "list",
    example=[
        "imsctl trace list --since 1d --outcome denied",
        "imsctl trace list --resource 3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11 --limit 0 -o json",
        "imsctl trace list --project @service",
    ],
)
async def list_(session: Session, options: ListOptions) -> None:
    """Show what was changed in the project, newest first.

    What belongs to no project (users, groups, tokens, projects) is in `--project @service`, for operators.
    """
    filter = options.filter()
    async with session.connect() as client:
        found = await take(client.traces.list(filter), options.limit)
    if session.is_json:
        print_json([trace_fields(trace) for trace in found])
        return
    rows = [_row(trace) for trace in found]
    print_table(("TIME", "NAME", "RESOURCE", "OUTCOME", "WHO", "FROM", "ID"), rows)


@command(app, "show", example="imsctl trace show 3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11 -o json")
async def show(
    session: Session, trace: Annotated[str, typer.Argument(metavar="TRACE", help="The id of a trace.")]
) -> None:
    """Show one trace."""
    async with session.connect() as client:
        found = await client.traces.get(trace)
    fields = trace_fields(found)
    if session.is_json:
        print_json(fields)
        return
    details = fields.pop("details")
    shown = {name.replace("_", " "): str(value) for name, value in fields.items()}
    print_fields(shown | {f"details {name}": value for name, value in details.items()})


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    append: Annotated[
        str,
        typer.Option(metavar="FILE", help="Go on with this file, from the last trace in it; or begin it."),
    ] = ""
    since: Annotated[str, typer.Option(metavar="TIME", help=SINCE_HELP)] = ""
    until: Annotated[str, typer.Option(metavar="TIME", help=UNTIL_HELP)] = ""
    after: Annotated[
        int, typer.Option(metavar="N", min=0, help="Only traces with a greater sequence number.")
    ] = 0


@command(
    app,
    "export",
    example=[
        "imsctl trace export --since 2026-05-01 > traces.jsonl",
        "imsctl trace export --project web --append /srv/audit/web.jsonl",
    ],
)
async def export(session: Session, options: ExportOptions) -> None:
    """Write all traces of the project, oldest first, one JSON object a line, with what proves them.

    With --append nothing is left out and nothing written twice, however often it is run, and it fails when
    the daemon's traces are not those of the file any more.
    """
    chosen = [name for name in ("since", "until", "after") if getattr(options, name)]
    if options.append:
        if chosen:
            raise typer.BadParameter(f"leave out --{chosen[0]}: the file says where to go on")
        await _append(session, Path(options.append))
        return
    from .trace_file import line_of

    begin, end = _moment(options.since, "--since"), _moment(options.until, "--until")
    filter = trace_pb2.TraceFilter(from_time=begin, to_time=end)
    async with session.connect() as client:
        async for entry in client.traces.export(filter, options.after):
            sys.stdout.buffer.write(line_of(entry))


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    file: Annotated[
        str, typer.Option(metavar="FILE", help="Check a file that was exported, without a daemon.")
    ] = ""
    seal_key: Annotated[
        str,
        typer.Option(metavar="FILE", help="With --file: trace-key of the daemon, which proves its seals."),
    ] = ""


@command(
    app,
    "verify",
    example=[
        "imsctl trace verify --project web",
        "imsctl trace verify --file /srv/audit/web.jsonl --seal-key /root/trace-key",
    ],
)
async def verify(session: Session, options: VerifyOptions) -> int:
    """Check that no trace of the project was changed, removed or moved; ends with 1 if one was."""
    if options.seal_key and not options.file:
        raise typer.BadParameter("--seal-key is for --file: the daemon has its key")
    if options.file:
        from .trace_file import check_file, read_key

        key = read_key(Path(options.seal_key)) if options.seal_key else None
        found: Any = check_file(Path(options.file), key)
        if key is None:
            session.note("note: the seals were compared, but not proved: that needs --seal-key")
    else:
        async with session.connect() as client:
            found = await client.traces.verify()
        if not found.traces_checked:
            session.note("note: there are no traces in this project")
    return _print_check(session, found)


async def _append(session: Session, path: Path) -> None:
    from .trace_file import appending

    with appending(path) as file:
        async with session.connect() as client:
            await file.append(client.traces.export(after_sequence=max(file.sequence - 1, 0)))
    if session.is_json:
        print_json({"file": str(path), "traces": file.added, "last_sequence": file.sequence})
    else:
        print_fields({"file": str(path), "traces added": str(file.added), "last": str(file.sequence)})


def _print_check(session: Session, check: Any) -> int:
    """``check``: of the daemon or of a file, which have the same fields."""
    fields = {
        "intact": bool(check.is_intact),
        "traces_checked": check.traces_checked,
        "seals_checked": check.seals_checked,
        "first_sequence": check.first_sequence,
        "last_sequence": check.last_sequence,
        "sealed_sequence": check.sealed_sequence,
        "problems": list(check.problems),
    }
    if session.is_json:
        print_json(fields)
    else:
        shown = {name.replace("_", " "): str(value) for name, value in fields.items() if name != "problems"}
        print_fields(shown | {"intact": wording.yes_no(check.is_intact)})
        for problem in check.problems:
            print(printable(f"problem: {problem}"))  # which may quote a file of anybody's
    return 0 if check.is_intact else FAILED


def _row(trace: trace_pb2.Trace) -> tuple[str, ...]:
    outcome = enum_text(trace_pb2.TraceOutcome, trace.outcome)
    return (
        wording.local_time(trace.time),
        trace.name,
        " ".join(filter(None, (trace.resource_type, trace.resource_name or trace.resource_id))),
        f"{outcome} {trace.reason}".rstrip(),
        trace.caller_id,
        wording.peer(trace.peer),
        trace.id,
    )


def _outcome(text: str) -> trace_pb2.TraceOutcome.ValueType:
    return trace_pb2.TraceOutcome.ValueType(choice.choose(trace_pb2.TraceOutcome, text, "--outcome"))


def _moment(text: str, option: str) -> Timestamp | None:
    """A time, or how long ago. Raises typer.BadParameter."""
    if not text:
        return None
    try:
        if ago := _AGO.match(text):
            time = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            time = datetime.fromisoformat(text)
            time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        stamp = Timestamp()
        stamp.FromDatetime(time)
        return stamp
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-05-01T12:00 or 12h", param_hint=option
        ) from None

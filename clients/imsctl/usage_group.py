"""`imsctl usage`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from imsd.v1 import quota_pb2

from . import wording
from .command import command, group
from .json_fields import Fields
from .output import TableJsonOrCsv, print_csv, print_json, print_table
from .session import Session

app = group("What projects used: what can be billed for.", "imsctl usage list --all -o csv")

CSV_COLUMNS = ("hour", "project_id", "resource", "quantity")


@command(
    app,
    "list",
    formats=TableJsonOrCsv,
    example=[
        "imsctl usage list --project web",
        "imsctl usage list --all --from 2026-05-01 --to 2026-06-01 -o csv",
    ],
)
async def list_(
    session: Session,
    all: Annotated[bool, typer.Option("--all", help="Of every project. For operators.")] = False,
    begin: Annotated[
        str,
        typer.Option("--from", metavar="TIME", help="From this hour on, UTC; the last 24 unless given."),
    ] = "",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="To before this hour, UTC.")] = "",
) -> None:
    """Show what the project used, hour by hour.

    TIME is 2026-05-01 or 2026-05-01T12:00. Records of the hour that runs may still grow.
    """
    hours = _time(begin, "--from"), _time(end, "--to")
    async with session.connect() as client:
        found = [record async for record in client.quotas.list_usage(*hours, is_every_project=all)]
    if session.is_json:
        print_json([usage_fields(record) for record in found])
    elif session.output == "csv":
        print_csv([usage_fields(record) for record in found], CSV_COLUMNS)
    else:
        rows = [
            (wording.rfc3339(record.hour) or "", record.project_id, record.resource, str(record.quantity))
            for record in found
        ]
        print_table(("HOUR", "PROJECT", "RESOURCE", "QUANTITY>"), rows)


def usage_fields(record: quota_pb2.UsageRecord) -> Fields:
    return {
        "hour": wording.rfc3339(record.hour),
        "project_id": record.project_id,
        "resource": record.resource,
        "quantity": record.quantity,
    }


def _time(text: str, option: str) -> datetime | None:
    """Raises typer.BadParameter."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time: write 2026-05-01T12:00", param_hint=option) from None

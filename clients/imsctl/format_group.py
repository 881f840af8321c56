"""`imsctl format`."""

from __future__ import annotations

from . import wording
from .command import command, group
from .json_fields import format_fields
from .output import print_json, print_table
from .session import Session

app = group("Disk formats.", "imsctl format list")


@command(app, "list", example="imsctl format list")
async def list_(session: Session) -> None:
    """Show every disk format and what the daemon does with it."""
    async with session.connect() as client:
        found = [format_fields(one) for one in await client.catalog.list_formats()]
    if session.is_json:
        print_json(found)
        return
    rows = [
        (
            one["name"],
            wording.yes_no(one["can_read"]),
            wording.yes_no(one["can_write"]),
            ", ".join(one["compressions"]),
            one["summary"],
        )
        for one in found
    ]
    print_table(("FORMAT", "IMPORT", "DOWNLOAD", "COMPRESSIONS", "SUMMARY"), rows)

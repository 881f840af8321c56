"""`imsctl limit`."""

from __future__ import annotations

from imsd.v1 import quota_pb2

from . import wording
from .command import command, group
from .json_fields import Fields
from .output import print_json, print_table
from .session import Session

app = group("The limits of the service.", "imsctl limit list")


@command(app, "list", example="imsctl limit list")
async def list_(session: Session) -> None:
    """Show what the daemon limits, which rule says so, and which key of its configuration changes it."""
    async with session.connect() as client:
        found = await client.quotas.list_limits()
    if session.is_json:
        print_json([limit_fields(limit) for limit in found])
        return
    rows = [(limit.name, _value(limit), limit.summary, limit.source, limit.setting) for limit in found]
    print_table(("NAME", "VALUE>", "WHAT", "SOURCE", "SETTING"), rows)


def limit_fields(limit: quota_pb2.Limit) -> Fields:
    return {
        "name": limit.name,
        "value": limit.value,
        "unit": limit.unit,
        "summary": limit.summary,
        "source": limit.source,
        "setting": limit.setting,
    }


def _value(limit: quota_pb2.Limit) -> str:
    return wording.size(limit.value) if limit.unit == "bytes" else f"{limit.value} {limit.unit}"

"""`imsctl bucket`."""

from __future__ import annotations

from .command import command, group
from .json_fields import bucket_fields
from .output import print_json, print_table
from .session import Session

app = group("Object stores that images come from and are exported to.", "imsctl bucket list")


@command(app, "list", example="imsctl bucket list")
async def list_(session: Session) -> None:
    """Show the buckets that the project may use."""
    async with session.connect() as client:
        found = await client.buckets.list()
    if session.is_json:
        print_json([bucket_fields(bucket) for bucket in found])
        return
    header = ("BUCKET", "DRIVER", "REGION", "CLASS", "ACCESS")
    rows = [
        (
            bucket.name,
            bucket.driver,
            bucket.region,
            bucket.storage_class,
            "read only" if bucket.is_read_only else "read, write",
        )
        for bucket in found
    ]
    print_table(header, rows)

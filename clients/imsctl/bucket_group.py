"""`imsctl bucket`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from imsd.v1 import bucket_pb2

from . import wording
from .command import command, group
from .json_fields import bucket_fields, object_fields
from .output import print_json, print_table
from .paging import take
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


@command(app, "objects", example=["imsctl bucket objects main", "imsctl bucket objects main images/debian-"])
async def objects(
    session: Session,
    bucket: Annotated[str, typer.Argument(metavar="BUCKET", help="The name of a bucket.")],
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only objects whose names begin so.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most N objects; 0: all.")] = 0,
) -> None:
    """Show the objects of a bucket, by name."""
    async with session.connect() as client:
        found = await take(client.buckets.list_objects(bucket, prefix), limit)
    print_objects(session, found)


def print_objects(session: Session, found: Sequence[bucket_pb2.BucketObject]) -> None:
    if session.is_json:
        print_json([object_fields(each) for each in found])
        return
    rows = [
        (each.name, wording.size(each.size_bytes), wording.local_time(each.modified_at)) for each in found
    ]
    print_table(("OBJECT", "SIZE>", "MODIFIED"), rows)

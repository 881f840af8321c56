"""`imsctl object`: files in buckets."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from ims_client import CallFailed, ObjectDownload, open_source, put_object, write_file, write_stream

from imsd.v1 import bucket_pb2

from . import wording
from .command import command, group
from .json_fields import object_fields
from .outage_notes import OutageNotes
from .output import print_fields, print_json, print_table, printable
from .paging import take
from .progress import TransferMeter
from .session import FAILED, Interrupted, Session, print_failure
from .target import check_target

PlaceArgument = Annotated[str, typer.Argument(metavar="BUCKET:OBJECT", help="A file in a bucket.")]

app = group("Files in buckets, which images come from and are exported to.", "imsctl object list main")


@dataclass(frozen=True, kw_only=True)
class PutOptions:
    sha256: Annotated[
        str, typer.Option(metavar="HEX", help="What the SHA-256 of FILE must be; else nothing is put.")
    ] = ""


@dataclass(frozen=True, kw_only=True)
class GetOptions:
    file: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to, else as OBJECT is called; - is standard output."
        ),
    ] = ""
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False
    fsync: Annotated[bool, typer.Option("--fsync", help="Return when FILE would survive a power cut.")] = (
        False
    )


@command(app, "list", example=["imsctl object list main", "imsctl object list main images/debian-"])
async def list_(
    session: Session,
    bucket: Annotated[str, typer.Argument(metavar="BUCKET", help="The name of a bucket.")],
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only objects whose names begin so.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most N objects; 0: all.")] = 0,
) -> None:
    """Show the objects of a bucket, by name."""
    async with session.connect() as client:
        found = await take(client.buckets.list_objects(bucket, prefix), limit)
    if session.is_json:
        print_json([object_fields(each) for each in found])
        return
    rows = [
        (each.name, wording.size(each.size_bytes), wording.local_time(each.modified_at)) for each in found
    ]
    print_table(("OBJECT", "SIZE>", "MODIFIED"), rows)


@command(app, "show", example="imsctl object show main:debian-12.qcow2")
async def show(session: Session, place: PlaceArgument) -> None:
    """Show one object."""
    async with session.connect() as client:
        found = await client.buckets.stat(place)
    if session.is_json:
        print_json(object_fields(found))
        return
    size, modified = wording.size(found.size_bytes), wording.local_time(found.modified_at)
    print_fields({"object": found.name, "size": size, "modified": modified, "etag": found.etag})


@command(
    app,
    "put",
    example=[
        "imsctl object put debian-12.qcow2 main:images/",
        "tar c . | imsctl object put - main:files.tar",
    ],
)
async def put(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A local file, or standard input.")],
    place: PlaceArgument,
    options: PutOptions,
) -> None:
    """Send a file into a bucket; an OBJECT that ends in / or is empty gets the name of the file.

    Nothing is ever replaced, and broken off it leaves nothing.
    """
    session.is_set_by("--sha256", "expected_sha256")
    place = _named_after(place, file)
    async with session.connect() as client:
        with open_source(file) as source, session.progress() as view:
            row, meter = view.row(), TransferMeter("put", source.size_bytes)
            try:
                done = await put_object(
                    client.buckets,
                    place,
                    source,
                    options.sha256.lower(),
                    lambda offset: row.show(meter.at(offset)),
                )
            except asyncio.CancelledError:
                raise Interrupted(
                    "interrupted: nothing of the object is kept, unless it was whole already",
                    f"`imsctl object show {place}` tells",
                ) from None
    if session.is_json:
        print_json(object_fields(done.object) | {"sha256": done.sha256})
        return
    size = wording.size(done.object.size_bytes)
    print_fields({"object": place, "size": size, "sha256": done.sha256})


@command(
    app,
    "get",
    example=["imsctl object get main:debian-12.qcow2", "imsctl object get main:files.tar -o - | tar x"],
    output_flags=("--output-format",),
)
async def get(session: Session, place: PlaceArgument, options: GetOptions) -> None:
    """Fetch an object into a file, or to standard output.

    When the connection breaks, it goes on where it was. FILE is there only when it is whole.
    """
    file = options.file or PurePosixPath(place.partition(":")[2]).name
    if not file:
        raise typer.BadParameter("name an object: BUCKET:OBJECT", param_hint="BUCKET:OBJECT")
    check_target(file, may_replace=options.force, option="--output")
    begin = time.monotonic()
    async with session.connect() as client:
        download = ObjectDownload(client.buckets, place)
        with session.progress() as view:
            row, meter = OutageNotes(client, view), TransferMeter("get", 0)

            def advance(position: int, total: int) -> None:
                row.show(meter.at(position, total))

            try:
                if file == "-":
                    await write_stream(download, sys.stdout.fileno(), advance)
                else:
                    await write_file(download, Path(file), advance, must_sync=options.fsync)
            except asyncio.CancelledError:
                left = "what was written is not the whole object" if file == "-" else "nothing of it is kept"
                raise Interrupted(f"interrupted: {left}") from None
    if file == "-":
        return
    _tell_got(session, file, download, time.monotonic() - begin)


@command(app, "delete", example="imsctl object delete main:debian-11.qcow2 main:debian-10.qcow2")
async def delete(
    session: Session,
    places: Annotated[list[str], typer.Argument(metavar="BUCKET:OBJECT...", help="Files in buckets.")],
) -> int:
    """Delete objects for good; goes on after a failure, and exits 1 then."""
    deleted, failures = [], 0
    async with session.connect() as client:
        for place in places:
            try:
                await client.buckets.delete(place)
            except CallFailed as error:
                if error.reason == "DAEMON_UNREACHABLE":
                    raise
                failures += 1
                print_failure(error.message, error.hint, error.reason)
                continue
            deleted.append({"object": place})
            if not session.is_json:
                print(printable(f"deleted {place}"))
    if session.is_json:
        print_json(deleted)
    return FAILED if failures else 0


def _named_after(place: str, file: str) -> str:
    """``place`` with the name of the file, if it names none. Raises typer.BadParameter."""
    if ":" not in place or not place.endswith((":", "/")):
        return place
    if file == "-":
        raise typer.BadParameter("standard input has no name: name the object", param_hint="BUCKET:OBJECT")
    return place + Path(file).name


def _tell_got(session: Session, file: str, download: ObjectDownload, seconds: float) -> None:
    found: bucket_pb2.BucketObject = download.object
    if session.is_json:
        print_json(object_fields(found) | {"file": file})
        return
    print(printable(f"{file}: {found.name}, {wording.size(found.size_bytes)} in {seconds:.1f} s"))

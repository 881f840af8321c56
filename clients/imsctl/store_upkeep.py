"""`imsctl store space`, `scrub`, `damage` and `repack`."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Annotated

import typer

from imsd.v1 import store_upkeep_pb2 as pb

from .command import command
from .json_fields import job_fields
from .output import print_json
from .own_job import run_own_job
from .session import FAILED, Session
from .store_app import OptionalStore, StoreArgument, app
from .store_upkeep_output import (
    damage_fields,
    print_damage,
    print_repacking,
    print_scrub,
    print_store_space,
)

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RATE = re.compile(r"([0-9]{1,12})([KMG]?)(?:i?B)?\Z")

DetachOption = Annotated[bool, typer.Option("--detach", help="Return when the job is started; print it.")]
RequestIdOption = Annotated[
    str, typer.Option(metavar="ID", help="Start at most one job; a repeat gets the one that was started.")
]


@dataclass(frozen=True, kw_only=True)
class ScrubOptions:
    rate: Annotated[
        str,
        typer.Option(metavar="BYTES", help="Bytes a second, as 50MiB; 0: no limit; else as configured."),
    ] = ""
    restart: Annotated[
        bool, typer.Option("--restart", help="From the start, although a scrub was broken off.")
    ] = False
    detach: DetachOption = False
    request_id: RequestIdOption = ""


@dataclass(frozen=True, kw_only=True)
class RepackOptions:
    dead: Annotated[
        int,
        typer.Option(
            min=0, max=99, metavar="PERCENT", help="Packs of which so much is dead; 0: as configured."
        ),
    ] = 0
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and say what would be done.")] = False
    detach: DetachOption = False
    request_id: RequestIdOption = ""


@command(app, "space", example=["imsctl store space", "imsctl store space main -o json"])
async def space(session: Session, store: OptionalStore = "") -> None:
    """Show what the packs of a store take, how much of it is needed, and how the last scrub ended."""
    async with session.connect() as client:
        print_store_space(session, await client.store_upkeep.space(store))


@command(app, "scrub", example=["imsctl store scrub main", "imsctl store scrub main --rate 20MiB --detach"])
async def scrub(session: Session, store: StoreArgument, options: ScrubOptions) -> int:
    """Re-read every stored byte that an image needs, and say which images are damaged.

    It goes on where an earlier one was broken off. Ctrl-C cancels the job; the next one goes on there.
    Exit code 1 if there is damage.
    """
    request = pb.ScrubStoreRequest(
        store=store, is_anew=options.restart, request_id=options.request_id or _new_request_id()
    )
    if options.rate:
        request.bytes_per_second = _rate(options.rate)
    async with session.connect() as client:
        job = await run_own_job(
            session, client, lambda: client.store_upkeep.scrub(request), is_detached=options.detach
        )
        if job is None:
            return 0
        damage = [each async for each in client.store_upkeep.damage(store)]
    if session.is_json:
        print_json({**job_fields(job), "damage": [damage_fields(each) for each in damage]})
    else:
        print_scrub(job.scrub_report, damage)
    return FAILED if job.scrub_report.damaged_blobs else 0


@command(app, "damage", example="imsctl store damage main -o json")
async def damage(session: Session, store: StoreArgument) -> int:
    """Show what scrubs of a store found: damaged blobs, and the images that need them. Exit code 1 if any."""
    async with session.connect() as client:
        found = [each async for each in client.store_upkeep.damage(store)]
    if session.is_json:
        print_json([damage_fields(each) for each in found])
    else:
        print_damage(found)
    return FAILED if found else 0


@command(app, "repack", example=["imsctl store repack main --dry-run", "imsctl store repack main --dead 50"])
async def repack(session: Session, store: StoreArgument, options: RepackOptions) -> None:
    """Take what is needed out of packs that are mostly dead, so that these can go.

    Images stay as they are, and who reads one is not disturbed. Ctrl-C cancels the job; what is done stays.
    """
    request = pb.RepackStoreRequest(
        store=store,
        dead_percent=options.dead,
        is_dry_run=options.dry_run,
        request_id=options.request_id or _new_request_id(),
    )
    async with session.connect() as client:
        job = await run_own_job(
            session, client, lambda: client.store_upkeep.repack(request), is_detached=options.detach
        )
    if job is None:
        return
    if session.is_json:
        print_json(job_fields(job))
    else:
        print_repacking(job.repack_report)


def _new_request_id() -> str:
    # A repeated call gets the job of the first.
    return f"imsctl-{uuid.uuid4()}"


def _rate(text: str) -> int:
    """Raises typer.BadParameter."""
    found = _RATE.match(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no number of bytes, such as 50MiB", param_hint="--rate")
    return int(found[1]) * _UNITS[found[2]]

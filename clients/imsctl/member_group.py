"""`imsctl member`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from ims_client import CallFailed, ImsClient

from imsd.v1 import image_pb2, job_pb2, member_pb2

from . import choice, wording
from .command import command, group
from .image_ids import ids_of_images
from .job_watch import watch_own_job
from .json_fields import enum_text, job_fields, member_fields
from .output import print_fields, print_json, print_table, printable
from .paging import take
from .session import FAILED, Session

app = group("Sharing images with other projects.", "imsctl member add debian-12 --member web")

ImagesArgument = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Ids, unique id prefixes or unique names.")
]
ReceivedArgument = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Ids of images; names of those accepted before.")
]
ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="An id, a unique id prefix or a unique name.")
]
MembersOption = Annotated[
    list[str], typer.Option("--member", metavar="PROJECT", help="Another project; may be repeated.")
]
NOT_ACCEPTED_HINT = (
    "name an image that was not accepted yet by its id: `imsctl image list --shared --share-status pending`"
)
# Starts a job on images with these ids.
StartJob = Callable[[ImsClient, Sequence[str]], Awaitable[job_pb2.Job]]


@command(app, "add", example="imsctl member add debian-12 debian-13 --member web --member shop")
async def add(session: Session, images: ImagesArgument, member: MembersOption) -> int:
    """Share images with projects of the region; each is asked whether it accepts.

    Every image is shared with every project. Exits 1 if one of these pairs failed.
    """
    return await share(session, images, member)


async def share(session: Session, images: Sequence[str], projects: Sequence[str]) -> int:
    """Share each of the images with each of the projects, and say what became of every pair."""
    return await _change(session, images, "pending", lambda client, ids: client.members.add(ids, projects))


@command(app, "accept", example="imsctl member accept 3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11 --project web")
async def accept(session: Session, images: ReceivedArgument) -> int:
    """Accept images that other projects share with this one, which then lists, reads and copies them."""
    return await _answer(session, images, image_pb2.MEMBER_STATUS_ACCEPTED)


@command(app, "reject", example="imsctl member reject 3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11 --project web")
async def reject(session: Session, images: ReceivedArgument) -> int:
    """Reject images that other projects share with this one, also ones that it accepted before."""
    return await _answer(session, images, image_pb2.MEMBER_STATUS_REJECTED)


@command(app, "remove", example="imsctl member remove debian-12 --member web")
async def remove(session: Session, images: ImagesArgument, member: MembersOption) -> int:
    """End shares, at once and without notice; what runs keeps its bytes until it ends."""
    return await _change(session, images, "removed", lambda client, ids: client.members.remove(ids, member))


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    status: Annotated[
        list[str], typer.Option(metavar="STATUS", help="pending, accepted or rejected; may be repeated.")
    ] = field(default_factory=list)
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most N members; 0: all.")] = 0


@command(app, "list", example="imsctl member list debian-12 --status pending")
async def list_(session: Session, image: ImageArgument, options: ListOptions) -> None:
    """Show with whom an image is shared; of another project's image only this project."""
    statuses = [
        image_pb2.MemberStatus.ValueType(choice.choose(image_pb2.MemberStatus, text, "--status"))
        for text in options.status
    ]
    async with session.connect() as client:
        [image_id] = await ids_of_images(client, [image])
        found = await take(client.members.list(image_id, statuses), options.limit)
    if session.is_json:
        print_json([member_fields(member) for member in found])
        return
    print_table(("PROJECT", "STATUS", "SHARED", "CHANGED"), [_row(member) for member in found])


@command(app, "show", example="imsctl member show debian-12 web")
async def show(
    session: Session,
    image: ImageArgument,
    member: Annotated[str, typer.Argument(metavar="PROJECT", help="A project it is shared with.")],
) -> None:
    """Show the share of an image with one project."""
    async with session.connect() as client:
        [image_id] = await ids_of_images(client, [image])
        found = await client.members.get(image_id, member)
    if session.is_json:
        print_json(member_fields(found))
        return
    project, status, shared, changed = _row(found)
    fields = {"image": found.image_id, "project": project, "status": status}
    print_fields(fields | {"shared": shared, "changed": changed})


async def _answer(session: Session, images: Sequence[str], status: image_pb2.MemberStatus.ValueType) -> int:
    done = enum_text(image_pb2.MemberStatus, status)
    try:
        return await _change(session, images, done, lambda client, ids: client.members.update(ids, status))
    except CallFailed as error:
        if error.reason == "NOT_FOUND":
            error.hint = NOT_ACCEPTED_HINT
        raise


async def _change(session: Session, images: Sequence[str], done: str, start: StartJob) -> int:
    """Run a job on images and tell what became of each pair; ``done``: what those are that succeeded."""
    async with session.connect() as client:
        names = await ids_of_images(client, images)
        with session.progress() as view:
            job = await start(client, list(names))
            job = await watch_own_job(client, job.id, view.row())
    if session.is_json:
        print_json(job_fields(job))
    else:
        rows = [_result_row(names, result, done) for result in job.member_results]
        print_table(("IMAGE", "PROJECT", "RESULT"), rows)
        for reason, hint in dict.fromkeys(
            (each.error.reason, each.error.hint) for each in job.member_results
        ):
            if hint:
                session.note(printable(f"  [{reason}] {hint}"))
    return 0 if all(result.is_done for result in job.member_results) else FAILED


def _result_row(names: Mapping[str, str], result: job_pb2.MemberResult, done: str) -> Sequence[str]:
    error = f"{result.error.message} [{result.error.reason}]"
    return names[result.image_id], result.project_id, done if result.is_done else error


def _row(member: member_pb2.Member) -> tuple[str, str, str, str]:
    return (
        member.project_id,
        enum_text(image_pb2.MemberStatus, member.status),
        wording.local_time(member.created_at),
        wording.local_time(member.updated_at),
    )

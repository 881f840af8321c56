"""`imsctl image`: what is decided of images, from their deactivation to their end."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

import typer
from ims_client import CallFailed, ImsClient

from imsd.v1 import image_pb2

from . import choice, image_choice
from .command import command
from .image_app import ImageArgument, app
from .image_ids import is_id
from .image_json import image_fields
from .image_output import print_image
from .output import print_fields, print_json, printable
from .session import FAILED, Session, print_failure

ImagesArgument = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Ids, unique id prefixes or unique names.")
]


@command(app, "deactivate", example="imsctl image deactivate debian-12")
async def deactivate(session: Session, image: ImageArgument) -> None:
    """Forbid the use of an image: its bytes cannot be read, copied, exported or shared."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image(session, await client.images.deactivate(found.id))


@command(app, "reactivate", example="imsctl image reactivate debian-12")
async def reactivate(session: Session, image: ImageArgument) -> None:
    """Allow the use of a deactivated image again."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image(session, await client.images.reactivate(found.id))


@command(app, "deprecate", example="imsctl image deprecate debian-11 --replacement debian-12")
async def deprecate(
    session: Session,
    image: ImageArgument,
    replacement: Annotated[str, typer.Option(metavar="IMAGE", help="What to use instead.")] = "",
) -> None:
    """Say that an image is superseded; it can still be used, its family goes on without it."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        other = (await client.images.resolve(replacement)).id if replacement else ""
        print_image(session, await client.images.deprecate(found.id, other))


@command(app, "undeprecate", example="imsctl image undeprecate debian-11")
async def undeprecate(session: Session, image: ImageArgument) -> None:
    """Take back that an image is superseded."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image(session, await client.images.undeprecate(found.id))


@command(app, "publish", example="imsctl image publish web --product-code web-2026")
async def publish(
    session: Session,
    image: ImageArgument,
    product_code: Annotated[str, typer.Option(metavar="CODE", help="Of the marketplace.")] = "",
) -> None:
    """Put an image into the marketplace: for operators. It cannot be deleted, shared or exported then."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image(session, await client.images.publish(found.id, product_code))


@command(app, "unpublish", example="imsctl image unpublish web")
async def unpublish(session: Session, image: ImageArgument) -> None:
    """Take an image out of the marketplace: for operators."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image(session, await client.images.unpublish(found.id))


@command(app, "make-public", example="imsctl image make-public debian-12")
async def make_public(session: Session, image: ImageArgument) -> None:
    """Let every project see and use an image: for operators."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image(session, await client.images.set_visibility(found.id, image_pb2.VISIBILITY_PUBLIC))


@command(app, "make-private", example="imsctl image make-private debian-12")
async def make_private(session: Session, image: ImageArgument) -> None:
    """Let only the project of a public image see it again: for operators."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        print_image(session, await client.images.set_visibility(found.id, image_pb2.VISIBILITY_PRIVATE))


@command(app, "resolve", example="imsctl image resolve debian --arch x86")
async def resolve(
    session: Session,
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="Of a series of images.")],
    arch: Annotated[str, typer.Option(metavar="ARCH", help="Only x86 or arm.")] = "",
) -> None:
    """Print the id and digest of the newest image of a family that is active and not deprecated."""
    architecture = image_choice.architecture(arch)
    async with session.connect() as client:
        found = await client.images.resolve_family(family, architecture)
    if session.is_json:
        print_json({"image_id": found.image_id, "digest": found.digest, "image": image_fields(found.image)})
    else:
        print_fields({"id": found.image_id, "name": found.image.name, "digest": found.digest})


@dataclass(frozen=True, kw_only=True)
class QueuedOptions:
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the image.")]
    description: Annotated[str, typer.Option(metavar="TEXT", help="What the image is.")] = ""
    format: Annotated[str, typer.Option(metavar="FORMAT", help="What its file will be.")] = ""
    os_version: Annotated[str, typer.Option(metavar="TEXT", help="The system that will be on it.")] = ""
    kind: Annotated[str, typer.Option(metavar="KIND", help="system-disk, data-disk or iso.")] = ""
    arch: Annotated[str, typer.Option(metavar="ARCH", help="x86 or arm.")] = ""
    boot_mode: Annotated[str, typer.Option(metavar="MODE", help="bios or uefi.")] = ""
    family: Annotated[str, typer.Option(metavar="FAMILY", help="Its series of images.")] = ""
    min_disk: Annotated[
        int, typer.Option(metavar="GB", min=0, max=choice.MAX_DISK_GB, help="Smallest disk for a server.")
    ] = 0
    min_ram: Annotated[
        int, typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Least memory; 0: no limit.")
    ] = 0
    max_ram: Annotated[
        int, typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Most memory; 0: no limit.")
    ] = 0
    protect: Annotated[bool, typer.Option("--protect", help="It cannot be deleted.")] = False
    tag: Annotated[list[str], typer.Option(metavar="K=V", help="A tag; may be repeated.")] = field(
        default_factory=list
    )
    property: Annotated[list[str], typer.Option(metavar="K=V", help="A property; may be repeated.")] = field(
        default_factory=list
    )
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="At most one image, however often this is repeated.")
    ] = ""

    def request(self) -> image_pb2.CreateQueuedImageRequest:
        """Raises typer.BadParameter."""
        return image_pb2.CreateQueuedImageRequest(
            request_id=self.request_id,
            name=self.name,
            description=self.description,
            disk_format=image_choice.disk_format(self.format),
            os_version=self.os_version,
            kind=image_choice.kind(self.kind),
            architecture=image_choice.architecture(self.arch),
            boot_mode=image_choice.boot_mode(self.boot_mode),
            family=self.family,
            min_disk_gb=self.min_disk,
            min_ram_mb=self.min_ram,
            max_ram_mb=self.max_ram,
            is_protected=self.protect,
            tags=choice.key_values(self.tag, "--tag"),
            properties=choice.key_values(self.property, "--property"),
        )


@command(app, "create-queued", example="imsctl image create-queued --name appliance --format qcow2")
async def create_queued(session: Session, options: QueuedOptions) -> None:
    """Make an image without bytes, to be filled later."""
    request = options.request()
    async with session.connect() as client:
        print_image(session, await client.images.create_queued(request))


@command(app, "delete", example=["imsctl image delete old-1 old-2", "imsctl image delete old-1 --now"])
async def delete(
    session: Session,
    images: ImagesArgument,
    now: Annotated[
        bool, typer.Option("--now", help="For good: also what was deleted before, by its id.")
    ] = False,
) -> int:
    """Delete images, for good when their grace time ends; goes on after a failure, and exits 1 then."""

    async def act(client: ImsClient, name: str) -> image_pb2.Image:
        found = image_pb2.Image(id=name) if now and is_id(name) else await client.images.resolve(name)
        await client.images.delete(found.id, is_final=now)
        return found

    return await _each(session, images, "deleted", act)


@command(app, "undelete", example="imsctl image undelete old-1")
async def undelete(session: Session, images: ImagesArgument) -> int:
    """Bring deleted images back while their grace time runs.

    `imsctl image list --status pending-delete` shows them.
    """

    async def act(client: ImsClient, name: str) -> image_pb2.Image:
        return await client.images.undelete(name if is_id(name) else await _deleted(client, name))

    return await _each(session, images, "brought back", act)


async def _deleted(client: ImsClient, name: str) -> str:
    """The id of the one deleted image of a name, or with an id that begins so. Raises CallFailed."""
    deleted = image_pb2.ImageFilter(statuses=[image_pb2.IMAGE_STATUS_PENDING_DELETE])
    found = [
        image.id
        async for image in client.images.list(deleted)
        if image.name == name or image.id.startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(found[:3])
        raise CallFailed("AMBIGUOUS_NAME", f"{name!r} fits several deleted images: {some}", "give a whole id")
    hint = "list them: `imsctl image list --status pending-delete`"
    raise CallFailed("NOT_FOUND", f"there is no deleted image {name!r}", hint)


async def _each(
    session: Session,
    names: list[str],
    verb: str,
    act: Callable[[ImsClient, str], Awaitable[image_pb2.Image]],
) -> int:
    """Do one thing to each image, going on after a failure; returns the exit code."""
    done, failures = [], 0
    async with session.connect() as client:
        for name in names:
            try:
                found = await act(client, name)
            except CallFailed as error:
                if error.reason == "DAEMON_UNREACHABLE":
                    raise
                failures += 1
                print_failure(error.message, _hint(error, name), error.reason)
                continue
            done.append({"id": found.id, "name": found.name})
            if not session.is_json:
                print(printable(f"{verb} {found.id} {found.name}".rstrip()))
    if session.is_json:
        print_json(done)
    return FAILED if failures else 0


def _hint(error: CallFailed, name: str) -> str:
    """What to do about a failure with ``name``; the daemon's own hint knows no commands."""
    if error.reason != "IMAGE_PROTECTED":
        return error.hint
    return f"{error.hint}: `imsctl image set {shlex.quote(name)} --no-protect`"

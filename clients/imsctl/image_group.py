"""`imsctl image`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from ims_client import CallFailed

from imsd.v1 import image_pb2, job_pb2

from . import (
    choice,
    image_choice,
    image_convert,
    image_copy,
    image_digest,
    image_download,
    image_export,
    image_fetch,
    image_import,
    image_inspect,
    member_group,
    wording,
)
from .command import command, group
from .file_argument import refuse_scheme, scheme_of
from .image_convert import ConvertOptions, DiskOption
from .image_copy import CopyOptions
from .image_download import DownloadOptions
from .image_export import ExportOptions
from .image_output import print_image, print_images
from .import_options import ImportOptions
from .job_watch import watch_own_job
from .json_fields import job_fields
from .output import TableJsonOrCsv, print_fields, print_json, printable
from .paging import take
from .session import FAILED, Session, print_failure

app = group("Disk images.", "imsctl image import disk.qcow2 --name debian-12")

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="An id, a unique id prefix or a unique name.")
]
IMPORT_HELP = (
    "A disk image, or an https:// URL that the daemon fetches; - is standard input, whose end is taken "
    "for the end of the image: give --sha256 when the producer may fail."
)
SORT_FIELDS = ("created_at", "updated_at", "name", "virtual_size", "status")


@command(
    app,
    "import",
    example=[
        "imsctl image import debian.qcow2 --name debian-12 --os-version 'Debian GNU/Linux 12.0.0 64bit'",
        "imsctl image import https://example.org/debian-12.qcow2 --name debian-12 --sha256 HEX",
        "imsctl image import --from-bucket main:debian-12.qcow2 --name debian-12",
        "zstdcat disk.raw.zst | imsctl image import - --name appliance --tag team=core",
    ],
)
async def import_(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE|URL", help=IMPORT_HELP)],
    options: ImportOptions,
) -> None:
    """Make an image of a file.

    Ctrl-C while a file is sent keeps what arrived: the same command goes on there.
    While the daemon fetches a file and the image is made, it cancels the job and leaves nothing.
    """
    scheme = "" if options.is_fetched() else scheme_of(file)
    refuse_scheme(scheme, "FILE|URL")
    if options.is_fetched() or scheme:
        await image_fetch.fetch_image(session, file, options)
    else:
        await image_import.import_image(session, file, options)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    name: Annotated[str, typer.Option(metavar="NAME", help="Only this name; * stands for anything.")] = ""
    status: Annotated[
        list[str], typer.Option(metavar="STATUS", help="queued, saving or active; may be repeated.")
    ] = field(default_factory=list)
    format: Annotated[
        list[str], typer.Option(metavar="FORMAT", help="Only images made of this; may be repeated.")
    ] = field(default_factory=list)
    tag: Annotated[list[str], typer.Option(metavar="K[=V]", help="Only with this tag; may be repeated.")] = (
        field(default_factory=list)
    )
    sort: Annotated[
        str,
        typer.Option(metavar="FIELD[:desc]", help=f"By {', '.join(SORT_FIELDS)}; newest first unless given."),
    ] = ""
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="At most N images; 0: all.")] = 0

    def filter(self) -> image_pb2.ImageFilter:
        """Raises typer.BadParameter."""
        return image_pb2.ImageFilter(
            name=self.name,
            statuses=[image_choice.status(text) for text in self.status],
            disk_formats=[image_choice.disk_format(text) for text in self.format],
            tags=choice.key_values((tag if "=" in tag else f"{tag}=" for tag in self.tag), "--tag"),
        )

    def order(self) -> str:
        """``sort`` as the contract writes it. Raises typer.BadParameter."""
        name, _, direction = self.sort.replace(" ", ":").partition(":")
        if self.sort and (name not in SORT_FIELDS or direction not in ("", "asc", "desc")):
            known = ", ".join(SORT_FIELDS)
            raise typer.BadParameter(f"{self.sort!r} is not FIELD[:desc] with a field of: {known}")
        return f"{name} desc" if direction == "desc" else name


@command(app, "list", formats=TableJsonOrCsv, example="imsctl image list --tag team=core --sort name -o csv")
async def list_(session: Session, options: ListOptions) -> None:
    """Show the images of the project."""
    filter, order = options.filter(), options.order()
    async with session.connect() as client:
        found = await take(client.images.list(filter, order), options.limit)
    print_images(session, found)


@command(app, "show", example="imsctl image show debian-12 -o json")
async def show(session: Session, image: ImageArgument) -> None:
    """Show one image."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
    print_image(session, found)


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="What the image is.")] = None
    os_version: Annotated[str | None, typer.Option(metavar="TEXT", help="The system on it.")] = None
    min_disk: Annotated[
        int | None,
        typer.Option(metavar="GB", min=0, max=choice.MAX_DISK_GB, help="Smallest disk for a server."),
    ] = None
    min_ram: Annotated[
        int | None,
        typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Least memory; 0: no limit."),
    ] = None
    max_ram: Annotated[
        int | None, typer.Option(metavar="MB", min=0, max=choice.MAX_RAM_MB, help="Most memory; 0: no limit.")
    ] = None
    protect: Annotated[
        bool | None, typer.Option("--protect/--no-protect", help="Whether it can be deleted.")
    ] = None
    property: Annotated[
        list[str], typer.Option(metavar="K=V", help="Set a property; K= removes it. May be repeated.")
    ] = field(default_factory=list)
    tag: Annotated[list[str], typer.Option(metavar="K=V", help="Set a tag. May be repeated.")] = field(
        default_factory=list
    )
    remove_tag: Annotated[list[str], typer.Option(metavar="K", help="Remove a tag. May be repeated.")] = (
        field(default_factory=list)
    )

    def apply_to(self, image: image_pb2.Image) -> list[str]:
        """Put the new values into ``image`` and return the names of what changes."""
        values: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "os_version": self.os_version,
            "min_disk_gb": self.min_disk,
            "min_ram_mb": self.min_ram,
            "max_ram_mb": self.max_ram,
            "is_protected": self.protect,
        }
        paths = [path for path, value in values.items() if value is not None]
        for path in paths:
            setattr(image, path, values[path])
        for key, value in choice.key_values(self.property, "--property").items():
            image.properties[key] = value
            paths.append(f"properties.{key}")
        if self.tag or self.remove_tag:
            image.tags.update(choice.key_values(self.tag, "--tag"))
            for key in self.remove_tag:
                image.tags.pop(key, None)
            paths.append("tags")
        return paths


@command(app, "set", example="imsctl image set debian-12 --protect --property owner=web --tag stage=live")
async def set_(session: Session, image: ImageArgument, options: SetOptions) -> None:
    """Change what is known of an image, and protect it."""
    if not options.apply_to(image_pb2.Image()):
        raise typer.BadParameter("nothing to change: give at least one option")
    async with session.connect() as client:
        current = await client.images.resolve(image)
        paths = options.apply_to(current)
        updated = await client.images.update(current, paths, current.etag)
    print_image(session, updated)


@command(
    app,
    "download",
    # -o is the file here.
    output_flags=("--output-format",),
    example=[
        "imsctl image download debian-12 -o debian.qcow2",
        "imsctl image download debian-12 --format raw -o - | ssh host 'dd of=/dev/vdb bs=1M'",
    ],
)
async def download(session: Session, image: ImageArgument, options: DownloadOptions) -> None:
    """Fetch an image as a file; the file appears only when it is whole."""
    await image_download.download_image(session, image, options)


@command(
    app,
    "export",
    example=[
        "imsctl image export debian-12 main:debian-12.qcow2",
        "imsctl image export debian-12 main:images/debian-12 --fast --detach",
    ],
)
async def export(
    session: Session,
    image: ImageArgument,
    target: Annotated[
        str, typer.Argument(metavar="BUCKET:OBJECT", help="Where to; `imsctl bucket list` shows the buckets.")
    ],
    options: ExportOptions,
) -> None:
    """Write an image as a file into a bucket; the object appears only when it is whole.

    Ctrl-C cancels the job and leaves nothing.
    """
    await image_export.export_image(session, image, target, options)


@command(
    app,
    "convert",
    example=["imsctl image convert disk.vmdk disk.qcow2", "imsctl image convert disk.vhdx - --to raw"],
)
async def convert(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="IN", help="A disk image file in any format.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where to; - is standard output.")],
    options: ConvertOptions,
) -> None:
    """Make a disk image file into one of another format, here, without the daemon."""
    await image_convert.convert_file(session, source, target, options)


@command(app, "inspect", example=["imsctl image inspect appliance.vmdk", "imsctl image inspect debian-12"])
async def inspect(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="FILE|IMAGE", help="A local disk image, or an image.")],
    format: Annotated[str, typer.Option(metavar="FORMAT", help="What the file must be.")] = "",
) -> None:
    """Say what a disk is, which system it holds and what may keep it from booting.

    A file is read here, without the daemon.
    """
    await image_inspect.inspect(session, what, format)


@command(app, "digest", example="imsctl image digest debian.qcow2")
async def digest(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="FILE|IMAGE", help="A local disk image, or an image.")],
    format: Annotated[str, typer.Option(metavar="FORMAT", help="What the file must be.")] = "",
    disk: DiskOption = 0,
) -> None:
    """Print the digest of a disk: the same for the same disk, whatever the format.

    A file is read here, without the daemon.
    """
    await image_digest.print_digest(session, what, format, disk)


@command(app, "verify", example="imsctl image verify debian-12")
async def verify(session: Session, image: ImageArgument) -> int:
    """Re-read every stored byte of an image; exit 1 if any is damaged."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
        with session.progress() as view:
            job = await client.images.verify(found.id)
            job = await watch_own_job(client, job.id, view.row())
    _print_report(session, found, job)
    return FAILED if job.verify_report.damage_count else 0


@command(app, "copy", example="imsctl image copy debian-12 --name debian-12-web --tag team=web")
async def copy(session: Session, image: ImageArgument, options: CopyOptions) -> None:
    """Make another image of the same disk: of an image of the project, a public or an accepted one."""
    await image_copy.copy_image(session, image, options)


@command(app, "share", example="imsctl image share debian-12 web shop")
async def share(
    session: Session,
    image: ImageArgument,
    projects: Annotated[list[str], typer.Argument(metavar="PROJECT...", help="Other projects.")],
) -> int:
    """Share an image with other projects: see `imsctl member`."""
    return await member_group.share(session, [image], projects)


@command(app, "delete", example="imsctl image delete old-1 old-2")
async def delete(
    session: Session,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Ids, unique id prefixes or unique names.")
    ],
) -> int:
    """Delete images; goes on after a failure, and exits 1 then."""
    deleted, failures = [], 0
    async with session.connect() as client:
        for name in images:
            try:
                found = await client.images.resolve(name)
                await client.images.delete(found.id)
            except CallFailed as error:
                if error.reason == "DAEMON_UNREACHABLE":
                    raise
                failures += 1
                print_failure(error.message, _delete_hint(error, name), error.reason)
                continue
            deleted.append({"id": found.id, "name": found.name})
            if not session.is_json:
                print(printable(f"deleted {found.id} {found.name}"))
    if session.is_json:
        print_json(deleted)
    return FAILED if failures else 0


def _delete_hint(error: CallFailed, name: str) -> str:
    """What to do about a failed delete of ``name``; the daemon's own hint knows no commands."""
    if error.reason != "IMAGE_PROTECTED":
        return error.hint
    return f"{error.hint}: `imsctl image set {shlex.quote(name)} --no-protect`"


def _print_report(session: Session, image: image_pb2.Image, job: job_pb2.Job) -> None:
    report = job.verify_report
    if session.is_json:
        print_json(job_fields(job))
        return
    checked = f"{report.chunks_checked} chunks, {wording.size(report.stored_bytes_checked)} in the store"
    places = "place" if report.damage_count == 1 else "places"
    verdict = f"damaged in {report.damage_count} {places}" if report.damage_count else "intact"
    print_fields(
        {"image": f"{image.name} {image.id}", "verdict": verdict, "read": checked, "digest": report.digest}
    )
    for damage in report.damage:
        end = damage.guest_offset + damage.length
        blob = "" if damage.blob_id in damage.message else f" (blob {damage.blob_id})"
        print(f"  bytes {damage.guest_offset} to {end}: {damage.message}{blob}")
    if report.damage_count > len(report.damage):
        print(f"  and {report.damage_count - len(report.damage)} more")

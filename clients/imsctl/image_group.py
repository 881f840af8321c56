"""`imsctl image`."""

from __future__ import annotations

from typing import Annotated

import typer
from ims_client import vendor_names

from imsd.v1 import image_pb2, job_pb2

from . import (
    image_attach,
    image_convert,
    image_copy,
    image_digest,
    image_download,
    image_export,
    image_fetch,
    image_import,
    image_inspect,
    image_list,
    image_move,
    image_register,
    image_set,
    image_space,
    image_state,
    member_group,
    wording,
)
from .command import command
from .file_argument import refuse_scheme, scheme_of
from .image_app import ImageArgument, app
from .image_convert import ConvertOptions, DiskOption
from .image_copy import CopyOptions
from .image_download import DownloadOptions
from .image_export import ExportOptions
from .image_output import print_image
from .import_options import FileOptions, ImportOptions
from .job_watch import watch_own_job
from .json_fields import job_fields
from .output import print_fields, print_json
from .session import FAILED, Session

# These add their commands to the group.
ADDED = (image_attach, image_list, image_move, image_set, image_space, image_state)

IMPORT_HELP = (
    "A disk image, or an https:// URL that the daemon fetches; - is standard input, whose end is taken "
    "for the end of the image: give --sha256 when the producer may fail."
)


@command(
    app,
    "import",
    example=[
        "imsctl image import debian.qcow2 --name debian-12 --os-version 'Debian GNU/Linux 12.0.0 64bit'",
        "imsctl image import https://example.org/debian-12.qcow2 --name debian-12 --sha256 HEX",
        "imsctl image import --from-bucket main:debian-12.qcow2 --name debian-12",
        "imsctl image import --fast large.zvhd2 --name large --os-version 'Debian GNU/Linux 12.0.0 64bit'",
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


@command(
    app,
    "register",
    example=[
        "imsctl image register appliance appliance.qcow2",
        "imsctl image register appliance --from-bucket main:appliance.qcow2",
    ],
)
async def register(
    session: Session,
    image: ImageArgument,
    file: Annotated[str, typer.Argument(metavar="FILE|URL", help=IMPORT_HELP)],
    options: FileOptions,
) -> None:
    """Give an image that `image create-queued` made its bytes.

    After a failure or Ctrl-C while the image is made it waits for a file again, as it was.
    """
    await image_register.register_image(session, image, file, options)


@command(
    app,
    "show",
    example=["imsctl image show debian-12 -o json", "imsctl image show debian-12 --vendor -o json"],
)
async def show(
    session: Session,
    image: ImageArgument,
    vendor: Annotated[
        bool, typer.Option("--vendor", help="Under the names that the hosted service gives its attributes.")
    ] = False,
) -> None:
    """Show one image."""
    async with session.connect() as client:
        found = await client.images.resolve(image)
    if not vendor:
        print_image(session, found)
    elif session.is_json:
        print_json(vendor_names.to_vendor(found))
    else:
        print_fields({name: str(value) for name, value in vendor_names.to_vendor(found).items()})


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


# As they are wanted in the help page; all others after them.
FIRST = ("import", "list", "show", "inspect", "download", "copy", "export", "share", "set", "delete")
app.registered_commands.sort(key=lambda each: FIRST.index(each.name) if each.name in FIRST else len(FIRST))


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

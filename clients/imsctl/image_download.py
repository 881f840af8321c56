"""`imsctl image download`: a stored disk as a file, or on standard output."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from ims_client import Download, download_to_file, download_to_stream

from imsd.v1 import image_pb2

from . import choice, wording
from .json_fields import disk_format
from .output import print_json, printable
from .progress import TransferMeter
from .session import Interrupted, Session
from .target import check_target, note_longer_disk, target_compression, target_format


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    file: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is standard output.")
    ]
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="What FILE is to be; otherwise by its suffix, else raw.")
    ] = ""
    compress: Annotated[
        str,
        typer.Option(metavar="METHOD", help="See `imsctl format list`; the format's first unless given."),
    ] = ""
    smaller: Annotated[
        bool, typer.Option("--smaller", help="Take more time to make FILE smaller: qcow2 and vmdk.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False
    fsync: Annotated[bool, typer.Option("--fsync", help="Return when FILE would survive a power cut.")] = (
        False
    )

    def disk_format(self) -> image_pb2.DiskFormat.ValueType:
        if not self.format and Path(self.file).suffix.lower() == ".iso":
            return image_pb2.DISK_FORMAT_ISO  # good for an image that came as one
        return self.written_format()

    def written_format(self) -> image_pb2.DiskFormat.ValueType:
        """Raises typer.BadParameter, ClientError (FORMAT_UNSUPPORTED)."""
        return target_format(self.file, self.format, "--format")

    def compression(self) -> image_pb2.Compression.ValueType:
        wanted = target_compression(disk_format(self.disk_format()), self.compress, is_smaller=self.smaller)
        return choice.compression(wanted)


async def download_image(session: Session, name_or_id: str, options: DownloadOptions) -> None:
    """Fetch the image into the file of ``options``."""
    wanted, compression = options.disk_format(), options.compression()
    is_stream = options.file == "-"
    check_target(options.file, may_replace=options.force, option="--output")
    begin = time.monotonic()
    async with session.connect() as client:
        image = await client.images.resolve(name_or_id)
        if wanted == image_pb2.DISK_FORMAT_ISO:
            is_disc = image.disk_format == image_pb2.DISK_FORMAT_ISO
            # The bytes of an optical disc are the disc.
            wanted = image_pb2.DISK_FORMAT_RAW if is_disc else options.written_format()
        download = Download(client.images, image.id, wanted, compression)
        with session.progress() as view:
            row = view.row()
            meter = TransferMeter("download", 0)

            def advance(position: int, total: int) -> None:
                row.show(meter.at(position, total))

            await _fetch(download, options, advance)
    kind, seconds = disk_format(download.header.disk_format), time.monotonic() - begin
    if session.is_json and not is_stream:
        print_json(_fields(image, options.file, download))
    elif not is_stream:
        size = wording.size(download.position)
        print(printable(f"{options.file}: {image.name} as {kind}, {size} in {seconds:.1f} s"))
    note_longer_disk(session, kind, download.header.virtual_size_bytes)


async def _fetch(download: Download, options: DownloadOptions, advance: Any) -> None:
    """Raises `Interrupted` when it is broken off."""
    try:
        if options.file == "-":
            await download_to_stream(download, sys.stdout.fileno(), advance)
        else:
            await download_to_file(download, Path(options.file), advance, must_sync=options.fsync)
    except asyncio.CancelledError:
        is_stream = options.file == "-"
        left = "what was written is not the whole disk" if is_stream else "nothing of the download is kept"
        raise Interrupted(f"interrupted: {left}") from None


def _fields(image: image_pb2.Image, file: str, download: Download) -> dict[str, Any]:
    header = download.header
    return {
        "id": image.id,
        "name": image.name,
        "file": file,
        "disk_format": disk_format(header.disk_format),
        "file_size": download.position,
        "virtual_size": header.virtual_size_bytes,
        "digest": header.digest,
    }

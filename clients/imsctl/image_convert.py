"""`imsctl image convert`: one disk image file into another, here, without the daemon."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ims_client import Piece, write_file, write_stream

from imsd.v1 import image_pb2

from . import choice, wording
from .file_argument import require_local
from .json_fields import disk_format
from .local_image import open_local_image
from .local_work import watched
from .output import print_json, printable
from .progress import TransferMeter
from .session import Interrupted, Session
from .target import check_target, note_longer_disk, target_compression, target_format

if TYPE_CHECKING:
    from imsd.chunks.decode_pool import DecodePool
    from imsd.formats.output import Output
    from imsd.formats.reader import OpenedImage
    from imsd.formats.writer import FormatWriter


DiskOption = Annotated[
    int, typer.Option(metavar="N", min=0, help="Which disk of an OVA, 1 for the first; 0: the only one.")
]


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="What OUT is to be; otherwise by its suffix, else raw.")
    ] = ""
    format: Annotated[str, typer.Option(metavar="FORMAT", help="What IN must be.")] = ""
    disk: DiskOption = 0
    compress: Annotated[
        str, typer.Option(metavar="METHOD", help="See `imsctl format list`; the format's first unless given.")
    ] = ""
    smaller: Annotated[
        bool, typer.Option("--smaller", help="Take more time to make OUT smaller: qcow2 and vmdk.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False
    fsync: Annotated[bool, typer.Option("--fsync", help="Return when OUT would survive a power cut.")] = False


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was made."""

    file: str
    disk_format: str
    size_bytes: int
    seconds: float


class LocalConversion:
    """A disk as a file of another format.

    ``size_bytes``: 0 until the first piece is there, or for ever if the format tells it only at the end.
    """

    def __init__(self, writer: FormatWriter, pool: DecodePool) -> None:
        self._writer = writer
        self._pool = pool
        self.position = 0
        self.size_bytes = 0

    async def pieces(self) -> AsyncIterator[Piece]:
        """The whole file, once. Raises ImageRefused."""
        from imsd.chunks.render import render
        from imsd.formats.output import joined

        async with aclosing(render(self._writer, self._pool)) as rendering:
            async for outputs in rendering:
                if self._writer.is_length_known:
                    self.size_bytes = self._writer.file_size_bytes()
                for output in joined(outputs):
                    piece = _piece(self.position, output)
                    self.position += piece.length
                    yield piece


def _piece(start: int, output: Output) -> Piece:
    from imsd.formats.output import Framed, Zeros

    if isinstance(output, Zeros):
        return Piece(start, output.length, None)
    if isinstance(output, Framed):
        return Piece(start, output.length, memoryview(output.frame), is_framed=True)
    return Piece(start, len(output), memoryview(output))


async def convert_file(session: Session, source: str, target: str, options: ConvertOptions) -> None:
    """Convert the file ``source`` into the file ``target``; - is standard output."""
    from imsd.chunks.spool import SpoolFolder
    from imsd.formats.registry import open_writer

    require_local(source, "IN")
    choice.choose(image_pb2.DiskFormat, options.format, "--format")
    wanted = disk_format(target_format(target, options.to, "--to"))
    compression = target_compression(wanted, options.compress, is_smaller=options.smaller)
    check_target(target, may_replace=options.force, option="OUT")
    begin = time.monotonic()
    with ExitStack() as stack:
        opening = partial(open_local_image, Path(source), options.format, disk=options.disk)
        local = await watched(session, lambda on_phase: stack.enter_context(opening(on_phase)))
        if wanted == local.image.format_name == "iso":
            wanted = "raw"  # the bytes of an optical disc are the disc
        # What has to be kept until the end lies where a packed file is unpacked to, and is never larger.
        spool = stack.enter_context(closing(SpoolFolder(None, sys.maxsize).spool()))
        writer = open_writer(wanted, local.image.blocks, compression, spool=spool)
        written = await _convert(session, writer, target, must_sync=options.fsync)
    if target != "-":
        _print(session, source, local.image, Written(target, wanted, written, time.monotonic() - begin))
    note_longer_disk(session, wanted, local.image.blocks.size_bytes)


def _print(session: Session, source: str, image: OpenedImage, written: Written) -> None:
    if session.is_json:
        file = {"file": written.file, "disk_format": written.disk_format, "file_size": written.size_bytes}
        print_json(_fields(source, image) | file)
        return
    size = wording.size(written.size_bytes)
    what = f"{source} ({image.format_name}) as {written.disk_format}"
    print(printable(f"{written.file}: {what}, {size} in {written.seconds:.1f} s"))
    for found in image.findings:
        session.note(printable(f"note: {found.message} [{found.code}]"))


async def _convert(session: Session, writer: FormatWriter, target: str, *, must_sync: bool) -> int:
    """Returns the size of the file that was written. Raises `Interrupted`, `ClientError`."""
    from imsd.chunks.decode_pool import DecodePool

    pool = DecodePool(is_nice=False)
    try:
        conversion = LocalConversion(writer, pool)
        with session.progress() as view:
            row, meter = view.row(), TransferMeter("convert", 0)

            def advance(done: int, total: int) -> None:
                row.show(meter.at(done, total))

            if target == "-":
                await write_stream(conversion, sys.stdout.fileno(), advance)
            else:
                await write_file(conversion, Path(target), advance, must_sync=must_sync)
        return conversion.position
    except asyncio.CancelledError:
        left = "what was written is not the whole disk" if target == "-" else "nothing of OUT is kept"
        raise Interrupted(f"interrupted: {left}") from None
    finally:
        pool.close()


def _fields(source: str, image: OpenedImage) -> dict[str, Any]:
    return {
        "source": source,
        "source_format": image.format_name,
        "virtual_size": image.blocks.size_bytes,
        "findings": [{"code": found.code, "message": found.message} for found in image.findings],
    }

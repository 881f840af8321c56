"""`imsctl image digest`: the tree digest of a disk, of a local file or of an image."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ims_client import ClientError, cannot_read

from imsd.v1 import image_pb2

from . import choice
from .json_fields import disk_format
from .output import print_json
from .progress import TransferMeter
from .session import Session


@dataclass(frozen=True, slots=True)
class DiskDigest:
    """``virtual_size`` in bytes."""

    digest: str
    virtual_size: int
    disk_format: str


async def print_digest(session: Session, what: str, format_name: str) -> None:
    """``what`` is a file if there is one of that name, else an image."""
    choice.choose(image_pb2.DiskFormat, format_name, "--format")
    if _names_a_file(what):
        with session.progress() as view:
            row, meter = view.row(), TransferMeter("digest", 0)
            found = digest_of_file(
                Path(what), format_name, lambda done, total: row.show(meter.at(done, total))
            )
    else:
        async with session.connect() as client:
            image = await client.images.resolve(what)
        found = DiskDigest(image.digest, image.virtual_size_bytes, disk_format(image.disk_format))
    if session.is_json:
        print_json(
            {
                "source": what,
                "digest": found.digest,
                "virtual_size": found.virtual_size,
                "disk_format": found.disk_format,
            }
        )
    else:
        print(f"{found.digest}  {what}")


def digest_of_file(
    path: Path, format_name: str, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> DiskDigest:
    """Read a disk in any format without the daemon. Raises `ClientError`."""
    # Loaded here: numpy and the readers of all formats take longer than most commands.
    from imsd.chunks.disk_digest import digest_blocks
    from imsd.contract import ImsError
    from imsd.formats.detect import open_image
    from imsd.formats.reader import MAX_VIRTUAL_SIZE_BYTES
    from imsd.formats.source import FileSource

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            opened = open_image(FileSource(fd), format_name or None, MAX_VIRTUAL_SIZE_BYTES)
            total = opened.blocks.size_bytes
            digest = digest_blocks(opened.blocks, on_progress=lambda done: on_progress(done, total))
        finally:
            os.close(fd)
    except OSError as error:
        raise cannot_read(path, error) from error
    except ImsError as error:
        raise ClientError(error.reason, error.message, error.hint) from error
    return DiskDigest(digest, opened.blocks.size_bytes, opened.format_name)


def _names_a_file(what: str) -> bool:
    return os.sep in what or os.path.exists(what)

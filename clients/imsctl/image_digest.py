"""`imsctl image digest`: the tree digest of a disk, of a local file or of an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from imsd.v1 import image_pb2

from . import choice
from .file_argument import names_a_file, require_local, resolve_image
from .json_fields import disk_format
from .local_image import OnPhase, open_local_image
from .local_work import watched
from .output import print_json
from .session import Session


@dataclass(frozen=True, slots=True)
class DiskDigest:
    """``virtual_size`` in bytes."""

    digest: str
    virtual_size: int
    disk_format: str


async def print_digest(session: Session, what: str, format_name: str, disk: int = 0) -> None:
    """``what`` is a file if there is one of that name, else an image. ``disk``: see `open_local_image`."""
    choice.choose(image_pb2.DiskFormat, format_name, "--format")
    require_local(what, "FILE|IMAGE")
    if names_a_file(what):
        found = await watched(session, partial(digest_of_file, Path(what), format_name, disk=disk))
    elif disk:
        raise typer.BadParameter(f"is of a package, and there is no file {what!r}", param_hint="--disk")
    else:
        async with session.connect() as client:
            image = await resolve_image(client, what)
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
    path: Path, format_name: str, on_phase: OnPhase = lambda phase, done, total: None, disk: int = 0
) -> DiskDigest:
    """Read a disk in any format without the daemon. Raises `ClientError`, and what ``on_phase`` raises."""
    # Loaded here: numpy takes longer than most commands.
    from imsd.chunks.disk_digest import digest_blocks

    with open_local_image(path, format_name, on_phase, disk) as local:
        blocks = local.image.blocks
        total = blocks.size_bytes
        digest = digest_blocks(blocks, on_progress=lambda done: on_phase("digest", done, total))
        return DiskDigest(digest, total, local.image.format_name)

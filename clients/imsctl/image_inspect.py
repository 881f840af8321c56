"""`imsctl image inspect`: what a disk image file is and holds, looked at here, without the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imsd.v1 import image_pb2

from . import choice, wording
from .local_image import OnPhase, open_local_image, refuse_standard_input
from .local_work import watched
from .output import print_fields, print_json, printable
from .session import Session

if TYPE_CHECKING:
    from imsd.formats.source import BlockSource

# The extents of a disk are asked for in runs of this length.
RUN_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen; sizes in bytes. ``allocated_size``: of the disk, what is not left out as zeros."""

    source: str
    disk_format: str
    variant: str
    wrapper: str
    file_size: int
    virtual_size: int
    allocated_size: int
    findings: list[dict[str, str]]


async def inspect_file(session: Session, what: str, format_name: str) -> None:
    """Print what the file ``what`` is and holds."""
    refuse_standard_input(what, "FILE|IMAGE")
    choice.choose(image_pb2.DiskFormat, format_name, "--format")
    found = await watched(session, partial(_inspect, what, format_name))
    if session.is_json:
        print_json(_fields(found))
        return
    wrapped = f" in {found.wrapper}" if found.wrapper else ""
    variant = f" ({found.variant})" if found.variant else ""
    print_fields(
        {
            "file": f"{found.source}, {wording.size(found.file_size)}",
            "format": f"{found.disk_format}{variant}{wrapped}",
            "virtual size": f"{wording.size(found.virtual_size)} ({found.virtual_size} bytes)",
            "allocated": wording.size(found.allocated_size),
        }
    )
    for finding in found.findings:
        print(printable(f"note: {finding['message']} [{finding['code']}]"))


def _inspect(source: str, format_name: str, on_phase: OnPhase) -> Inspection:
    with open_local_image(Path(source), format_name, on_phase) as local:
        image = local.image
        return Inspection(
            source=source,
            disk_format=image.format_name,
            variant=image.variant,
            wrapper=local.wrapper,
            file_size=local.file_size,
            virtual_size=image.blocks.size_bytes,
            allocated_size=_allocated(image.blocks, on_phase),
            findings=[{"code": found.code, "message": found.message} for found in image.findings],
        )


def _allocated(blocks: BlockSource, on_phase: OnPhase) -> int:
    found = 0
    for start in range(0, blocks.size_bytes, RUN_BYTES):
        on_phase("inspect", start, blocks.size_bytes)
        extents = blocks.extents(start, min(RUN_BYTES, blocks.size_bytes - start))
        found += sum(extent.length for extent in extents if not extent.is_zero)
    return found


def _fields(found: Inspection) -> dict[str, Any]:
    return {
        "source": found.source,
        "disk_format": found.disk_format,
        "variant": found.variant,
        "wrapper": found.wrapper,
        "file_size": found.file_size,
        "virtual_size": found.virtual_size,
        "allocated_size": found.allocated_size,
        "findings": found.findings,
    }

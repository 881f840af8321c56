"""`imsctl image inspect`: what a disk image is and holds; of a file seen here, without the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imsd.v1 import guest_pb2, image_pb2

from . import choice, wording
from .file_argument import names_a_file, require_local, resolve_image
from .guest_output import print_guest
from .image_json import guest_fields, image_fields
from .json_fields import disk_format
from .local_image import LocalImage, OnPhase, open_local_disks
from .local_work import watched
from .output import print_fields, print_json, printable
from .session import Session

if TYPE_CHECKING:
    from imsd.formats.source import BlockSource

# The extents of a disk are asked for in runs of this length.
RUN_BYTES = 1 << 30

# Shown of an image, as `imsctl image show` has them; what is found inside comes after them.
IMAGE_FIELDS = (
    "id",
    "name",
    "disk_format",
    "virtual_size",
    "data_size",
    "stored_size",
    "digest",
    "findings",
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen; sizes in bytes. ``allocated_size``: of the disk, what is not left out as zeros.

    ``member``: the name of the disk in a package, or empty.
    """

    source: str
    disk_format: str
    variant: str
    wrapper: str
    file_size: int
    virtual_size: int
    allocated_size: int
    findings: list[dict[str, str]]
    guest: guest_pb2.GuestReport
    member: str = ""


async def inspect(session: Session, what: str, format_name: str) -> None:
    """Print what ``what`` is and holds: a file if there is one of that name, else an image."""
    require_local(what, "FILE|IMAGE")
    choice.choose(image_pb2.DiskFormat, format_name, "--format")
    if names_a_file(what):
        await _inspect_file(session, what, format_name)
    else:
        await _inspect_image(session, what)


async def _inspect_image(session: Session, name_or_id: str) -> None:
    async with session.connect() as client:
        image = await resolve_image(client, name_or_id)
        guest = await client.images.inspect(image.id)
    if session.is_json:
        shown = image_fields(image)
        print_json({name: shown[name] for name in IMAGE_FIELDS} | {"guest": guest_fields(guest)})
        return
    print_fields(
        {
            "image": f"{image.name} {image.id}",
            "format": disk_format(image.disk_format),
            "virtual size": _exact(image.virtual_size_bytes),
            "data": wording.size(image.data_size_bytes),
            "stored": wording.size(image.stored_size_bytes),
            "digest": image.digest,
        }
    )
    for finding in image.findings:
        print(printable(f"note: {finding.message} [{finding.code}]"))
    print_guest(guest)


async def _inspect_file(session: Session, what: str, format_name: str) -> None:
    found = await watched(session, partial(_inspect, what, format_name))
    is_package = bool(found[0].member)
    if session.is_json:
        disks = [_fields(each) for each in found]
        print_json({"source": what, "package": "ova", "disks": disks} if is_package else disks[0])
        return
    if is_package:
        print(printable(f"{what}: a package of {wording.disks(len(found))}"))
    for number, each in enumerate(found, 1):
        if is_package:
            print()
            print(printable(f"disk {number}: {each.member}"))
        _print(each)


def _print(found: Inspection) -> None:
    wrapped = f" in {found.wrapper}" if found.wrapper else ""
    variant = f" ({found.variant})" if found.variant else ""
    print_fields(
        {
            "file": f"{found.source}, {wording.size(found.file_size)}",
            "format": f"{found.disk_format}{variant}{wrapped}",
            "virtual size": _exact(found.virtual_size),
            "allocated": wording.size(found.allocated_size),
        }
    )
    for finding in found.findings:
        print(printable(f"note: {finding['message']} [{finding['code']}]"))
    print_guest(found.guest)


def _exact(size_bytes: int) -> str:
    return f"{wording.size(size_bytes)} ({size_bytes} bytes)"


def _inspect(source: str, format_name: str, on_phase: OnPhase) -> list[Inspection]:
    found = []
    with open_local_disks(Path(source), format_name, on_phase) as disks:
        for disk in disks:
            with disk.open() as local:
                found.append(_inspection(source, disk.member, local, on_phase))
    return found


def _inspection(source: str, member: str, local: LocalImage, on_phase: OnPhase) -> Inspection:
    from imsd.guest.inspector import inspect_disk
    from imsd.guest_messages import guest_to_pb

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
        guest=guest_to_pb(inspect_disk(image.blocks)),
        member=member,
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
        **({"member": found.member} if found.member else {"source": found.source}),
        "disk_format": found.disk_format,
        "variant": found.variant,
        "wrapper": found.wrapper,
        "file_size": found.file_size,
        "virtual_size": found.virtual_size,
        "allocated_size": found.allocated_size,
        "findings": found.findings,
        "guest": guest_fields(found.guest),
    }

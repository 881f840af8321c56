"""What the kind of an image decides: which attributes it may have, and how large its smallest disk is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from imsd.contract import InvalidRequest, LimitExceeded
from imsd.metadata.records import ImageKind, ServerKind

from . import checks, limits
from .os_identity import WINDOWS
from .service_limits import GIB, ServiceLimits

ISO = ImageKind.ISO.value

WORDS: Mapping[ImageKind, str] = {
    ImageKind.SYSTEM_DISK: "a system disk",
    ImageKind.DATA_DISK: "a data disk",
    ImageKind.ISO: "an ISO image",
}


def check_license(license_type: str, os_type: str) -> None:
    """Only Windows has one (contract §3.4), or a system that is not known yet. Raises InvalidRequest."""
    if license_type and os_type not in ("", WINDOWS):
        checks.refuse(
            "license_type", f"only Windows has a type of licence, this system is {os_type}", "leave it out"
        )


def check_ram_of_bits(os_bits: int, min_ram_mb: int) -> None:
    """No server could be made of a 32-bit system that asks for more memory (IMG.0055).

    Raises InvalidRequest.
    """
    if os_bits == 32 and min_ram_mb > limits.MAX_RAM_OF_32_BIT_MB:
        most = limits.MAX_RAM_OF_32_BIT_MB
        checks.refuse(
            "min_ram_mb",
            f"min_ram_mb is {min_ram_mb}, but servers with a 32-bit system have at most {most}",
            "give less, or the os_version of a 64-bit system",
        )


def first_kind(asked: str, disk_format: str) -> ImageKind:
    """What an image is taken for before its file was looked at."""
    if asked:
        return ImageKind(asked)
    return ImageKind.ISO if disk_format == ISO else ImageKind.SYSTEM_DISK


def proved_kind(asked: str, disk_format: str) -> ImageKind:
    """What an image is whose file is in ``disk_format``: an ISO is one, whatever else was hoped for.

    Raises InvalidRequest (IMAGE_KIND_UNSUITED) unless it is what was asked for.
    """
    kind = ImageKind.ISO if disk_format == ISO else ImageKind(asked or ImageKind.SYSTEM_DISK)
    if asked and (asked == ISO) != (disk_format == ISO):
        refuse_kind(
            "kind", f"the file is in the format {disk_format}: it cannot be {WORDS[ImageKind(asked)]}"
        )
    return kind


def check_server_kind(server_kind: str, kind: ImageKind) -> None:
    """``server_kind``: a `ServerKind`, or empty. Raises InvalidRequest (IMAGE_KIND_UNSUITED)."""
    if server_kind == ServerKind.BARE_METAL and kind is not ImageKind.SYSTEM_DISK:
        refuse_kind("server_kind", f"bare-metal servers start from a system disk, not from {WORDS[kind]}")


def disk_bounds(kind: ImageKind, service: ServiceLimits) -> tuple[int, int]:
    """The smallest and the largest min_disk_gb of an image, in GiB."""
    if kind is ImageKind.DATA_DISK:
        return service.min_data_disk_gb, service.max_data_disk_gb
    return service.min_system_disk_gb, service.max_system_disk_gb


def min_disk(kind: ImageKind, asked_gb: int, virtual_size: int, service: ServiceLimits) -> int:
    """The smallest disk, in GiB, that holds the image; ``asked_gb`` 0 asks for just that.

    Raises InvalidRequest (MIN_DISK_TOO_SMALL), LimitExceeded (also SYSTEM_DISK_TOO_LARGE).
    """
    needed = max(1, -(-virtual_size // GIB))
    lowest, highest = disk_bounds(kind, service)
    if needed > highest:
        raise LimitExceeded(
            f"the disk in the file has {needed} GB, {WORDS[kind]} has at most {highest} GB",
            reason="SYSTEM_DISK_TOO_LARGE" if kind is ImageKind.SYSTEM_DISK else None,
            hint="split its content over several disks, or ask the operator for a higher limit",
        )
    if asked_gb:
        checks.number("min_disk_gb", asked_gb, lowest, highest)
    if asked_gb and asked_gb < needed:
        raise InvalidRequest(
            f"min_disk_gb is {asked_gb}, but the disk in the file needs {needed} GB",
            reason="MIN_DISK_TOO_SMALL",
            field="min_disk_gb",
            hint=f"ask for at least {needed}, or leave it out",
        )
    return asked_gb or max(needed, lowest)


def refuse_kind(field: str, message: str) -> NoReturn:
    """Raises InvalidRequest (IMAGE_KIND_UNSUITED)."""
    raise InvalidRequest(
        message,
        reason="IMAGE_KIND_UNSUITED",
        field=field,
        hint="leave the kind out to have it found" if field == "kind" else f"leave {field} out, or the kind",
    )

"""Which image may be exported, as what: the seed's Table 5-5, contract §9.1 and §10.3.

Pure: each rule looks at what is known and raises why not. The *size* of an image is here that of its data
(`Image.data_size_bytes`): what an export has to read and pack, the same for every format. Why this one is in
CONSTRAINTS.md, "What the size of an image is".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from imsd.contract import FailedPrecondition, InvalidRequest, LimitExceeded
from imsd.metadata.records import ImageKind, ImageRecord, Visibility

from .image_access import require_active, require_owner
from .keys.encryption import require_unencrypted
from .service_limits import ServiceLimits

# Table 5-5, row "Formats of exported image files"; ZVHD2 is what a fast export writes (contract §3.6).
FORMATS: Final = ("vmdk", "vhd", "qcow2", "zvhd")
FAST_FORMAT: Final = "zvhd2"

FIELD: Final = "image_id"


@dataclass(frozen=True, slots=True)
class ExportPolicy:
    """``refused_platforms``: images that descend from public images of these are not exported.

    The seed names Ubuntu, newer texts of the service more (contract §9.1).
    """

    limits: ServiceLimits
    refused_platforms: Collection[str]

    def refuses(self, platform: str) -> bool:
        return platform.casefold() in {each.casefold() for each in self.refused_platforms}


def export_format(disk_format: str, *, is_fast: bool) -> str:
    """The format of the file that is asked for. Raises InvalidRequest."""
    if is_fast and disk_format:
        raise InvalidRequest(
            f"a fast export has the format {FAST_FORMAT}, and none is chosen",
            field="disk_format",
            hint="leave the format or is_fast out",
        )
    if is_fast:
        return FAST_FORMAT
    if disk_format not in FORMATS:
        raise InvalidRequest(
            f"an export has no format {disk_format}" if disk_format else "the export names no format",
            reason="FORMAT_UNSUPPORTED" if disk_format else "INVALID_REQUEST",
            field="disk_format",
            hint=f"choose one of {', '.join(FORMATS)}; is_fast gives {FAST_FORMAT}",
        )
    return disk_format


def require_exportable(project_id: str, image: ImageRecord, disk_format: str, policy: ExportPolicy) -> None:
    """``image``: as the project sees it.

    Raises FailedPrecondition (IMAGE_PUBLIC, IMAGE_PUBLISHED, IMAGE_KIND_UNSUITED, EXPORT_REFUSED,
    ENCRYPTED_IMAGE_UNSUITED; not active), PermissionDenied (NOT_OWNER), LimitExceeded (EXPORT_TOO_LARGE).
    """
    if image.visibility is Visibility.PUBLIC:
        raise _refused(image, "is public", "IMAGE_PUBLIC", "copy it, and export what you made of the copy")
    require_owner(project_id, image)
    require_active(image)
    if image.is_published or image.is_market_derived:
        what = "is published in the marketplace" if image.is_published else "descends from a published image"
        raise _refused(image, what, "IMAGE_PUBLISHED", "ask who published it for the file")
    if disk_format == FAST_FORMAT:
        require_unencrypted(image, "exported fast", "export it in another format, which decrypts it")
    if image.kind is ImageKind.ISO:
        raise _refused(
            image, "is an ISO", "IMAGE_KIND_UNSUITED", "download it, or keep the file it came from"
        )
    if image.public_platform and policy.refuses(image.public_platform):
        what = f"descends from a public image of {image.public_platform}"
        raise _refused(image, what, "EXPORT_REFUSED", "build the image from a file of your own")
    _require_size(image, disk_format, policy.limits)


def _require_size(image: ImageRecord, disk_format: str, limits: ServiceLimits) -> None:
    # "Less than 1 TB", and "larger than 128 GB only fast": the one excludes its limit, the other does not.
    if image.data_size >= limits.max_fast_export_bytes:
        raise _too_large(
            image, f"must be below {limits.max_fast_export_bytes}", "divide the disk, or download the image"
        )
    if disk_format != FAST_FORMAT and image.data_size > limits.max_export_bytes:
        raise _too_large(image, f"at most {limits.max_export_bytes}", "use fast export, which writes ZVHD2")


def _too_large(image: ImageRecord, what: str, hint: str) -> LimitExceeded:
    return LimitExceeded(
        f"image {image.name!r} holds {image.data_size} bytes, {what} for such an export",
        reason="EXPORT_TOO_LARGE",
        field=FIELD,
        hint=hint,
    )


def _refused(image: ImageRecord, what: str, reason: str, hint: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"image {image.name!r} {what}: it cannot be exported", reason=reason, field=FIELD, hint=hint
    )

"""How large a file may be, by the way it comes in (Table 5-2, row "Image size"; see CONSTRAINTS.md)."""

from __future__ import annotations

from imsd.contract import LimitExceeded

from .service_limits import ServiceLimits


def require_file_size(size_bytes: int, limits: ServiceLimits, *, is_fast: bool) -> None:
    """Raises LimitExceeded (IMAGE_FILE_TOO_LARGE, IMG.0059; LIMIT_EXCEEDED)."""
    most = limits.max_fast_import_bytes if is_fast else limits.max_import_bytes
    if size_bytes > most:
        way, hint = "ordinary", "convert it to RAW or ZVHD2 and import it fast"
        if is_fast:
            way, hint = (
                "fast",
                "make the disk smaller, or ask the operator to raise limits.max_fast_import_bytes",
            )
        raise LimitExceeded(
            f"the file has {size_bytes} bytes or more, {way} import takes at most {most}",
            reason="IMAGE_FILE_TOO_LARGE",
            field="size_bytes",
            hint=hint,
        )
    if size_bytes > limits.max_upload_size_bytes:
        raise LimitExceeded(
            f"the file has {size_bytes} bytes or more, an upload has at most {limits.max_upload_size_bytes}",
            hint="convert it to a compressed format, or ask the operator to raise max_upload_size_bytes",
        )

"""The sections `limits` and `quotas` of the configuration.

What each is, its default and its range are in `imsd.core.service_limits` and `imsd.core.quotas`.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from imsd.core.quota_rules import BY_RESOURCE
from imsd.core.service_limits import MAX_BYTES, RULES, UNLIMITED


def _limit(name: str) -> Any:
    rule = RULES[name]
    return Field(rule.default, ge=rule.lowest, le=rule.highest)


def _quota(resource: str) -> Any:
    return Field(BY_RESOURCE[resource].default, ge=UNLIMITED, le=MAX_BYTES)


class Limits(BaseModel):
    """Limits of images and of what is done with them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # The smallest disk, in GB, that may be asked for a system disk image or a data disk image.
    min_system_disk_gb: int = _limit("min_system_disk_gb")
    max_system_disk_gb: int = _limit("max_system_disk_gb")
    min_data_disk_gb: int = _limit("min_data_disk_gb")
    max_data_disk_gb: int = _limit("max_data_disk_gb")

    # The largest image of an import, and of a fast one.
    max_import_bytes: ByteSize = _limit("max_import_bytes")
    max_fast_import_bytes: ByteSize = _limit("max_fast_import_bytes")

    # The largest image of an export, and of a fast one.
    max_export_bytes: ByteSize = _limit("max_export_bytes")
    max_fast_export_bytes: ByteSize = _limit("max_fast_export_bytes")

    # The largest image that is copied; copies of one project that run at once.
    max_copy_bytes: ByteSize = _limit("max_copy_bytes")
    max_copy_jobs_per_project: int = _limit("max_copy_jobs_per_project")

    # Projects that an image is shared with.
    max_members_per_image: int = _limit("max_members_per_image")

    # Tags of an image.
    max_tags_per_image: int = _limit("max_tags_per_image")
    max_attachments_per_project: int = _limit("max_attachments_per_project")

    @model_validator(mode="after")
    def _smallest_is_not_above_largest(self) -> Self:
        for kind in ("system", "data"):
            smallest, largest = (getattr(self, f"{bound}_{kind}_disk_gb") for bound in ("min", "max"))
            if smallest > largest:
                raise ValueError(f"min_{kind}_disk_gb is {smallest}, above max_{kind}_disk_gb, {largest}")
        return self


class Quotas(BaseModel):
    """What a project may have that has no quota of its own; -1: no limit. See also `staging_quota_bytes`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Images that are not public.
    images: int = _quota("images")

    # Uploads that are open.
    uploads: int = _quota("uploads")

    # Images that another project accepted; and projects that accepted one, over all images.
    shared_images: int = _quota("shared_images")
    image_members: int = _quota("image_members")

    # Keys, with those that are to be deleted.
    encryption_keys: int = _quota("encryption_keys")

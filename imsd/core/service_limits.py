"""The limits that an operator can change: each with its unit, its sentence and the rule it comes from.

Tables and rows are those of the hosted service's overview, sections those of its contract; sizes are binary.
What a request may never say, whatever the operator wants, is in `limits`; what a project may have is a quota,
see `quotas`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

# Nothing is larger; the sum of a few still fits 64 bits.
MAX_BYTES: Final = 1 << 60

# The section of the configuration that holds those which have no key of their own.
SECTION: Final = "limits"

# No limit, as a quota.
UNLIMITED: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule:
    """What a limit is. ``source``: the row of the rule, empty for imsd's own.

    ``setting``: the key of the configuration that changes it, to a value from ``lowest`` to ``highest``;
    empty: it is fixed.
    """

    name: str = ""
    default: int = 0
    lowest: int = 1
    highest: int = MAX_BYTES
    unit: str
    summary: str
    source: str = ""
    setting: str = ""


def _limit(default: int, rule: LimitRule) -> Any:
    """A field of the section `SECTION`."""
    return field(default=default, metadata={"rule": rule})


def _own_key(rule: LimitRule) -> Any:
    """A field with a key of its own, for which the configuration has the default."""
    return field(metadata={"rule": rule})


def _bytes(default: int, summary: str, source: str) -> Any:
    return _limit(default, LimitRule(unit="bytes", lowest=MIB, summary=summary, source=source))


def _disk(default: int, summary: str, source: str) -> Any:
    return _limit(default, LimitRule(unit="GB", highest=1 << 20, summary=summary, source=source))


def _count(default: int, unit: str, highest: int, summary: str, source: str) -> Any:
    return _limit(default, LimitRule(unit=unit, highest=highest, summary=summary, source=source))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """The limits as they hold now; sizes in bytes, disks in GB."""

    max_virtual_size_bytes: int = _own_key(
        LimitRule(unit="bytes", summary="The largest disk.", setting="max_virtual_size_bytes")
    )
    max_upload_size_bytes: int = _own_key(
        LimitRule(unit="bytes", summary="The largest file of an upload.", setting="max_upload_size_bytes")
    )
    staging_quota_bytes: int
    upload_part_bytes: int = _own_key(
        LimitRule(
            unit="bytes", summary="How much of an upload lies in one blob.", setting="upload_part_bytes"
        )
    )
    upload_expiry: timedelta
    # How long a deleted image can be brought back.
    undelete_time: timedelta = timedelta(hours=24)
    max_running_create_jobs: int = _own_key(
        LimitRule(
            unit="jobs",
            summary="Jobs that make images and run at once; more wait.",
            source="Table 5-1, Maximum number of concurrent tasks for creating private images",
            setting="max_running_create_jobs",
        )
    )
    min_system_disk_gb: int = _disk(
        1, "The smallest min_disk_gb of a system disk image.", "contract §3.1, min_disk"
    )
    max_system_disk_gb: int = _disk(
        1024, "The largest min_disk_gb of a system disk image.", "Table 5-1, Disk capacity"
    )
    min_data_disk_gb: int = _disk(
        40,
        "The smallest min_disk_gb of a data disk image.",
        "Table 5-2, Importing a data disk image from an external image file",
    )
    max_data_disk_gb: int = _disk(
        2048,
        "The largest min_disk_gb of a data disk image.",
        "Table 5-2, Importing a data disk image from an external image file",
    )
    max_import_bytes: int = _bytes(
        128 * GIB, "The largest file of an ordinary import.", "Table 5-2, Image size"
    )
    max_fast_import_bytes: int = _bytes(TIB, "The largest file of a fast import.", "Table 5-2, Image size")
    max_members_per_image: int = _count(
        128,
        "projects",
        100_000,
        "Projects that an image is shared with.",
        "Table 5-3, Maximum number of tenants an image can be shared with",
    )
    max_copy_bytes: int = _bytes(
        128 * GIB, "The largest image that is copied.", "Table 5-4, Maximum size of an image"
    )
    max_copy_jobs_per_project: int = _count(
        5,
        "jobs",
        1000,
        "Copies of a project that run at once.",
        "Table 5-4, Maximum number of concurrent replication tasks per tenant",
    )
    max_export_bytes: int = _bytes(
        128 * GIB, "The largest image of an ordinary export.", "Table 5-5, Maximum size of an exported image"
    )
    max_fast_export_bytes: int = _bytes(
        TIB, "The largest image of a fast export.", "Table 5-5, Maximum size of an exported image"
    )
    max_tags_per_image: int = _count(
        10,
        "tags",
        50,
        "Tags of an image.",
        "Table 5-6, Maximum number of tags that can be added to a private image",
    )
    max_attachments_per_project: int = _count(
        100, "attachments", 10_000, "Images of a project that are attached at once.", ""
    )
    # What a project may have unless it has a quota of its own, by resource: see `quotas`.
    quotas: Mapping[str, int] = field(default_factory=dict)


def _rule_of(given: Field[Any]) -> LimitRule | None:
    rule: LimitRule | None = given.metadata.get("rule")
    if rule is None or rule.setting:
        return rule and replace(rule, name=given.name)
    assert isinstance(given.default, int)
    return replace(rule, name=given.name, default=given.default, setting=f"{SECTION}.{given.name}")


# Every limit that an operator can change, by name.
RULES: Final[Mapping[str, LimitRule]] = {
    rule.name: rule for rule in map(_rule_of, fields(ServiceLimits)) if rule is not None
}

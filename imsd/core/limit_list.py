"""Every limit of the service, as a list: those that an operator can change, and those that are fixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from . import limits, tag_filter
from .service_limits import RULES, LimitRule, ServiceLimits
from .tags import MAX_LIMIT


def _fixed(name: str, value: int, unit: str, summary: str, source: str = "") -> LimitRule:
    return LimitRule(name=name, default=value, unit=unit, summary=summary, source=source)


_FIXED: Final = (
    _fixed("max_name", limits.MAX_NAME, "characters", "The name of an image.", "contract §8.1"),
    _fixed(
        "max_description",
        limits.MAX_DESCRIPTION,
        "characters",
        "The description of an image.",
        "contract §8.2",
    ),
    _fixed("max_tag_key", limits.MAX_TAG_KEY, "characters", "The key of a tag.", "contract §8.3"),
    _fixed("max_tag_value", limits.MAX_TAG_VALUE, "characters", "The value of a tag.", "contract §8.3"),
    _fixed(
        "max_filter_keys", tag_filter.MAX_KEYS, "keys", "Keys of one list of a tag filter.", "contract §3.12"
    ),
    _fixed(
        "max_filter_values",
        tag_filter.MAX_VALUES,
        "values",
        "Values of one key of a tag filter.",
        "contract §3.12",
    ),
    _fixed("max_filter_key", tag_filter.MAX_KEY, "characters", "A key of a tag filter.", "contract §3.12"),
    _fixed(
        "max_filter_value", tag_filter.MAX_VALUE, "characters", "A value of a tag filter.", "contract §3.12"
    ),
    _fixed("max_tagged_images", MAX_LIMIT, "images", "Images of one answer by tags.", "contract §3.12"),
    _fixed("max_properties", limits.MAX_PROPERTIES, "properties", "Properties of an image."),
    _fixed(
        "max_property_value", limits.MAX_PROPERTY_VALUE, "characters", "The value of a property of an image."
    ),
    _fixed("max_ram_mb", limits.MAX_RAM_MB, "MB", "min_ram_mb and max_ram_mb of an image."),
    _fixed(
        "max_ram_of_32_bit_mb",
        limits.MAX_RAM_OF_32_BIT_MB,
        "MB",
        "min_ram_mb of an image whose system has 32 bits.",
        "Other Constraints, 32-bit OS",
    ),
    _fixed(
        "min_shutdown_timeout",
        limits.SHUTDOWN_TIMEOUT_SECONDS[0],
        "seconds",
        "The shortest shutdown_timeout_seconds of an image.",
        "contract §5.1, os_shutdown_timeout",
    ),
    _fixed(
        "max_shutdown_timeout",
        limits.SHUTDOWN_TIMEOUT_SECONDS[1],
        "seconds",
        "The longest shutdown_timeout_seconds of an image.",
        "contract §5.1, os_shutdown_timeout",
    ),
    _fixed("max_agents", limits.MAX_AGENTS, "agents", "Agents of an image."),
    _fixed(
        "max_listed_ids",
        limits.MAX_LISTED_IDS,
        "ids",
        "Images, and projects, of one request on members.",
        "contract §7, Share: tenants per image",
    ),
    _fixed("max_member_pairs", limits.MAX_MEMBER_PAIRS, "pairs", "Images times projects of such a request."),
    _fixed(
        "max_members_per_full_server_image",
        limits.MAX_FULL_SERVER_MEMBERS,
        "projects",
        "Projects that a full-server image is shared with; there are none yet.",
        "Table 5-3, Maximum number of tenants an image can be shared with",
    ),
    _fixed(
        "max_servers_at_once",
        limits.MAX_SERVERS_AT_ONCE,
        "servers",
        "Servers made of one system disk image at once, as recommended; none are made yet.",
        "Table 5-6, Number of cloud servers that can be concurrently created using a system disk image",
    ),
    _fixed("max_page", limits.MAX_PAGE, "entries", "Entries of a page of a list."),
    _fixed("max_write_bytes", limits.MAX_WRITE_BYTES, "bytes", "One message of an upload."),
)


def limits_in_force(now: ServiceLimits) -> Iterator[tuple[LimitRule, int]]:
    """Each limit and its value, those that can be changed first."""
    for name, rule in RULES.items():
        yield rule, getattr(now, name)
    for rule in _FIXED:
        yield rule, rule.default

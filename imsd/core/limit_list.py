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
    _fixed("max_tagged_images", MAX_LIMIT, "images", "Images of one answer by tags.", "contract §3.12"),
    _fixed("max_properties", limits.MAX_PROPERTIES, "properties", "Properties of an image."),
    _fixed(
        "max_property_value", limits.MAX_PROPERTY_VALUE, "characters", "The value of a property of an image."
    ),
    _fixed("max_ram_mb", limits.MAX_RAM_MB, "MB", "min_ram_mb and max_ram_mb of an image."),
    _fixed("max_page", limits.MAX_PAGE, "entries", "Entries of a page of a list."),
    _fixed("max_write_bytes", limits.MAX_WRITE_BYTES, "bytes", "One message of an upload."),
)


def limits_in_force(now: ServiceLimits) -> Iterator[tuple[LimitRule, int]]:
    """Each limit and its value, those that can be changed first."""
    for name, rule in RULES.items():
        yield rule, getattr(now, name)
    for rule in _FIXED:
        yield rule, rule.default

"""What a list of images asks for, checked: every text bounded, every number known, every set small."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from imsd.contract import InvalidRequest
from imsd.metadata.image_query import TimeRange

from . import checks, limits

# What a list may be ordered by → its column.
ORDERS = {
    "created_at": "created_at",
    "updated_at": "updated_at",
    "name": "name",
    "virtual_size": "virtual_size",
    "status": "status",
    "disk_format": "disk_format",
    "id": "id",
    "min_disk": "min_disk_gb",
}
DEFAULT_ORDER = "created_at desc"

# Of one condition; each value is a variable of a statement.
MAX_VALUES = 64
MAX_TIMES = 4
OS_BITS = (32, 64)

_SECOND = timedelta(seconds=1)
_OPERATORS = ("gt", "gte", "lt", "lte", "eq", "neq")


def order(order_by: str) -> tuple[str, bool]:
    """The column, and whether it descends. Raises InvalidRequest."""
    name, _, direction = (order_by or DEFAULT_ORDER).partition(" ")
    if name not in ORDERS or direction not in ("", "asc", "desc"):
        raise InvalidRequest(
            f"cannot order by {order_by[:64]!r}",
            field="order_by",
            hint=f"use one of {', '.join(ORDERS)}, followed by ' desc', ' asc' or nothing",
        )
    return ORDERS[name], direction == "desc"


def texts(field: str, values: Sequence[str], longest: int) -> tuple[str, ...]:
    """Each once and always in one order: page tokens depend on it."""
    if len(values) > MAX_VALUES:
        checks.refuse(field, f"{len(values)} values, but a condition has at most {MAX_VALUES}")
    for value in values:
        if not value:
            checks.refuse(field, f"{field} has an empty value", "leave the condition out to have all")
        checks.text(field, value, longest)
    return tuple(sorted(set(values)))


def search(value: str) -> str:
    checks.text("filter.search", value, limits.MAX_NAME)
    if not value.isprintable():
        checks.refuse("filter.search", "the search has characters that no name has")
    return value


def bits(values: Sequence[int]) -> tuple[int, ...]:
    for value in values[: len(OS_BITS) + 1]:
        if value not in OS_BITS:
            checks.refuse("filter.os_bits", f"{value} bits: a system has 32 or 64")
    if len(values) > len(OS_BITS):
        checks.refuse("filter.os_bits", f"{len(values)} values, but there are only {len(OS_BITS)}")
    return tuple(sorted(set(values)))


def matching(field: str, value: str, pattern: re.Pattern[str], what: str) -> str:
    return checks.matching(field, value, pattern, f"{value[:64]!r} is not {what}")


def enterprise_project(value: str) -> str:
    is_default = value == "0"
    return (
        value
        if is_default
        else matching(
            "filter.enterprise_project_id",
            value,
            limits.UUID,
            "an enterprise project: 0, or a UUID in lower case",
        )
    )


def time_range(column: str, operator: str, seconds: int) -> TimeRange:
    """``operator``: gt, gte, lt, lte, eq, neq; ``seconds``: since 1970, UTC.

    A time is its second: what happened within it is neither before nor after it. Raises InvalidRequest.
    """
    field = f"filter.{column}"
    if operator not in _OPERATORS:
        checks.refuse(field, "a time is compared by an operator", f"use one of {', '.join(_OPERATORS)}")
    try:
        begin = datetime.fromtimestamp(seconds, UTC)
        end = begin + _SECOND
    except (OverflowError, ValueError, OSError):
        checks.refuse(field, f"{seconds} seconds is no time of the years 1 to 9999")
    if operator in ("eq", "neq"):
        return TimeRange(column, begin, end, operator == "neq")
    if operator in ("gt", "gte"):
        return TimeRange(column, first=end if operator == "gt" else begin)
    return TimeRange(column, end=begin if operator == "lt" else end)


def times(column: str, asked: Sequence[tuple[str, int]]) -> tuple[TimeRange, ...]:
    if len(asked) > MAX_TIMES:
        checks.refuse(f"filter.{column}", f"{len(asked)} conditions, at most {MAX_TIMES} are taken")
    return tuple(time_range(column, operator, seconds) for operator, seconds in asked)

"""How the hosted service writes values (its contract, §1 and §5): as text, where they are typed here.

A reader raises ValueError for what is no such value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

# The same systems, spelled in two ways: here as its overview has them, there as its calls have them.
_OTHER_HERE = re.compile(r"Other_(Linux|Windows) \((32|64)_bit\)\Z")
_OTHER_THERE = re.compile(r"other[ _](linux|windows) ?\((32|64)[ _]bit\)\Z", re.IGNORECASE)

# Platforms of the catalogue that the calls of the hosted service name otherwise.
PLATFORMS: Mapping[str, str] = {
    "Red Hat": "RedHat",
    "SUSE Linux Enterprise": "SUSE",
    "openSUSE": "OpenSUSE",
}
_PLATFORMS_HERE = {there.casefold(): here for here, there in PLATFORMS.items()} | {"euler os": "EulerOS"}

_INT64 = 1 << 63


def flag(value: bool) -> str | None:
    """A flag that is not set is absent (§5)."""
    return "true" if value else None


def read_flag(value: Any) -> bool:
    """``True`` and ``true`` as text occur, and the boolean itself."""
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{str(value)[:40]!r} is neither true nor false")
    return text == "true"


def read_number(value: Any) -> int:
    """A number, or a text of one."""
    text = str(value)
    if (
        isinstance(value, bool | float)
        or not re.fullmatch(r"-?[0-9]{1,19}", text)
        or abs(int(text)) >= _INT64
    ):
        raise ValueError(f"{text[:40]!r} is no number")
    return int(text)


def read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is no text")
    return value


def time(value: Timestamp) -> str | None:
    """``2018-09-06T14:03:27Z``; nothing when it is unset."""
    if not value.seconds and not value.nanos:
        return None
    return f"{value.ToDatetime():%Y-%m-%dT%H:%M:%SZ}"


def read_time(value: Any) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.strptime(read_text(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC))
    return stamp


def os_version(value: str) -> str | None:
    found = _OTHER_HERE.match(value)
    return f"Other {found[1]}({found[2]} bit)" if found else value or None


def read_os_version(value: Any) -> str:
    found = _OTHER_THERE.match(read_text(value))
    return f"Other_{found[1].capitalize()} ({found[2]}_bit)" if found else str(value)


def platform(value: str) -> str | None:
    return PLATFORMS.get(value, value) or None


def read_platform(value: Any) -> str:
    return _PLATFORMS_HERE.get(read_text(value).casefold(), str(value))


def tags(value: Mapping[str, str]) -> list[str]:
    return [f"{key}={content}" if content else key for key, content in sorted(value.items())]


def read_tags(value: Any) -> dict[str, str]:
    """``key=value``, ``key.value`` or a bare key; the first ``=``, else the first dot, divides."""
    if not isinstance(value, list):
        raise ValueError("tags are no list")
    found: dict[str, str] = {}
    for text in value:
        divider = "=" if "=" in read_text(text) else "."
        key, _, content = text.partition(divider)
        if key in found:
            raise ValueError(f"the tag {key[:40]!r} is there twice")
        found[key] = content
    return found

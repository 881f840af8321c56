"""/etc/os-release, and other files of `NAME=value` lines.

Source: os-release(5). Values may be quoted as a shell would; nothing in them is ever run or expanded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .file_system import Tree

MAX_BYTES = 64 << 10
# The last one: a /usr on a partition of its own.
PLACES = ("/etc/os-release", "/usr/lib/os-release", "/lib/os-release")
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*(\+?)=(.*)$")
_ESCAPED = re.compile(r"\\(.)")


def parse_assignments(text: str) -> dict[str, str]:
    """``NAME=value`` lines; ``NAME+=value`` adds to what is there. Other lines are passed over."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            name, adds, value = match.groups()
            value = _unquoted(value.strip())
            found[name] = f"{found.get(name, '')} {value}".strip() if adds else value
    return found


def _unquoted(value: str) -> str:
    if value[:1] in ("'", '"'):
        end = value.find(value[0], 1)
        while end > 0 and value[0] == '"' and value[end - 1] == "\\":
            end = value.find(value[0], end + 1)
        inner = value[1:end] if end > 0 else value[1:]
        return inner if value[0] == "'" else _ESCAPED.sub(r"\1", inner)
    return value.split(" #")[0].strip()


def read_os_release(tree: Tree) -> Mapping[str, str]:
    """The first os-release with an ID or a name; empty when there is none. Raises `GuestUnreadable`."""
    for place in PLACES:
        fields = parse_assignments(tree.read_text(place, MAX_BYTES) or "")
        if fields.get("ID") or fields.get("NAME"):
            return fields
    return {}

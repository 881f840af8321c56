"""The text in which LVM2 keeps the description of a volume group.

Reference: lvm2, libdm/libdm-config.c: sections in braces, ``key = value``, values that are numbers, strings
in double quotes with backslashes, or arrays of those; comments from # to the end of the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .volume import GuestUnreadable

Value = str | int | list[str | int]
Section = dict[str, "Value | Section"]

# Two hundred logical volumes of several segments make about 200 KiB.
MAX_TEXT_BYTES = 512 << 10
# volume group, logical_volumes, a volume, a segment: four are used
MAX_DEPTH = 8
MAX_TOKENS = 200_000
MAX_NUMBER_DIGITS = 20

_TOKEN = re.compile(
    r"""[\s,]+ | \#[^\n]*
    | (?P<text>"(?:[^"\\]|\\.)*") | (?P<mark>[{}=\[\]]) | (?P<word>[^\s{}=\[\]",\#]+)""",
    re.VERBOSE | re.DOTALL,
)


def parse_text(text: str) -> Section:
    """The sections and values of ``text``. Raises `GuestUnreadable`."""
    if len(text) > MAX_TEXT_BYTES:
        raise GuestUnreadable("the metadata of a volume group is too long")
    tokens = _tokens(text)
    top: Section = {}
    stack = [top]
    for token in tokens:
        if token == "}":
            if len(stack) == 1:
                raise GuestUnreadable("the metadata of a volume group closes more sections than it opens")
            stack.pop()
            continue
        following = next(tokens, "")
        if following == "=":
            stack[-1][token] = _value(tokens)
        elif following == "{" and len(stack) < MAX_DEPTH:
            section: Section = {}
            stack[-1][token] = section
            stack.append(section)
        else:
            raise GuestUnreadable(f"the metadata of a volume group is damaged after {token[:40]!r}")
    if len(stack) > 1:
        raise GuestUnreadable("the metadata of a volume group is cut off")
    return top


def _tokens(text: str) -> Iterator[str]:
    """Words, marks, and strings with their first quote."""
    place = 0
    for _ in range(MAX_TOKENS):
        if place == len(text):
            return
        match = _TOKEN.match(text, place)
        if match is None:
            raise GuestUnreadable("the metadata of a volume group holds what is no word")
        place = match.end()
        if match.lastgroup is not None:
            yield match.group()
    raise GuestUnreadable("the metadata of a volume group has too many words")


def _value(tokens: Iterator[str]) -> Value:
    token = next(tokens, "")
    if token != "[":
        return _scalar(token)
    found: list[str | int] = []
    for token in tokens:
        if token == "]":
            return found
        found.append(_scalar(token))
    raise GuestUnreadable("the metadata of a volume group is cut off in an array")


def _scalar(token: str) -> str | int:
    if token.startswith('"'):
        return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
    if token in ("", "{", "}", "=", "[", "]"):
        raise GuestUnreadable("the metadata of a volume group lacks a value")
    if token.lstrip("-").isdecimal() and token.isascii() and len(token) <= MAX_NUMBER_DIGITS:
        return int(token) if token.count("-") <= 1 else token
    return token


def section(parent: Section, name: str) -> Section:
    """The section ``name``; an empty one when there is none."""
    found = parent.get(name)
    return found if isinstance(found, dict) else {}


def sections(parent: Section) -> Iterator[tuple[str, Section]]:
    """All sections of a section, in order."""
    for name, found in parent.items():
        if isinstance(found, dict):
            yield name, found


def text_of(parent: Section, name: str) -> str:
    """A string; empty when there is none."""
    found = parent.get(name)
    return found if isinstance(found, str) else ""


def number_of(parent: Section, name: str, most: int) -> int:
    """A number from 0 to ``most``. Raises `GuestUnreadable` when it is missing or out of range."""
    found = parent.get(name)
    if not isinstance(found, int) or not 0 <= found <= most:
        raise GuestUnreadable(f"{name} in the metadata of a volume group is {found!r}"[:120])
    return found


def list_of(parent: Section, name: str) -> list[str | int]:
    """An array; empty when there is none."""
    found = parent.get(name)
    return found if isinstance(found, list) else []

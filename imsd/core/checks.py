"""Checks of request fields. Each returns the value as it will be stored, or raises `InvalidRequest`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NoReturn

from imsd.contract import InvalidRequest

from . import limits


def refuse(field: str, message: str, hint: str = "", reason: str | None = None) -> NoReturn:
    raise InvalidRequest(message, field=field, hint=hint, reason=reason)


def project_id(value: str) -> str:
    if not value:
        return limits.DEFAULT_PROJECT
    if not limits.PROJECT.match(value):
        refuse("project_id", "a project id has 1 to 64 letters, digits, - or _")
    return value


def uuid(field: str, value: str) -> str:
    if not value:
        refuse(field, f"{field} is missing")
    if not limits.UUID.match(value):
        refuse(field, f"{value[:64]!r} is not an id", "ids are UUIDs in lower case")
    return value


def request_id(value: str) -> str:
    if value and not limits.REQUEST_ID.match(value):
        refuse("request_id", "a request id has 1 to 128 printable characters without spaces")
    return value


def name(value: str) -> str:
    """The name of an image. Raises InvalidRequest (IMAGE_NAME_MISSING, _TOO_LONG, _INVALID)."""
    if not value:
        refuse(
            "name", "name is missing", "give the image a name of 1 to 128 characters", "IMAGE_NAME_MISSING"
        )
    if len(value) > limits.MAX_NAME:
        refuse(
            "name",
            f"the name has {len(value)} characters, at most {limits.MAX_NAME} are allowed",
            reason="IMAGE_NAME_TOO_LONG",
        )
    if not limits.NAME.match(value):
        refuse(
            "name",
            f"{value!r} cannot be a name",
            "use letters, digits, spaces and - . _ without a space at either end",
            "IMAGE_NAME_INVALID",
        )
    return value


def description(value: str) -> str:
    """Raises InvalidRequest (DESCRIPTION_TOO_LONG, DESCRIPTION_INVALID)."""
    if len(value) > limits.MAX_DESCRIPTION:
        refuse(
            "description",
            f"the description is longer than {limits.MAX_DESCRIPTION} characters",
            reason="DESCRIPTION_TOO_LONG",
        )
    if limits.NOT_IN_DESCRIPTION.search(value):
        refuse(
            "description",
            "a description contains no carriage return, < or >",
            reason="DESCRIPTION_INVALID",
        )
    return value


def text(field: str, value: str, longest: int) -> str:
    if len(value) > longest:
        refuse(field, f"{field} is longer than {longest} characters")
    if "\x00" in value:
        refuse(field, f"{field} contains a zero character")
    return value


def number(field: str, value: int, lowest: int, highest: int) -> int:
    if not lowest <= value <= highest:
        refuse(field, f"{field} is {value}, but must be {lowest} to {highest}")
    return value


def ram(min_ram_mb: int, max_ram_mb: int) -> tuple[int, int]:
    number("min_ram_mb", min_ram_mb, 0, limits.MAX_RAM_MB)
    number("max_ram_mb", max_ram_mb, 0, limits.MAX_RAM_MB)
    if max_ram_mb and max_ram_mb < min_ram_mb:
        refuse("max_ram_mb", f"max_ram_mb {max_ram_mb} is less than min_ram_mb {min_ram_mb}")
    return min_ram_mb, max_ram_mb


def tags(value: Mapping[str, str], most: int = limits.MAX_TAGS) -> dict[str, str]:
    """The tags of an image, without spaces at the ends (contract §8.3).

    Raises InvalidRequest (TOO_MANY_TAGS; IMG.0115, IMG.0116).
    """
    tag_count(len(value), most)
    found = dict(tag(key, content) for key, content in value.items())
    if len(found) < len(value):
        refuse("tags", "two tags have the same key but for spaces at its ends")
    return dict(sorted(found.items()))  # the order of a map on the wire means nothing


def tag(key: str, content: str) -> tuple[str, str]:
    key, content = key.strip(" "), content.strip(" ")
    if not limits.TAG_KEY.match(key):
        refuse("tags", f"{key[:64]!r} cannot be a tag key", "1 to 36 letters, digits, _ or -")
    if not limits.TAG_VALUE.match(content):
        refuse("tags", f"{content[:64]!r} cannot be a tag value", "0 to 43 letters, digits, _ - or .")
    return key, content


def tag_count(count: int, most: int) -> None:
    if count > most:
        raise InvalidRequest(
            f"{count} tags, but an image has at most {most}",
            reason="TOO_MANY_TAGS",
            field="tags",
            hint="take tags off that are not needed",
        )


def properties(value: Mapping[str, str], known: Collection[str] = ()) -> dict[str, str]:
    """Properties of an image. New keys, those not ``known``, are in lower case (contract §3.9)."""
    if len(value) > limits.MAX_PROPERTIES:
        refuse("properties", f"{len(value)} properties, but an image has at most {limits.MAX_PROPERTIES}")
    for key, content in value.items():
        if not limits.PROPERTY_KEY.match(key) or (key != key.lower() and key not in known):
            allowed = "1 to 64 lower-case letters, digits, _ - or ."
            refuse("properties", f"{key[:80]!r} cannot be a property", allowed)
        text(f"properties.{key}", content, limits.MAX_PROPERTY_VALUE)
    return dict(value)


def matching(field: str, value: str, pattern: re.Pattern[str], message: str) -> str:
    if value and not pattern.match(value):
        refuse(field, message)
    return value


def page_size(value: int) -> int:
    return number("page_size", value, 0, limits.MAX_PAGE) or limits.DEFAULT_PAGE


def etag(value: str) -> int | None:
    """The version that an etag names; None for no etag."""
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        refuse("etag", f"{value[:32]!r} is not an etag of imsd")
    return int(value)

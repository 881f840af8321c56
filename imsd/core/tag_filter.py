"""What a list by tags may ask for (contract §3.12), checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from imsd.metadata.tags import TagQuery

from . import checks
from .image_access import THERE
from .service_limits import RULES

# Keys of one condition, and values of one key.
MAX_KEYS: Final = 10
MAX_VALUES: Final = 10

# What is looked for may be longer than what an image can bear.
MAX_KEY: Final = 127
MAX_VALUE: Final = 255

# Of a list of images: an image has no more, whatever the operator allows.
MAX_TAGS: Final = RULES["max_tags_per_image"].highest

NAME: Final = "resource_name"
ID: Final = "resource_id"

Condition = tuple[str, Sequence[str]]


def tag_query(
    project_id: str,
    conditions: Mapping[str, Sequence[Condition]],
    matches: Sequence[tuple[str, str]],
    *,
    is_untagged: bool = False,
) -> TagQuery:
    """The query of a filter. ``conditions``: by field, ``all``, ``any``, ``not_all`` and ``not_any``.

    Raises InvalidRequest.
    """
    # Of images without a tag no condition asks anything.
    lists = {field: {} if is_untagged else _condition(field, conditions.get(field, ())) for field in LISTS}
    matched = _matches(matches)
    return TagQuery(
        project_id=checks.project_id(project_id),
        statuses=sorted(THERE),
        is_untagged=is_untagged,
        has_all=lists["all"],
        has_any=lists["any"],
        not_all=lists["not_all"],
        not_any=lists["not_any"],
        name=matched.get(NAME),
        id=matched.get(ID),
    )


LISTS: Final = ("all", "any", "not_all", "not_any")


def keys(field: str, given: Sequence[str]) -> list[str]:
    """Keys without spaces at their ends, each once. Raises InvalidRequest."""
    if not 1 <= len(given) <= MAX_KEYS:
        checks.refuse(field, f"{len(given)} keys, but there must be 1 to {MAX_KEYS}")
    found = [checks.text(field, key.strip(" "), MAX_KEY) for key in given]
    if not all(found):
        checks.refuse(field, "a key is empty")
    _require_unique(field, "key", found)
    return found


def wanted_tags(given: Mapping[str, str]) -> dict[str, str]:
    """Tags that an image of a list must have, without spaces at their ends; an empty value: any.

    As lenient as a list by tags (contract §8.3), and as many as an image can have. Raises InvalidRequest.
    """
    field = "tags"
    if len(given) > MAX_TAGS:
        checks.refuse(field, f"{len(given)} tags, but a list can ask for {MAX_TAGS}")
    found = {}
    for key, value in sorted(given.items()):
        [name] = keys(field, [key])
        if name in found:
            checks.refuse(field, f"the key {name!r} is there twice")
        [found[name]] = _values(field, name, [value])
    return found


def _condition(field: str, given: Sequence[Condition]) -> dict[str, Sequence[str]]:
    if not given:
        return {}
    field = f"filter.{field}"
    names = keys(field, [key for key, _ in given])
    return {name: _values(field, name, values) for name, (_, values) in zip(names, given, strict=True)}


def _values(field: str, key: str, given: Sequence[str]) -> Sequence[str]:
    if len(given) > MAX_VALUES:
        checks.refuse(field, f"{len(given)} values of {key!r}, but there may be {MAX_VALUES}")
    found = [checks.text(field, value.strip(" "), MAX_VALUE) for value in given]
    _require_unique(field, f"value of {key!r}", found)
    return found


def _matches(given: Sequence[tuple[str, str]]) -> dict[str, str]:
    field = "filter.matches"
    for key, value in given:
        if key not in (NAME, ID):
            checks.refuse(field, f"{key[:64]!r} cannot be matched", f"use {NAME} or {ID}")
        checks.text(field, value, MAX_VALUE)
    _require_unique(field, "key", [key for key, _ in given])
    return dict(given)


def _require_unique(field: str, what: str, given: Sequence[str]) -> None:
    for number, each in enumerate(given):
        if each in given[:number]:
            checks.refuse(field, f"the {what} {each!r} is there twice")

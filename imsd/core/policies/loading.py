"""Policies, read from their files when the daemon starts: each is checked, and what is wrong has a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cedarpy
from cedarpy import pst

from imsd.contract import InvalidRequest

from .inquiry import actions_that_need_an_image, named_groups, reaches_a_list, reads_an_image
from .statements import Statement, split_statements

SHIPPED: Final = Path(__file__).parent
SCHEMA_FILE: Final = SHIPPED / "imsd.cedarschema"
MAX_FILE_BYTES: Final = 1 << 20
MAX_POLICIES: Final = 1000
POLICY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/\-]{0,63}\Z")

# What Cedar says before it says what is wrong; a policy is checked alone, its number tells nothing.
_PREFIX = re.compile(r"^for policy `policy\d+`[,:] ")


@dataclass(frozen=True, slots=True)
class PolicyText:
    """A policy as it stands in a file; ``node``: its parts."""

    id: str
    path: Path
    line: int
    text: str
    node: pst.Template

    @property
    def is_shipped(self) -> bool:
        return self.path.parent == SHIPPED

    @property
    def effect(self) -> str:
        return self.node.effect


@dataclass(frozen=True, slots=True)
class LoadedPolicies:
    """``texts``: in the order they were read. ``groups``: those that some policy names.

    ``image_actions``: actions and groups of actions whose answer may depend on the image.
    """

    schema: cedarpy.Schema
    texts: tuple[PolicyText, ...]
    groups: frozenset[str]
    image_actions: frozenset[str]


def load_policies(directory: Path | None = None) -> LoadedPolicies:
    """The policies of the service, and the ``*.cedar`` files of ``directory`` in the order of their names.

    Reads files. Raises InvalidRequest (INVALID_CONFIGURATION) with the file and the line at fault.
    """
    schema = cedarpy.Schema.from_str(SCHEMA_FILE.read_text())
    texts: dict[str, PolicyText] = {}
    for path in (*_files(SHIPPED), *(_files(directory) if directory else ())):
        for statement in split_statements(_read(path)):
            policy = _checked(path, statement, schema)
            if other := texts.get(policy.id):
                raise _refused(
                    path, statement.line, f"there is another policy {policy.id!r}, {_place(other)}"
                )
            texts[policy.id] = policy
            if len(texts) > MAX_POLICIES:
                raise _refused(path, statement.line, f"there are more than {MAX_POLICIES} policies")
    nodes = [policy.node for policy in texts.values()]
    return LoadedPolicies(
        schema, tuple(texts.values()), named_groups(nodes), actions_that_need_an_image(nodes)
    )


def _files(directory: Path) -> Iterator[Path]:
    """Hidden files are left out: editors and configuration tools leave some behind."""
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise _unreadable(directory, error) from error
    for name in names:
        if name.endswith(".cedar") and not name.startswith("."):
            yield directory / name


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise _refused(path, 0, "it is no file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > MAX_FILE_BYTES:
        raise _refused(path, 0, f"it has more than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(path, line, "this is not UTF-8") from error


def _checked(path: Path, statement: Statement, schema: cedarpy.Schema) -> PolicyText:
    node = _parsed(path, statement)
    name = node.annotations.get("id", "")
    if not POLICY_ID.match(name):
        raise _refused(
            path,
            statement.line,
            'a policy must be named: write @id("...") above it, 1 to 64 letters, digits and - . _ /',
        )
    # Before Cedar's own check, which would say of such a policy that it reaches nothing, or not even that.
    if reads_an_image(node) and reaches_a_list(node):
        raise _refused(
            path,
            statement.line,
            f"policy {name!r} looks at images, and would have to be asked for every row of a list",
            "lists are decided once for a project: name actions other than ims:images:list, and no groups, "
            'as in action in [Action::"ims:images:get", Action::"ims:images:export"]',
        )
    result = cedarpy.validate_policies(statement.text, schema)
    if not result.validation_passed:
        said = _PREFIX.sub("", result.errors[0].error) if result.errors else "it does not fit the schema"
        raise _refused(path, statement.line, f"policy {name!r}: {said}")
    return PolicyText(name, path, statement.line, statement.text, node)


def _parsed(path: Path, statement: Statement) -> pst.Template:
    try:
        found = cedarpy.policies_to_pst(statement.text)
    except ValueError as error:
        raise _refused(path, statement.line, f"this is no policy: {error}") from error
    policies = list(found.static_policies.values())
    if len(policies) != 1:
        raise _refused(
            path, statement.line, "?principal and ?resource are for templates: nobody fills them in"
        )
    return policies[0]


def _place(policy: PolicyText) -> str:
    return f"{policy.path} line {policy.line}"


def _unreadable(path: Path, error: OSError) -> InvalidRequest:
    return _refused(path, 0, f"it cannot be read: {error.strerror}")


def _refused(path: Path, line: int, message: str, hint: str = "") -> InvalidRequest:
    place = f"{path}, line {line}" if line else str(path)
    return InvalidRequest(
        f"{place}: {message}",
        reason="INVALID_CONFIGURATION",
        field="policy_dir",
        hint=hint or "imsd/core/policies/README.md tells how a policy is written",
    )

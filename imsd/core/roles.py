"""The roles that can be granted, and which of those granted count.

A role is a name. What it allows is written in the policies (`imsd/core/policies/`), and only there; on what
others it depends is written here. A role without a role that it depends on allows nothing (seed, chapter 8,
Table 8-1: "you also need to attach any existing role dependencies").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .caller import EVERY_PROJECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """``depends_on``: names of roles without which it does not count, in the same project.

    ``source``: the table of the seed that it stands in; empty for imsd's own.
    """

    name: str
    summary: str
    source: str = ""
    depends_on: tuple[str, ...] = ()


TENANT_ADMINISTRATOR: Final = "Tenant Administrator"
IMS_ADMINISTRATOR: Final = "IMS Administrator"
SERVER_ADMINISTRATOR: Final = "Server Administrator"
FULL_ACCESS: Final = "IMS FullAccess"
READ_ONLY_ACCESS: Final = "IMS ReadOnlyAccess"
OPERATOR: Final = "IMS Operator"
KMS_ADMINISTRATOR: Final = "KMS Administrator"

_ROLES = (
    Role(
        name=IMS_ADMINISTRATOR,
        summary="Everything that a project does with its images, together with the role it depends on.",
        source="Table 8-1",
        depends_on=(TENANT_ADMINISTRATOR,),
    ),
    Role(
        name=FULL_ACCESS,
        summary="Everything that a project does with its images.",
        source="Table 8-2",
    ),
    Role(
        name=OPERATOR,
        summary="Runs the service: publishes images, sets quotas, keeps users and projects; granted in *.",
    ),
    Role(
        name=READ_ONLY_ACCESS,
        summary="Looks at what a project has, and takes no bytes away.",
        source="Table 8-2",
    ),
    Role(
        name=KMS_ADMINISTRATOR,
        summary="Makes, disables, rotates and deletes the keys of a project, and encrypts with them.",
        source="contract §12.1",
    ),
    Role(
        name=SERVER_ADMINISTRATOR,
        summary="Creates, deletes, queries, modifies and uploads images.",
        source="Table 8-1",
        depends_on=(IMS_ADMINISTRATOR,),
    ),
    Role(
        name=TENANT_ADMINISTRATOR,
        summary="Allows nothing of this service by itself: other roles depend on it.",
        source="Table 8-1",
    ),
)

# By name, in order.
ROLES: Final[Mapping[str, Role]] = {role.name: role for role in _ROLES}


def missing_roles(name: str, held: Iterable[str]) -> tuple[str, ...]:
    """What ``name`` depends on, directly or through others, and is not among ``held``; in order."""
    held = frozenset(held)
    return tuple(sorted(each for each in _needed(name) if each not in held))


def effective_roles(
    granted: Mapping[str, frozenset[str]], project_id: str
) -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
    """Which roles count in a project, and which do not with the roles that each of them misses.

    ``granted``: role names by project, or by `EVERY_PROJECT`. What is granted in every project counts in each
    of them, as a dependency too. With `EVERY_PROJECT` as ``project_id`` only what is granted there counts. A
    role that nobody knows (a later version granted it) does not count, and misses nothing.
    """
    held = granted.get(project_id, frozenset()) | granted.get(EVERY_PROJECT, frozenset())
    ignored = {
        name: missing_roles(name, held)
        for name in sorted(held)
        if name not in ROLES or missing_roles(name, held)
    }
    return frozenset(held - ignored.keys()), ignored


def _needed(name: str) -> set[str]:
    needed: set[str] = set()
    waiting = [name]
    while waiting:
        role = ROLES.get(waiting.pop())
        for each in role.depends_on if role else ():
            if each not in needed:
                needed.add(each)
                waiting.append(each)
    return needed

"""Checks of what a request says of users, groups, projects, roles and tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from imsd.metadata.identity_records import PrincipalKind

from . import limits
from .caller import EVERY_PROJECT
from .checks import refuse
from .roles import ROLES

# Of users and groups. "*" stands for all.
NAME_OF_PRINCIPAL = re.compile(r"(?!\*\Z)[\x21-\x7e]{1,128}\Z")

MAX_CERTIFICATE_ID: Final = 255

MAX_GROUP_USERS: Final = 1000
MAX_GROUPS_OF_USER: Final = 100
MAX_GRANTS_OF_PRINCIPAL: Final = 1000
MAX_LIVE_TOKENS: Final = 100

MIN_LIFETIME_SECONDS: Final = 60
DEFAULT_LIFETIME_SECONDS: Final = 30 * 86400
MAX_LIFETIME_SECONDS: Final = 366 * 86400


def new_project_id(value: str) -> str:
    if not limits.PROJECT.match(value):
        refuse("id", "a project id has 1 to 64 letters, digits, - or _")
    return value


def principal_name(field: str, value: str) -> str:
    """The id of a user or a group."""
    if not NAME_OF_PRINCIPAL.match(value):
        refuse(
            field,
            f"{value[:128]!r} cannot be the name of a user or group" if value else f"{field} is missing",
            "use 1 to 128 printable ASCII characters without spaces",
        )
    return value


def principal_names(field: str, values: Iterable[str]) -> Sequence[str]:
    """Each once, in order."""
    names = sorted({principal_name(field, value) for value in values})
    if len(names) > MAX_GROUP_USERS:
        refuse(field, f"{len(names)} users, but a call takes at most {MAX_GROUP_USERS}")
    return names


def principal_id(kind: PrincipalKind, value: str) -> str:
    if kind is not PrincipalKind.CERTIFICATE:
        return principal_name("principal_id", value)
    if not 1 <= len(value) <= MAX_CERTIFICATE_ID or not value.isprintable():
        refuse(
            "principal_id",
            f"{value[:128]!r} cannot be what a certificate says",
            "give its SPIFFE id, spiffe://…, or its common name, of 1 to 255 printable characters",
        )
    return value


def granted_project(value: str) -> str:
    """A project, or "*"."""
    if value != EVERY_PROJECT and not limits.PROJECT.match(value):
        refuse("project_id", 'name a project, of 1 to 64 letters, digits, - or _, or "*" for every project')
    return value


def known_role(value: str) -> str:
    if value not in ROLES:
        refuse("role", f"there is no role {value[:64]!r}", f"roles are: {', '.join(ROLES)}")
    return value


def token_name(value: str) -> str:
    if not limits.NAME.match(value):
        refuse(
            "name",
            f"{value[:128]!r} cannot be the name of a token" if value else "name is missing",
            "say what the token is for: 1 to 128 letters, digits, spaces and - . _, no space at either end",
        )
    return value


def lifetime(seconds: int) -> int:
    if seconds and not MIN_LIFETIME_SECONDS <= seconds <= MAX_LIFETIME_SECONDS:
        refuse(
            "lifetime_seconds",
            f"lifetime_seconds is {seconds}, but must be {MIN_LIFETIME_SECONDS} to {MAX_LIFETIME_SECONDS}",
            "a token is good for one minute to 366 days",
        )
    return seconds or DEFAULT_LIFETIME_SECONDS

"""Who may call, as rows: projects, users, groups, roles granted, API tokens. Times are UTC and aware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class PrincipalKind(StrEnum):
    """To whom a role is granted."""

    USER = "user"
    GROUP = "group"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRecord:
    id: str
    description: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """``groups``: names, in order."""

    id: str
    description: str
    created_at: datetime
    groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """``user_ids``: in order."""

    id: str
    description: str
    created_at: datetime
    user_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRecord:
    """A role of one principal in one project, or in every project ("*")."""

    principal_kind: PrincipalKind
    principal_id: str
    project_id: str
    role: str
    created_at: datetime

    @property
    def principal(self) -> tuple[PrincipalKind, str]:
        return self.principal_kind, self.principal_id


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """``secret_hash``: the SHA-256 of the whole secret; never shown."""

    id: str
    user_id: str
    name: str
    secret_hash: bytes
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.expires_at

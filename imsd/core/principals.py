"""What a caller is in and was granted: its groups, and its roles by project."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.metadata import identity as identity_rows
from imsd.metadata import role_grants
from imsd.metadata.database import Database
from imsd.metadata.identity_records import GrantRecord, PrincipalKind

from .remembered import Changes, Remembered

# How long another daemon on the same database may not know of a change.
REMEMBER_SECONDS: Final = 5.0

MAX_REMEMBERED: Final = 10_000

# Of one caller, through all of its groups; what is beyond that does not count.
MAX_GRANTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """``roles``: names of granted roles by project, or by `EVERY_PROJECT`."""

    groups: frozenset[str] = frozenset()
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)


class Principals:
    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self.changes = Changes()
        self._standings: Remembered[tuple[PrincipalKind, str, frozenset[str]], Standing] = Remembered(
            self.changes, REMEMBER_SECONDS, MAX_REMEMBERED, monotonic
        )

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that changes who may call, or what; seen by the next call of this daemon."""
        try:
            async with self._database.transaction() as c:
                yield c
        finally:
            self.changes.happened()

    async def of_user(self, user_id: str, more_groups: frozenset[str] = frozenset()) -> Standing:
        """``more_groups``: those that its token names, beside the ones that it is in here."""
        return await self._standing(PrincipalKind.USER, user_id, more_groups)

    async def of_certificate(self, certificate_id: str) -> Standing:
        return await self._standing(PrincipalKind.CERTIFICATE, certificate_id, frozenset())

    async def _standing(self, kind: PrincipalKind, principal_id: str, groups: frozenset[str]) -> Standing:
        key = (kind, principal_id, groups)
        if found := self._standings.get(key):
            return found
        seen = self.changes.count
        async with self._database.reading() as c:
            if kind is PrincipalKind.USER:
                own = await identity_rows.groups_of(c, [principal_id])
                groups |= frozenset(own[principal_id])
            standing = Standing(groups, roles_by_project(await grants_of(c, kind, principal_id, groups)))
        self._standings.put(key, standing, seen)
        return standing


async def grants_of(
    c: AsyncConnection, kind: PrincipalKind, principal_id: str, groups: Iterable[str]
) -> list[GrantRecord]:
    """All roles of a caller: its own, then those of its groups."""
    own = await role_grants.grants_of(c, kind, [principal_id], limit=MAX_GRANTS)
    left = MAX_GRANTS - len(own)
    return own + await role_grants.grants_of(c, PrincipalKind.GROUP, list(groups), limit=left)


def roles_by_project(grants: Iterable[GrantRecord]) -> dict[str, frozenset[str]]:
    roles: dict[str, set[str]] = {}
    for grant in grants:
        roles.setdefault(grant.project_id, set()).add(grant.role)
    return {project_id: frozenset(names) for project_id, names in roles.items()}

"""Roles: granted, taken away, listed, each with what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import LimitExceeded, NotFound
from imsd.metadata import identity as identity_rows
from imsd.metadata import role_grants
from imsd.metadata.identity_records import GrantRecord, PrincipalKind
from imsd.metadata.role_grants import GrantQuery

from . import checks, identity_checks
from .caller import EVERY_PROJECT, Caller, CallerKind
from .principals import Principals, grants_of, roles_by_project
from .projects import unknown_project
from .roles import ROLES, missing_roles
from .runtime import Runtime

# Roles that others depend on.
NEEDED: Final = tuple(sorted({needed for name in ROLES for needed in missing_roles(name, ())}))

# Of the principals of one page, in all projects; of what is beyond that, roles are said to be missing.
MAX_HELD: Final = 100_000

Principal = tuple[PrincipalKind, str]


@dataclass(frozen=True, slots=True)
class Grant:
    """``missing``: roles without which it does not count, and that its principal does not have there."""

    record: GrantRecord
    missing: Sequence[str] = ()


class Grants:
    def __init__(self, runtime: Runtime, principals: Principals) -> None:
        self._runtime = runtime
        self._principals = principals

    async def grant(self, kind: PrincipalKind, principal_id: str, project_id: str, role: str) -> Grant:
        """Raises InvalidRequest, NotFound (PROJECT_UNKNOWN for the project), LimitExceeded."""
        record = self._checked(kind, principal_id, project_id, identity_checks.known_role(role))
        async with self._principals.changing() as c:
            await _require_principal(c, kind, principal_id)
            if project_id != EVERY_PROJECT and not await identity_rows.known_project(c, project_id):
                raise unknown_project(project_id)
            record = await role_grants.insert_grant(c, record)
            limit = identity_checks.MAX_GRANTS_OF_PRINCIPAL
            if await role_grants.count_grants(c, kind, principal_id) > limit:
                raise LimitExceeded(
                    f"{kind} {principal_id!r} has {limit} roles already",
                    hint='grant a role in every project ("*"), or to a group',
                )
            return (await _with_missing(c, [record]))[0]

    async def revoke(self, kind: PrincipalKind, principal_id: str, project_id: str, role: str) -> None:
        """Raises InvalidRequest, NotFound."""
        # A role that this version does not know can still be taken away.
        record = self._checked(kind, principal_id, project_id, checks.text("role", role, 64))
        async with self._principals.changing() as c:
            if not await role_grants.delete_grant(c, record):
                place = "every project" if project_id == EVERY_PROJECT else f"project {project_id}"
                raise NotFound(
                    f"{kind} {principal_id!r} was not granted role {role!r} in {place}",
                    hint="see what is granted with `imsctl role list`",
                )

    async def list(self, query: GrantQuery, page_size: int, page_token: str) -> tuple[Sequence[Grant], str]:
        """A page, and the token of the next one. Raises InvalidRequest."""
        limit = checks.page_size(page_size)
        marker = self._runtime.tokens.read(query, page_token)
        after = role_grants.place_from(str(marker[0])) if marker else None
        async with self._runtime.database.reading() as c:
            found = await role_grants.list_grants(c, query, limit + 1, after)
            grants = await _with_missing(c, found[:limit])
        if len(found) <= limit:
            return grants, ""
        place = role_grants.text_of(role_grants.place_of(found[limit - 1]))
        return grants, self._runtime.tokens.make(query, (place, ""))

    async def of_caller(self, caller: Caller) -> Sequence[Grant]:
        """All that was granted to a caller and its groups; nothing to the local administrator."""
        if caller.is_local_administrator:
            return []
        is_certificate = caller.kind is CallerKind.CERTIFICATE
        kind = PrincipalKind.CERTIFICATE if is_certificate else PrincipalKind.USER
        async with self._runtime.database.reading() as c:
            records = await grants_of(c, kind, caller.id, caller.groups)
        roles = roles_by_project(records)
        everywhere = roles.get(EVERY_PROJECT, frozenset())
        return [
            Grant(each, missing_roles(each.role, roles[each.project_id] | everywhere)) for each in records
        ]

    def _checked(self, kind: PrincipalKind, principal_id: str, project_id: str, role: str) -> GrantRecord:
        return GrantRecord(
            principal_kind=kind,
            principal_id=identity_checks.principal_id(kind, principal_id),
            project_id=identity_checks.granted_project(project_id),
            role=role,
            created_at=self._runtime.clock(),
        )


async def _require_principal(c: AsyncConnection, kind: PrincipalKind, principal_id: str) -> None:
    """Of a certificate nobody keeps anything but its roles."""
    if kind is PrincipalKind.CERTIFICATE:
        return
    is_known = identity_rows.known_user if kind is PrincipalKind.USER else identity_rows.known_group
    if not await is_known(c, principal_id):
        raise NotFound(
            f"there is no {kind} {principal_id!r}",
            field="principal_id",
            hint=f"make it first with `imsctl {kind} create`",
        )


async def _with_missing(c: AsyncConnection, records: Sequence[GrantRecord]) -> list[Grant]:
    dependent = {each.principal for each in records if missing_roles(each.role, ())}
    users = [name for kind, name in dependent if kind is PrincipalKind.USER]
    groups = await identity_rows.groups_of(c, users)
    held = await _held(
        c, dependent | {(PrincipalKind.GROUP, each) for names in groups.values() for each in names}
    )

    def missing(record: GrantRecord) -> Sequence[str]:
        principals = {record.principal}
        if record.principal_kind is PrincipalKind.USER:
            # What a user's groups have counts for the user, too.
            principals |= {(PrincipalKind.GROUP, name) for name in groups.get(record.principal_id, ())}
        places = [
            (each, project_id) for each in principals for project_id in (record.project_id, EVERY_PROJECT)
        ]
        return missing_roles(record.role, {role for place in places for role in held.get(place, ())})

    return [Grant(record, missing(record) if record.principal in dependent else ()) for record in records]


async def _held(c: AsyncConnection, principals: set[Principal]) -> Mapping[tuple[Principal, str], set[str]]:
    """Which of the roles that others depend on the principals have, by project."""
    held: dict[tuple[Principal, str], set[str]] = {}
    for kind in PrincipalKind:
        names = [name for each, name in principals if each is kind]
        for grant in await role_grants.grants_of(c, kind, names, limit=MAX_HELD, roles=NEEDED):
            held.setdefault((grant.principal, grant.project_id), set()).add(grant.role)
    return held

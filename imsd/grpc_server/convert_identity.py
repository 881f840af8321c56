"""Between records and messages of who may call."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import InvalidRequest
from imsd.core import identity_checks
from imsd.core.caller import Caller, CallerKind
from imsd.core.grants import Grant
from imsd.metadata.identity_records import (
    GroupRecord,
    PrincipalKind,
    ProjectRecord,
    TokenRecord,
    UserRecord,
)
from imsd.metadata.role_grants import GrantQuery
from imsd.v1 import identity_pb2 as pb

from .convert import time_to_pb

_CALLERS = {
    CallerKind.LOCAL_ADMINISTRATOR: pb.CALLER_KIND_LOCAL_ADMINISTRATOR,
    CallerKind.API_TOKEN: pb.CALLER_KIND_API_TOKEN,
    CallerKind.OIDC: pb.CALLER_KIND_OIDC,
    CallerKind.CERTIFICATE: pb.CALLER_KIND_CERTIFICATE,
}
_PRINCIPALS = {
    PrincipalKind.USER: pb.PRINCIPAL_KIND_USER,
    PrincipalKind.GROUP: pb.PRINCIPAL_KIND_GROUP,
    PrincipalKind.CERTIFICATE: pb.PRINCIPAL_KIND_CERTIFICATE,
}


def principal_kind_from_pb(value: int) -> PrincipalKind:
    """Raises InvalidRequest."""
    for kind, number in _PRINCIPALS.items():
        if number == value:
            return kind
    raise InvalidRequest(
        "principal_kind is missing" if not value else f"{value} is no kind of principal",
        field="principal_kind",
        hint="say whether it is a user, a group or a certificate",
    )


def grant_query_from_pb(request: pb.ListRoleGrantsRequest) -> GrantQuery:
    """Raises InvalidRequest."""
    kind = principal_kind_from_pb(request.principal_kind) if request.principal_kind else None
    principal_id, project_id = request.principal_id, request.project_id
    if principal_id:
        # Of any kind: what can be the name of a user can be that of a certificate, too.
        principal_id = identity_checks.principal_id(kind or PrincipalKind.CERTIFICATE, principal_id)
    if project_id:
        project_id = identity_checks.granted_project(project_id)
    return GrantQuery(principal_kind=kind, principal_id=principal_id, project_id=project_id)


def caller_to_pb(caller: Caller, grants: Sequence[Grant]) -> pb.Caller:
    return pb.Caller(
        kind=_CALLERS[caller.kind],
        id=caller.id,
        groups=sorted(caller.groups),
        roles=map(grant_to_pb, grants),
        token_id=caller.token_id,
        peer=caller.peer,
        is_administrator=caller.is_local_administrator,
    )


def project_to_pb(record: ProjectRecord) -> pb.Project:
    return pb.Project(id=record.id, description=record.description, created_at=time_to_pb(record.created_at))


def user_to_pb(record: UserRecord) -> pb.User:
    return pb.User(
        id=record.id,
        description=record.description,
        groups=record.groups,
        created_at=time_to_pb(record.created_at),
    )


def group_to_pb(record: GroupRecord) -> pb.Group:
    return pb.Group(
        id=record.id,
        description=record.description,
        user_ids=record.user_ids,
        created_at=time_to_pb(record.created_at),
    )


def grant_to_pb(grant: Grant) -> pb.RoleGrant:
    record = grant.record
    return pb.RoleGrant(
        principal_kind=_PRINCIPALS[record.principal_kind],
        principal_id=record.principal_id,
        project_id=record.project_id,
        role=record.role,
        missing_roles=grant.missing,
        created_at=time_to_pb(record.created_at),
    )


def token_to_pb(record: TokenRecord) -> pb.Token:
    return pb.Token(
        id=record.id,
        user_id=record.user_id,
        name=record.name,
        created_at=time_to_pb(record.created_at),
        expires_at=time_to_pb(record.expires_at),
        revoked_at=time_to_pb(record.revoked_at),
        last_used_at=time_to_pb(record.last_used_at),
    )

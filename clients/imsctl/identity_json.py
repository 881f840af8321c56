"""What `--output json` prints of who may call; see `json_fields`."""

from __future__ import annotations

from imsd.v1 import identity_pb2

from . import wording
from .json_fields import Fields, enum_text


def project_fields(project: identity_pb2.Project) -> Fields:
    return {
        "id": project.id,
        "description": project.description,
        "created_at": wording.rfc3339(project.created_at),
    }


def user_fields(user: identity_pb2.User) -> Fields:
    return {
        "id": user.id,
        "description": user.description,
        "groups": list(user.groups),
        "created_at": wording.rfc3339(user.created_at),
    }


def group_fields(group: identity_pb2.Group) -> Fields:
    return {
        "id": group.id,
        "description": group.description,
        "users": list(group.user_ids),
        "created_at": wording.rfc3339(group.created_at),
    }


def grant_fields(grant: identity_pb2.RoleGrant) -> Fields:
    return {
        "principal_kind": enum_text(identity_pb2.PrincipalKind, grant.principal_kind),
        "principal": grant.principal_id,
        "project_id": grant.project_id,
        "role": grant.role,
        "missing_roles": list(grant.missing_roles),
        "created_at": wording.rfc3339(grant.created_at),
    }


def token_fields(token: identity_pb2.Token) -> Fields:
    return {
        "id": token.id,
        "user": token.user_id,
        "name": token.name,
        "created_at": wording.rfc3339(token.created_at),
        "expires_at": wording.rfc3339(token.expires_at),
        "revoked_at": wording.rfc3339(token.revoked_at),
        "last_used_at": wording.rfc3339(token.last_used_at),
    }


def caller_fields(caller: identity_pb2.Caller) -> Fields:
    return {
        "kind": enum_text(identity_pb2.CallerKind, caller.kind),
        "id": caller.id,
        "administrator": caller.is_administrator,
        "groups": list(caller.groups),
        "roles": [grant_fields(grant) for grant in caller.roles],
        "token_id": caller.token_id,
        "peer": caller.peer,
    }

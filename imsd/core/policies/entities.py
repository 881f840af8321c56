"""What Cedar is told of a call: the caller, the image or project, and from where the call comes.

Everything is handed over as JSON or as pairs of type and id, never as text of Cedar's language: whatever an
id, a name or a tag holds, it is a value. The types are those of ``imsd.cedarschema``.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from imsd.core.caller import Caller, CallerKind
from imsd.core.roles import effective_roles
from imsd.metadata.records import ImageRecord

_TYPES: Final = {
    CallerKind.LOCAL_ADMINISTRATOR: "LocalAdministrator",
    CallerKind.API_TOKEN: "User",
    CallerKind.OIDC: "User",
    CallerKind.CERTIFICATE: "Certificate",
}
_AUTHENTICATIONS: Final = {
    CallerKind.LOCAL_ADMINISTRATOR: "unix_socket",
    CallerKind.API_TOKEN: "api_token",
    CallerKind.OIDC: "oidc",
    CallerKind.CERTIFICATE: "certificate",
}


@dataclass(frozen=True, slots=True)
class Uid:
    """The name of an entity: one of Cedar's types, and an id that may be any text."""

    type: str
    id: str

    def to_json(self) -> dict[str, str]:
        return {"type": self.type, "id": self.id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller in one project. ``roles``: those that count there; ``address``: an IP address, or empty."""

    uid: Uid
    authentication: str
    address: str = ""
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May this one do this? ``project_id``: in which the caller works, or "*".

    Two calls that ask the same question of the same image get the same answer.
    """

    principal: Principal
    action: str
    project_id: str
    resource: Uid


def project_uid(project_id: str) -> Uid:
    return Uid("Project", project_id)


def user_uid(user_id: str) -> Uid:
    return Uid("User", user_id)


def caller_uid(caller: Caller) -> Uid:
    return Uid(_TYPES[caller.kind], caller.id)


def principal_of(caller: Caller, project_id: str, named_groups: Collection[str]) -> Principal:
    """``caller`` in a project. Of its groups only those that some policy names make a difference."""
    roles, _ = effective_roles(caller.roles, project_id)
    return Principal(
        uid=caller_uid(caller),
        authentication=_AUTHENTICATIONS[caller.kind],
        address=address_of(caller.peer),
        groups=caller.groups.intersection(named_groups),
        roles=frozenset() if caller.is_local_administrator else roles,
    )


def address_of(peer: str) -> str:
    """The IP address of gRPC's "ipv4:192.0.2.1:7070" or "ipv6:[::1]:7070"; empty when there is none."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    text = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    # Of a socket that listens on both: a policy speaks of 192.0.2.1, not of ::ffff:192.0.2.1.
    return str(getattr(address, "ipv4_mapped", None) or address)


def request_of(question: Question) -> dict[str, Any]:
    context: dict[str, Any] = {
        "project": project_uid(question.project_id).to_json(),
        "authentication": question.principal.authentication,
    }
    if question.principal.address:
        context["address"] = {"__extn": {"fn": "ip", "arg": question.principal.address}}
    return {
        "principal": question.principal.uid.to_json(),
        "action": Uid("Action", question.action).to_json(),
        "resource": question.resource.to_json(),
        "context": context,
    }


def entities_of(question: Question, image: ImageRecord | None) -> str:
    """The entities of a question, as JSON. ``image``: the resource, if that is one."""
    principal = question.principal
    above = (*_uids("Role", principal.roles), *_uids("Group", principal.groups))
    entities = {principal.uid: _entity(principal.uid, {"id": principal.uid.id}, above)}
    if image is not None:
        entities[question.resource] = _image(image)
    elif question.resource not in entities:
        has_id = question.resource.type != "Project"
        entities[question.resource] = _entity(
            question.resource, {"id": question.resource.id} if has_id else {}
        )
    return json.dumps(list(entities.values()))


def _image(image: ImageRecord) -> dict[str, Any]:
    owner = project_uid(image.project_id)
    attributes = {
        "id": image.id,
        "owner": owner.to_json(),
        "name": image.name,
        "family": image.family,
        "status": str(image.status),
        "visibility": str(image.visibility),
        "kind": str(image.kind),
        "server_kind": str(image.server_kind),
        "disk_format": image.disk_format,
        "os_type": image.os_type,
        "os_version": image.os_version,
        "platform": image.platform,
        "architecture": image.architecture,
        "boot_mode": image.boot_mode,
        "origin_kind": image.origin_kind,
        "enterprise_project_id": image.enterprise_project_id,
        "virtual_size_bytes": image.virtual_size,
        "is_protected": image.is_protected,
        "is_published": image.is_published,
        "is_deprecated": image.deprecated_at is not None,
    }
    return {**_entity(Uid("Image", image.id), attributes, (owner,)), "tags": dict(image.tags)}


def _entity(uid: Uid, attributes: dict[str, Any], parents: Iterable[Uid] = ()) -> dict[str, Any]:
    return {"uid": uid.to_json(), "attrs": attributes, "parents": [parent.to_json() for parent in parents]}


def _uids(kind: str, ids: Collection[str]) -> Iterable[Uid]:
    return (Uid(kind, each) for each in sorted(ids))

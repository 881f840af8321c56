"""What a request is about, as the policies must know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from imsd.core import checks, limits
from imsd.core.access import MAX_IMAGES, Target
from imsd.core.actions import SERVICE_TRACES, Operation
from imsd.core.caller import EVERY_PROJECT, Caller
from imsd.core.policies.entities import Uid, caller_uid, user_uid

# Calls about one user, whom ``user_id`` names; empty: the caller itself.
_OF_USERS: Final = frozenset({"ims:tokens:create", "ims:tokens:list", "ims:policies:check"})
# Users, groups, grants and their traces are of all projects, also where a request names one; so is what lies
# in a store, where a request names the project of its job.
_OF_NO_PROJECT: Final = frozenset(
    {"ims:identity:get", "ims:identity:manage", "ims:stores:get", "ims:stores:manage", SERVICE_TRACES}
)
# Of a token's or a certificate's owner; the tables hold no longer ones.
MAX_PRINCIPAL: Final = 255


def needs_of(caller: Caller, operation: Operation, request: Any) -> Sequence[tuple[str, Target]]:
    """Actions that a call needs, and what about; its own one first. Raises InvalidRequest as `target_of`."""
    action = operation.action_for(request)
    target = target_of(caller, operation, action, request)
    of_project = replace(target, image_ids=())
    needed = [each for each in operation.also if each.when(request)]
    return [
        (action, target),
        *((each.action, target if each.is_of_image else of_project) for each in needed),
    ]


def target_of(caller: Caller, operation: Operation, action: str, request: Any) -> Target:
    """Raises InvalidRequest for what cannot be the id of a project or a user."""
    if action in _OF_USERS:
        return Target(project_id=EVERY_PROJECT, other=_principal(caller, request.user_id))
    if action == "ims:tokens:revoke":
        return Target(project_id=EVERY_PROJECT, token_id=request.token_id)
    if action in _OF_NO_PROJECT:
        return Target(project_id=EVERY_PROJECT)
    return Target(project_id=_project_id(request), image_ids=_image_ids(operation, request))


def _principal(caller: Caller, user_id: str) -> Uid | None:
    """None: all of them."""
    if user_id == EVERY_PROJECT:
        return None
    checks.text("user_id", user_id, MAX_PRINCIPAL)
    return user_uid(user_id) if user_id else caller_uid(caller)


def _project_id(request: Any) -> str:
    """A request without the field is about no project."""
    given: str = getattr(request, "project_id", EVERY_PROJECT)
    return given if given == EVERY_PROJECT else checks.project_id(given)


def _image_ids(operation: Operation, request: Any) -> Sequence[str]:
    if operation.id_field == "image_id":
        return (request.image_id,)
    if limits.UUID.match(text := getattr(request, "name_or_id", "")):
        return (text,)
    return tuple(getattr(request, "image_ids", ())[:MAX_IMAGES])

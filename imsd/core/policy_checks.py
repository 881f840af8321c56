"""What the policies say and why: of one question, as a call is decided; of the roles; of the actions."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from imsd.contract import InvalidRequest, NotFound
from imsd.metadata import identity as identity_rows
from imsd.metadata.images import owner_of_image

from . import checks
from .access import SEE, Access, Answer, Target
from .actions import ACTIONS, OPEN, OPERATIONS, SERVICE_TRACES
from .caller import EVERY_PROJECT, Caller, CallerKind
from .export_rules import ExportPolicy
from .image_changes import look_for_job
from .image_refusals import Asked, refusals
from .policies.entities import caller_uid
from .principals import Principals
from .projects import chosen_project
from .roles import ROLES, Role, effective_roles
from .runtime import Runtime

USAGE: Final = "ims:usage:get"

# Actions that are about one user; asked of a user, about that one.
_ABOUT_ONESELF: Final = frozenset(
    {"ims:tokens:create", "ims:tokens:list", "ims:tokens:revoke", "ims:policies:check"}
)
# Actions that are about no project.
_OF_NO_PROJECT: Final = frozenset(
    {
        "ims:identity:get",
        "ims:identity:manage",
        "ims:drivers:list",
        "ims:stores:get",
        "ims:stores:manage",
        SERVICE_TRACES,
        OPEN,
    }
)

_UNKNOWN_GROUPS: Final = "is no user here: groups that its OpenID Connect tokens may name are not counted"
MAX_USER: Final = 255


@dataclass(frozen=True, slots=True)
class Check:
    """A question. ``user_id`` empty: of the caller; ``project_id``, ``image_id`` empty: none is named."""

    action: str
    user_id: str = ""
    project_id: str = ""
    image_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``ignored``: roles with what they miss; ``rules``: what would refuse the call all the same."""

    is_allowed: bool
    project_id: str
    policies: Sequence[str]
    roles: Sequence[str]
    ignored: Sequence[str]
    sentences: Sequence[str]
    rules: Sequence[str]


@dataclass(frozen=True, slots=True)
class RoleActions:
    role: Role
    actions: Sequence[str]


@dataclass(frozen=True, slots=True)
class ActionCalls:
    action: str
    methods: Sequence[str]
    is_mutation: bool


class PolicyChecks:
    def __init__(
        self, runtime: Runtime, access: Access, principals: Principals, exports: ExportPolicy
    ) -> None:
        self._database = runtime.database
        self._exports = exports
        self._access = access
        self._principals = principals

    async def check(self, caller: Caller, asked: Check) -> Explanation:
        """Who may ask about whom was decided before. Raises InvalidRequest, NotFound (user, image)."""
        _require_action(asked.action)
        if asked.image_id:
            checks.uuid("image_id", asked.image_id)
        about, notes = await self._about(caller, asked.user_id)
        project_id = await self._project_of(caller, about, asked)
        sees_image = bool(asked.image_id) and await self._may_see(caller, project_id, asked.image_id)
        if asked.image_id and not sees_image:
            notes.append(f"{caller.id} may not see images of project {project_id}, so this is not about one")
        answer = await self._answer(about, asked, project_id, sees_image)
        return self._explained(about, answer, notes, await self._rules(answer))

    def roles(self) -> Sequence[RoleActions]:
        """By name, each with the actions that it allows and that not everybody may."""
        return [RoleActions(role, self._access.actions_of(role.name)) for role in ROLES.values()]

    def actions(self) -> Sequence[ActionCalls]:
        return [
            ActionCalls(
                action,
                [method for method, each in OPERATIONS.items() if action in each.all_actions],
                any(each.is_mutation for each in OPERATIONS.values() if action in each.actions),
            )
            for action in ACTIONS
        ]

    async def _about(self, caller: Caller, user_id: str) -> tuple[Caller, list[str]]:
        """Whose call is decided, and what must be said of it."""
        is_user = caller.kind in (CallerKind.API_TOKEN, CallerKind.OIDC)
        if not user_id or (is_user and user_id == caller.id):
            return caller, []
        checks.text("user_id", user_id, MAX_USER)
        async with self._database.reading() as c:
            is_known = await identity_rows.known_user(c, user_id)
        standing = await self._principals.of_user(user_id)
        if is_known or standing.roles:
            user = Caller(kind=CallerKind.API_TOKEN, id=user_id, groups=standing.groups, roles=standing.roles)
            return user, [] if is_known else [f"{user_id} {_UNKNOWN_GROUPS}"]
        standing = await self._principals.of_certificate(user_id)
        if not standing.roles:
            raise NotFound(
                f"there is no user {user_id!r}, and no role was granted to one of this name",
                field="user_id",
                hint="`imsctl user list` shows the users",
            )
        return Caller(kind=CallerKind.CERTIFICATE, id=user_id, roles=standing.roles), []

    async def _project_of(self, caller: Caller, about: Caller, asked: Check) -> str:
        """Raises InvalidRequest (PROJECT_REQUIRED)."""
        if asked.action in _OF_NO_PROJECT or asked.action in _ABOUT_ONESELF:
            return EVERY_PROJECT
        if asked.project_id == EVERY_PROJECT and asked.action == USAGE:
            return EVERY_PROJECT
        if asked.project_id:
            return checks.project_id(asked.project_id)
        if asked.image_id:
            async with self._database.reading() as c:
                owner = await owner_of_image(c, asked.image_id)
            if owner and await self._may_see(caller, owner, asked.image_id):
                return owner
        return checks.project_id(chosen_project(about, ""))

    async def _may_see(self, caller: Caller, project_id: str, image_id: str) -> bool:
        answers = await self._access.ask(caller, SEE, Target(project_id=project_id, image_ids=(image_id,)))
        return all(answer.decision.is_allowed for answer in answers)

    async def _answer(self, about: Caller, asked: Check, project_id: str, sees_image: bool) -> Answer:
        other = caller_uid(about) if asked.action in _ABOUT_ONESELF else None
        target = Target(project_id=project_id, other=other)
        if not sees_image:
            (answer,) = await self._access.ask(about, asked.action, target)
            return answer
        (image,) = await self._access.seen(project_id, [asked.image_id])
        if image is None:
            raise NotFound(
                f"there is no image {asked.image_id} in project {project_id}",
                field="image_id",
                hint="name the project that has it with --project",
            )
        (answer,) = await self._access.ask(about, asked.action, replace(target, image_ids=(image.id,)))
        return replace(answer, image=image)

    async def _rules(self, answer: Answer) -> Sequence[str]:
        """What would refuse the call, of an image that is there."""
        question, image = answer.question, answer.image
        if image is None:
            return []
        async with self._database.reading() as c:
            has_job = await look_for_job(c, image)
        asked = Asked(project_id=question.project_id, image=image, has_job=has_job, exports=self._exports)
        return list(refusals(question.action, asked))

    def _explained(
        self, about: Caller, answer: Answer, notes: Sequence[str], rules: Sequence[str]
    ) -> Explanation:
        question = answer.question
        counting, ignored = effective_roles(about.roles, question.project_id)
        return Explanation(
            is_allowed=answer.decision.is_allowed,
            project_id=question.project_id,
            policies=answer.decision.policies,
            roles=sorted(counting),
            ignored=[_with_missing(name, missing) for name, missing in ignored.items()],
            sentences=[*self._sentences(about, answer), *notes],
            rules=rules,
        )

    def _sentences(self, about: Caller, answer: Answer) -> Iterator[str]:
        what = answer.what()
        policies = " and ".join(answer.decision.policies)
        if answer.decision.is_allowed:
            yield f"{about.id} may do {what}, permitted by policy {policies}"
        elif policies:
            yield f"{about.id} may not do {what}, forbidden by policy {policies}, whatever others permit"
        else:
            yield f"{about.id} may not do {what}: no policy permits it"
            if ways := self._access.ways_to_allow(answer):
                yield ways


def _require_action(action: str) -> None:
    if action in ACTIONS:
        return
    close = difflib.get_close_matches(action[:64], ACTIONS, n=1)
    raise InvalidRequest(
        f"there is no action {action[:64]!r}",
        field="action",
        hint=f"did you mean {close[0]}?" if close else "`imsctl policy actions` shows them",
    )


def _with_missing(name: str, missing: Sequence[str]) -> str:
    return f"{name} (needs {' and '.join(missing)})" if missing else f"{name} (nobody knows it)"

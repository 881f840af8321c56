"""What a caller may: the policies, asked about a call and what it is about, and what is said of a denial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import PermissionDenied
from imsd.metadata.api_tokens import get_token
from imsd.metadata.database import Database
from imsd.metadata.images import get_seen_image
from imsd.metadata.records import ImageRecord

from .actions import ACTIONS
from .caller import EVERY_PROJECT, Caller
from .image_access import as_seen_by
from .limits import UUID
from .policies.decisions import Decision, Policies
from .policies.entities import Principal, Question, Uid, caller_uid, principal_of, project_uid, user_uid
from .roles import ROLES, effective_roles, missing_roles

# What lets a caller know of an image.
SEE: Final = "ims:images:get"

# More ids are not looked up: the core refuses such a call.
MAX_IMAGES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a call is about. ``project_id``: in which the caller works; `EVERY_PROJECT` for what is of none.

    ``image_ids``, ``token_id``: as the request has them. ``other``: a principal, for calls about one.
    """

    project_id: str
    image_ids: Sequence[str] = ()
    token_id: str = ""
    other: Uid | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision and the question that it answers."""

    question: Question
    image: ImageRecord | None
    decision: Decision

    def what(self) -> str:
        """What was asked for, in words."""
        words = self.question.action
        if self.image:
            words += f" on image {self.image.id}"
        if self.question.project_id != EVERY_PROJECT:
            words += f" in project {self.question.project_id}"
        return words


class Access:
    """Decides before a call is done; the core's own rules (owner, state, protection) come after."""

    def __init__(self, database: Database, policies: Policies) -> None:
        self._database = database
        self._policies = policies

    def use(self, policies: Policies) -> None:
        """Decide by these from now on."""
        self._policies = policies

    async def require(self, caller: Caller, action: str, target: Target) -> None:
        """Raises PermissionDenied unless the caller may do it to all that the call is about."""
        answers = await self.ask(caller, action, target)
        for answer in answers:
            if not answer.decision.is_allowed:
                raise self._denied(caller, self._as_told(answer))

    async def ask(self, caller: Caller, action: str, target: Target) -> Sequence[Answer]:
        """The decision for each image, or the one for the project.

        An image that is not there, or that the project does not see, is decided as the project is: nobody
        learns from a denial what there is.
        """
        if target.token_id:
            target = replace(target, other=await self._owner_of(caller, target.token_id))
        policies = self._policies  # of one moment: others may be loaded while images are looked up
        question = Question(
            principal=principal_of(caller, target.project_id, policies.groups),
            action=action,
            project_id=target.project_id,
            resource=target.other or project_uid(target.project_id),
        )
        found: Sequence[ImageRecord | None] = (None,)
        if target.image_ids and policies.needs_image(action):
            found = await self.seen(target.project_id, target.image_ids[:MAX_IMAGES])
        return [_answered(policies, question, image) for image in found]

    def actions_of(self, role: str) -> Sequence[str]:
        """What a role allows by itself, in every project; not what everybody may."""

        def allowed(*roles: str) -> frozenset[str]:
            principal = Principal(uid=user_uid(""), authentication="", roles=frozenset(roles))
            asked = Question(
                principal=principal, action="", project_id=EVERY_PROJECT, resource=project_uid(EVERY_PROJECT)
            )
            decide = self._policies.decide
            return frozenset(each for each in ACTIONS if decide(replace(asked, action=each)).is_allowed)

        return sorted(allowed(role) - allowed())

    def ways_to_allow(self, answer: Answer) -> str:
        """Which roles would turn a denial, in words; empty when none would."""
        where = "in every project (*)" if answer.question.project_id == EVERY_PROJECT else "there"
        ways = " or ".join(" with ".join(way) for way in self._roles_that_allow(answer))
        return f"granted {where}, {ways} allows it" if ways else ""

    def _roles_that_allow(self, answer: Answer) -> Iterator[tuple[str, ...]]:
        """Each role that would turn a denial, and behind it those that it depends on; the shortest ways."""
        ways: list[tuple[str, ...]] = []
        for name in ROLES:
            way = (name, *missing_roles(name, ()))
            principal = answer.question.principal
            asked = replace(answer.question, principal=replace(principal, roles=principal.roles.union(way)))
            if self._policies.decide(asked, answer.image).is_allowed:
                ways.append(way)
        for way in ways:
            if not any(set(other) < set(way) for other in ways):
                yield way

    async def seen(self, project_id: str, image_ids: Sequence[str]) -> Sequence[ImageRecord | None]:
        """Images as the project sees them, in any status; None for those that it does not see."""
        async with self._database.reading() as c:
            return [await _look_up(c, project_id, each) for each in image_ids]

    async def _owner_of(self, caller: Caller, token_id: str) -> Uid:
        """Whose token it is. One that is not there is the caller's: the core says that there is none."""
        async with self._database.reading() as c:
            token = await get_token(c, token_id) if UUID.match(token_id) else None
        return user_uid(token.user_id) if token else caller_uid(caller)

    def _as_told(self, answer: Answer) -> Answer:
        """A denial as the caller may hear of it: of an image that it does not see, as if there were none."""
        if answer.image is None:
            return answer
        question = replace(answer.question, resource=project_uid(answer.question.project_id))
        decide = self._policies.decide
        if decide(replace(question, action=SEE)).is_allowed:
            return answer
        if decide(replace(answer.question, action=SEE), answer.image).is_allowed:
            return answer
        of_project = decide(question)
        return Answer(question, None, Decision(False) if of_project.is_allowed else of_project)

    def _denied(self, caller: Caller, answer: Answer) -> PermissionDenied:
        if by := answer.decision.policies:
            message = f"policy {' and '.join(by)} forbids {answer.what()}"
        else:
            message = f"{caller.id} may not do {answer.what()}"
        return PermissionDenied(message, hint="; ".join(self._hints(caller, answer)))

    def _hints(self, caller: Caller, answer: Answer) -> Iterator[str]:
        for name, missing in effective_roles(caller.roles, answer.question.project_id)[1].items():
            if missing:
                yield f"your role {name} does not count without {' and '.join(missing)}"
        if ways := self.ways_to_allow(answer):
            yield ways
        yield f"`{check_command(answer)}` explains"


def _answered(policies: Policies, question: Question, image: ImageRecord | None) -> Answer:
    if image is None:
        return Answer(question, None, policies.decide(question))
    question = replace(question, resource=Uid("Image", image.id))
    return Answer(question, image, policies.decide(question, image))


async def _look_up(c: AsyncConnection, project_id: str, image_id: str) -> ImageRecord | None:
    record = await get_seen_image(c, project_id, image_id) if UUID.match(image_id) else None
    return record and as_seen_by(project_id, record)


def check_command(answer: Answer) -> str:
    """What shows a caller why."""
    question = answer.question
    image = f" {answer.image.id}" if answer.image else ""
    project = "" if question.project_id == EVERY_PROJECT else f" --project {question.project_id}"
    return f"imsctl policy check me {question.action}{image}{project}"

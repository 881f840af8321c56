"""What the service is, in a hundred lines: images of two projects, and what becomes of an operation on them.

`after` gives the model after an operation, if it may end as it did. It is what a caller is promised; nothing
here knows of databases, jobs or calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

OWNER_ONLY = frozenset({"NOT_OWNER"})
UNSEEN = frozenset({"NOT_FOUND"})
NOT_NOW = frozenset({"FAILED_PRECONDITION"})
DONE: frozenset[str] = frozenset()

# Of the quota of images that the daemon of the test has.
MAX_IMAGES = 5


class Act(StrEnum):
    RENAME = "rename"
    TAG = "tag"
    UNTAG = "untag"
    PROTECT = "protect"
    UNPROTECT = "unprotect"
    DELETE = "delete"
    UNDELETE = "undelete"
    DEACTIVATE = "deactivate"
    REACTIVATE = "reactivate"
    SHARE = "share"
    ACCEPT = "accept"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    COPY = "copy"


@dataclass(frozen=True)
class Operation:
    """``project`` does ``act`` on ``image``; ``text``: the new name or tag; ``seen``: the mark it knows."""

    project: str
    act: Act
    image: str
    text: str = ""
    seen: tuple[int, int] | None = None


@dataclass(frozen=True)
class Result:
    """``reason``: why it was refused, or empty; ``made``: the image that a copy made, or empty."""

    reason: str = ""
    made: str = ""


@dataclass(frozen=True)
class ImageState:
    """``version`` grows with what surely changes the etag, ``doubtful`` with what may or may not."""

    owner: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = "active"
    before: str = "active"
    is_protected: bool = False
    members: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    doubtful: int = 0

    @property
    def is_there(self) -> bool:
        return self.status != "pending_delete"

    @property
    def mark(self) -> tuple[int, int]:
        """What stands for the etag."""
        return self.version, self.doubtful

    @property
    def visibility(self) -> str:
        return "shared" if self.members else "private"

    def seen_by(self, project: str) -> bool:
        return self.is_there and (project == self.owner or project in self.members)

    def listed_for(self, project: str) -> bool:
        return self.is_there and (project == self.owner or self.members.get(project) == "accepted")

    def shown(self) -> tuple[object, ...]:
        """All of it that a caller is shown."""
        tags = tuple(sorted(self.tags.items()))
        return self.owner, self.name, tags, self.status, self.is_protected, self.visibility

    def changed(self, **values: object) -> ImageState:
        after = replace(self, **values)  # type: ignore[arg-type]
        if after == self:
            return replace(after, doubtful=self.doubtful + 1)
        return replace(after, version=self.version + 1)


Model = Mapping[str, ImageState]


def after(model: Model, operation: Operation, result: Result, is_crowded: bool = False) -> Model | None:
    """The model after an operation that ended so; None when it may not end so.

    ``is_crowded``: somebody else changed the image at the same time, which alone is a reason for CONFLICT.
    """
    expected = _reasons(model, operation)
    if result.reason:
        if result.reason in expected or (is_crowded and result.reason == "CONFLICT"):
            return model
        return None
    is_possible = not expected or "" in expected
    return _done(model, operation, result) if is_possible else None


def _done(model: Model, operation: Operation, result: Result) -> Model:
    if operation.act is Act.COPY:
        return {**model, result.made: ImageState(operation.project, operation.text)}
    return {**model, operation.image: _after(operation, model[operation.image])}


def _reasons(model: Model, operation: Operation) -> frozenset[str]:
    """Why it must be refused, any of them; with an empty text among them it may also be done."""
    image = model.get(operation.image)
    if image is None:
        return UNSEEN
    if operation.act is Act.COPY:
        return _copy_refusal(model, operation, image)
    return _refusal(model, operation, image)


def _refusal(model: Model, operation: Operation, image: ImageState) -> frozenset[str]:
    project, act = operation.project, operation.act
    if act is Act.UNDELETE:
        return _undelete_refusal(model, project, image)
    if act in (Act.ACCEPT, Act.REJECT):
        return DONE if image.is_there and project in image.members else UNSEEN
    if not image.seen_by(project):
        return UNSEEN
    if project != image.owner:
        return OWNER_ONLY
    return frozenset(_reasons_of_state(act, image)) | _reasons_of_etag(operation, image)


def _reasons_of_etag(operation: Operation, image: ImageState) -> frozenset[str]:
    if operation.seen in (None, image.mark):
        return DONE
    assert operation.seen is not None
    is_sure = operation.seen[0] != image.version
    return frozenset({"CONFLICT"} if is_sure else {"CONFLICT", ""})


def _undelete_refusal(model: Model, project: str, image: ImageState) -> frozenset[str]:
    if project != image.owner:
        return UNSEEN if not image.seen_by(project) else OWNER_ONLY
    if image.is_there:
        return NOT_NOW
    return frozenset({"QUOTA_EXCEEDED"}) if is_full(model, project) else DONE


def _reasons_of_state(act: Act, image: ImageState) -> Iterator[str]:
    """Why the state of the image forbids it to its owner."""
    may_be_inactive = (Act.DELETE, Act.DEACTIVATE, Act.REACTIVATE, Act.WITHDRAW)
    if image.status != "active" and act not in may_be_inactive:
        yield "IMAGE_NOT_ACTIVE"
    if act is Act.DELETE and image.is_protected:
        yield "IMAGE_PROTECTED"
    if act is Act.SHARE and image.members and set(image.members.values()) != {"rejected"}:
        yield "ALREADY_EXISTS"
    if act is Act.WITHDRAW and not image.members:
        yield "NOT_FOUND"
    if act is Act.UNTAG and not image.tags:
        yield "NOT_FOUND"


def _after(operation: Operation, image: ImageState) -> ImageState:
    act = operation.act
    if act in (Act.ACCEPT, Act.REJECT):
        decided = {operation.project: f"{act}ed"}
        return replace(image, members=decided, doubtful=image.doubtful + 1)
    if act is Act.SHARE:
        return image.changed(members={other(image.owner): "pending"})
    simple: dict[Act, dict[str, object]] = {
        Act.RENAME: {"name": operation.text},
        Act.TAG: {"tags": {"mark": operation.text}},
        Act.UNTAG: {"tags": {}},
        Act.PROTECT: {"is_protected": True},
        Act.UNPROTECT: {"is_protected": False},
        Act.DELETE: {"status": "pending_delete", "before": image.status, "members": {}},
        Act.UNDELETE: {"status": image.before},
        Act.DEACTIVATE: {"status": "deactivated"},
        Act.REACTIVATE: {"status": "active"},
        Act.WITHDRAW: {"members": {}},
    }
    return image.changed(**simple[act])


def _copy_refusal(model: Model, operation: Operation, image: ImageState) -> frozenset[str]:
    project = operation.project
    if not image.seen_by(project):
        return UNSEEN
    reasons = set()
    if project != image.owner and image.members[project] != "accepted":
        reasons.add("SHARE_NOT_ACCEPTED")
    if image.status != "active":
        reasons.add("IMAGE_NOT_ACTIVE")
    if is_full(model, project):
        reasons.add("QUOTA_EXCEEDED")
    return frozenset(reasons)


def is_full(model: Model, project: str) -> bool:
    return sum(image.is_there and image.owner == project for image in model.values()) >= MAX_IMAGES


def other(project: str) -> str:
    """The other one of the two projects of a run."""
    return project[:-1] + ("b" if project.endswith("a") else "a")

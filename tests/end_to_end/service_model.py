"""What the service is, in few words: images of two projects, and what becomes of an operation on them.

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
    DESCRIBE = "describe"
    JOIN = "join"
    DEPRECATE = "deprecate"
    UNDEPRECATE = "undeprecate"
    PUBLICIZE = "publicize"
    PRIVATIZE = "privatize"
    PUBLISH = "publish"
    UNPUBLISH = "unpublish"
    SHARE = "share"
    ACCEPT = "accept"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    COPY = "copy"


MAY_BE_INACTIVE = (
    Act.DELETE,
    Act.DEACTIVATE,
    Act.REACTIVATE,
    Act.DEPRECATE,
    Act.UNDEPRECATE,
    Act.PRIVATIZE,
    Act.UNPUBLISH,
    Act.WITHDRAW,
)


@dataclass(frozen=True)
class Operation:
    """``project`` does ``act`` on ``image``; ``seen``: the mark it knows.

    ``text``: the new name, description, family or tag.
    """

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
    """``version`` grows with what surely changes the etag, ``doubtful`` with what may or may not.

    ``descent``: what it is a copy of, a published image or not; None when both were possible.
    """

    owner: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = "active"
    before: str = "active"
    is_protected: bool = False
    description: str = ""
    family: str = ""
    is_deprecated: bool = False
    is_public: bool = False
    is_published: bool = False
    descent: bool | None = False
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
        return "public" if self.is_public else "shared" if self.members else "private"

    def seen_by(self, project: str) -> bool:
        return self.is_there and (project == self.owner or project in self.members or self.is_public)

    def listed_for(self, project: str) -> bool:
        is_accepted = self.members.get(project) == "accepted"
        return self.is_there and (project == self.owner or is_accepted or self.is_public)

    def shown(self) -> tuple[object, ...]:
        """All of it that a caller is shown."""
        tags = tuple(sorted(self.tags.items()))
        decided = self.is_protected, self.is_deprecated, self.is_published, self.visibility
        return self.owner, self.name, self.description, self.family, tags, self.status, *decided

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
        source = model[operation.image]
        descent = source.is_published or source.descent
        return {**model, result.made: ImageState(operation.project, operation.text, descent=descent)}
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
        return _undelete_refusal(model, operation, image)
    if act in (Act.ACCEPT, Act.REJECT):
        return DONE if image.is_there and project in image.members else UNSEEN
    if not image.seen_by(project):
        return UNSEEN
    if act is Act.SHARE and image.is_public:
        return frozenset({"IMAGE_PUBLIC"})
    if project != image.owner:
        return OWNER_ONLY
    reasons = {*_reasons_of_state(act, image), *_reasons_of_marks(act, image)}
    if act is Act.PRIVATIZE and image.is_public and is_full(model, project):
        reasons.add("QUOTA_EXCEEDED")
    if reasons - {""}:
        return frozenset(reasons) | (_reasons_of_etag(operation, image) - {""})
    return frozenset(reasons) | _reasons_of_etag(operation, image)


def _reasons_of_etag(operation: Operation, image: ImageState) -> frozenset[str]:
    if operation.seen in (None, image.mark):
        return DONE
    assert operation.seen is not None
    is_sure = operation.seen[0] != image.version
    return frozenset({"CONFLICT"} if is_sure else {"CONFLICT", ""})


def _undelete_refusal(model: Model, operation: Operation, image: ImageState) -> frozenset[str]:
    project, of_etag = operation.project, _reasons_of_etag(operation, image)
    if project != image.owner:
        return UNSEEN if not image.seen_by(project) else OWNER_ONLY
    if image.is_there:
        return NOT_NOW | (of_etag - {""})
    return frozenset({"QUOTA_EXCEEDED"}) | (of_etag - {""}) if is_full(model, project) else of_etag


def _reasons_of_state(act: Act, image: ImageState) -> Iterator[str]:
    """Why the state of the image forbids it to its owner."""
    if image.status != "active" and act not in MAY_BE_INACTIVE:
        yield "IMAGE_NOT_ACTIVE"
    if act is Act.DELETE and image.is_protected:
        yield "IMAGE_PROTECTED"
    if act is Act.SHARE and image.members and set(image.members.values()) != {"rejected"}:
        yield "ALREADY_EXISTS"
    if act is Act.WITHDRAW and not image.members:
        yield "NOT_FOUND"
    if act is Act.UNTAG and not image.tags:
        yield "NOT_FOUND"


def _reasons_of_marks(act: Act, image: ImageState) -> Iterator[str]:
    """Why what others see of it, or sell, forbids it to its owner."""
    if act in (Act.DELETE, Act.PUBLISH) and image.is_public:
        yield "IMAGE_PUBLIC"
    if act in (Act.PUBLICIZE, Act.PRIVATIZE, Act.PUBLISH) and image.members:
        yield "IMAGE_SHARED"
    if act in (Act.DELETE, Act.SHARE, Act.PUBLICIZE) and image.is_published:
        yield "IMAGE_PUBLISHED"
    if act is Act.SHARE and not image.is_published and image.descent is not False:
        yield "IMAGE_PUBLISHED"
        if image.descent is None:
            yield ""


def _after(operation: Operation, image: ImageState) -> ImageState:
    act = operation.act
    if act in (Act.ACCEPT, Act.REJECT):
        decided = {operation.project: f"{act}ed"}
        return replace(image, members=decided, doubtful=image.doubtful + 1)
    if act is Act.SHARE:
        return image.changed(members={other(image.owner): "pending"})
    return image.changed(**_changes(operation, image))


def _changes(operation: Operation, image: ImageState) -> dict[str, object]:
    simple: dict[Act, dict[str, object]] = {
        Act.RENAME: {"name": operation.text},
        Act.DESCRIBE: {"description": operation.text},
        Act.JOIN: {"family": operation.text},
        Act.DEPRECATE: {"is_deprecated": True},
        Act.UNDEPRECATE: {"is_deprecated": False},
        Act.PUBLICIZE: {"is_public": True},
        Act.PRIVATIZE: {"is_public": False},
        Act.PUBLISH: {"is_published": True},
        Act.UNPUBLISH: {"is_published": False},
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
    return simple[operation.act]


def _copy_refusal(model: Model, operation: Operation, image: ImageState) -> frozenset[str]:
    project = operation.project
    if not image.seen_by(project):
        return UNSEEN
    reasons = set()
    if not image.listed_for(project):
        reasons.add("SHARE_NOT_ACCEPTED")
    if image.status != "active":
        reasons.add("IMAGE_NOT_ACTIVE")
    if is_full(model, project):
        reasons.add("QUOTA_EXCEEDED")
    return frozenset(reasons)


def is_full(model: Model, project: str) -> bool:
    """Public images do not count."""
    counted = [each for each in model.values() if each.is_there and not each.is_public]
    return sum(image.owner == project for image in counted) >= MAX_IMAGES


def other(project: str) -> str:
    """The other one of the two projects of a run."""
    return project[:-1] + ("b" if project.endswith("a") else "a")

"""Two clients do everything to a real daemon, one after the other and both at once, beside a model.

Of two operations at once, the outcomes and what is seen afterwards must be those of one order or the other;
and a third client, which only looks meanwhile, must never see a state that neither order has.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import grpc
from google.protobuf import field_mask_pb2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from imsd.v1 import image_pb2, job_pb2, member_pb2, tag_pb2
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.service_model import (
    MAX_IMAGES,
    Act,
    ImageState,
    Model,
    Operation,
    Result,
    after,
    is_full,
    other,
)
from tests.end_to_end.wire import ended, import_disk, reason_of

DISK = b"a disk for everybody".ljust(8192, b"\0")
# Copies fill the quota, which is where much is decided.
ALONE = st.sampled_from([*Act, Act.COPY, Act.COPY, Act.COPY])
# What may be done to an image depends on which of these were done to it.
DECISIONS = [
    Act.PUBLICIZE,
    Act.PRIVATIZE,
    Act.PUBLISH,
    Act.UNPUBLISH,
    Act.DEPRECATE,
    Act.DEACTIVATE,
    Act.REACTIVATE,
    Act.DELETE,
    Act.UNDELETE,
    Act.SHARE,
    Act.SHARE,
    Act.WITHDRAW,
]
# Last, or soon nothing could be shared, copied or changed any more.
RESTORING = [Act.UNDELETE, Act.REACTIVATE, Act.UNPUBLISH, Act.PRIVATIZE]
WHO = st.sampled_from("ab")
# Mostly the owner: of what others ask, nearly all is refused.
IS_OWNER = st.sampled_from([True, True, True, False])
WHICH = st.integers(0, 2 * MAX_IMAGES)
TEXT = st.sampled_from(["red", "green", "blue"])


class ServiceMachine(RuleBasedStateMachine):
    """``happened`` counts, over all runs, what a run must have met to prove anything."""

    daemon: ClassVar[DaemonProcess]
    happened: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.channel = self.runner.run(_open(self.daemon.address))
        self.stubs = Stubs(self.channel)
        self.run_id = f"p{uuid.uuid4().hex[:10]}"
        self.model: Model = {}
        self.looks = 0
        self.etags: dict[tuple[str, int, int], str] = {}

    def teardown(self) -> None:
        self.runner.run(self.channel.close())
        self.runner.close()

    # -- rules ---------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for project in (self.project("a"), self.project("b")):
            image = self.runner.run(import_disk(self.stubs, DISK, project_id=project, name="first"))
            self.model = {**self.model, image.id: ImageState(project, "first")}
            self.digest = image.digest
        self.look()

    @rule(act=ALONE, is_owner=IS_OWNER, which=WHICH, text=TEXT)
    def alone(self, act: Act, is_owner: bool, which: int, text: str) -> None:
        is_answer = act in (Act.ACCEPT, Act.REJECT, Act.WITHDRAW)
        shared = [image for image, state in self.model.items() if state.members]
        image = shared[which % len(shared)] if is_answer and shared else self.image(which)
        owner = self.model[image].owner
        is_owner = is_owner and act not in (Act.ACCEPT, Act.REJECT)
        self.one(Operation(owner if is_owner else other(owner), act, image, text))
        self.look()

    @rule(acts=st.lists(st.sampled_from(DECISIONS), min_size=3, max_size=6), which=WHICH)
    def decided(self, acts: list[Act], which: int) -> None:
        """Its owner does one thing after the other to an image: what one leaves decides on the next."""
        image = self.image(which)
        for act in [*acts, *RESTORING]:
            self.one(Operation(self.model[image].owner, act, image))
        self.look()

    def one(self, operation: Operation) -> None:
        result = self.runner.run(self.perform(operation))
        now = after(self.model, operation, result)
        assert now is not None, (operation, self.model[operation.image], result)
        self.happened["refused" if result.reason else f"{operation.act} done"] += 1
        self.model = now

    @rule(acts=st.tuples(ALONE, ALONE), who=st.tuples(WHO, WHO), which=WHICH, is_guarded=st.booleans())
    def at_once(self, acts: tuple[Act, Act], who: tuple[str, str], which: int, is_guarded: bool) -> None:
        image = self.image(which)
        known = self.model[image].mark
        # Nobody can have read the etag of what was deleted.
        mark = known if is_guarded and (image, *known) in self.etags else None
        one, two = (
            Operation(self.project(owner), act, image, text, mark if takes_etag(act) else None)
            for owner, act, text in zip(who, acts, ("one", "two"), strict=True)
        )
        results = self.runner.run(self.both(one, two))
        fitting = [model for model in self.orders(one, two, results) if self.is_seen(model)]
        assert fitting, (one, two, results, self.model[image], self.seen())
        fitted = fitting[0]
        self.happened["two at once"] += 1
        self.happened.update(
            f"{done.act} done" for done, result in zip((one, two), results, strict=True) if not result.reason
        )
        if Act.COPY in acts and not {Act.PUBLISH, Act.UNPUBLISH}.isdisjoint(acts):
            fitted = {
                each: either(state) if each not in self.model else state for each, state in fitted.items()
            }
        self.model = fitted
        self.look()

    @precondition(lambda self: any(is_full(self.model, self.project(who)) for who in "ab"))
    @rule()
    def over_the_quota(self) -> None:
        project = next(self.project(who) for who in "ab" if is_full(self.model, self.project(who)))
        request = image_pb2.CreateQueuedImageRequest(project_id=project, name="one too many")
        assert self.runner.run(refusal(self.stubs.images.CreateQueuedImage(request))) == "QUOTA_EXCEEDED"
        self.happened["over the quota"] += 1

    @precondition(lambda self: self.looks % 5 == 0)
    @rule(who=WHO, which=WHICH)
    def repeated(self, who: str, which: int) -> None:
        """The same request_id gets the first answer, also when it is asked twice at once."""
        project, image = self.project(who), self.image(which)
        if not self.model[image].listed_for(project) or self.model[image].status != "active":
            return
        request = image_pb2.CopyImageRequest(
            project_id=project, image_id=image, name="copy", request_id=uuid.uuid4().hex
        )
        was_full = is_full(self.model, project)
        answers = self.runner.run(_both(*(answer_of(self.stubs.images.CopyImage(request)) for _ in "12")))
        if was_full:
            assert [reason for reason, _ in answers] == ["QUOTA_EXCEEDED"] * 2
            return
        assert [reason for reason, _ in answers] == ["", ""]
        assert answers[0][1].id == answers[1][1].id
        job = self.runner.run(ended(self.stubs, answers[0][1]))
        copy: dict[str, Any] = {"project_id": project, "image_id": job.image_ids[0]}
        found = self.runner.run(_called(self.stubs.images.GetImage, image_pb2.GetImageRequest(**copy)))
        assert shown(found) == ImageState(project, "copy").shown()
        # Gone for good, or the quota would soon be all that a run meets.
        gone = image_pb2.DeleteImageRequest(**copy, is_final=True)
        self.runner.run(_called(self.stubs.images.DeleteImage, gone))
        changed = image_pb2.CopyImageRequest(name="another")
        changed.MergeFrom(request)
        changed.name = "another"
        assert self.runner.run(refusal(self.stubs.images.CopyImage(changed))) == "REQUEST_ID_REUSED"
        self.happened["a request was repeated"] += 1
        self.look()

    @precondition(lambda self: len(self.model) > MAX_IMAGES)
    @rule(which=WHICH)
    def forget(self, which: int) -> None:
        """What is deleted and past its grace time is gone for good."""
        image = self.image(which)
        if self.model[image].is_there:
            return
        gone = image_pb2.DeleteImageRequest(project_id=self.model[image].owner, image_id=image, is_final=True)
        self.runner.run(_called(self.stubs.images.DeleteImage, gone))
        self.model = {other_one: state for other_one, state in self.model.items() if other_one != image}
        self.happened["forgotten"] += 1
        self.look()

    # -- comparing -----------------------------------------------------------------------------------

    def look(self) -> None:
        self.looks += 1
        assert self.is_seen(self.model), (self.model, self.seen())
        for image_id, state in self.model.items():
            for project in (state.owner, other(state.owner)):
                request = image_pb2.GetImageRequest(project_id=project, image_id=image_id)
                reason, found = self.runner.run(answer_of(self.stubs.images.GetImage(request)))
                assert reason == ("" if state.seen_by(project) else "NOT_FOUND"), (project, state)
                if not reason:
                    assert shown(found) == state.shown()
                    self.remember(image_id, state, found)

    def remember(self, image_id: str, state: ImageState, found: image_pb2.Image) -> None:
        """What did not change has the etag that it had."""
        assert self.etags.setdefault((image_id, *state.mark), found.etag) == found.etag

    def is_seen(self, model: Model) -> bool:
        return self.seen() == {
            project: {i: s.shown() for i, s in model.items() if s.listed_for(project)}
            for project in (self.project("a"), self.project("b"))
        }

    def seen(self) -> dict[str, dict[str, tuple[object, ...]]]:
        return {
            project: {image.id: shown(image) for image in self.runner.run(self.listed(project))}
            for project in (self.project("a"), self.project("b"))
        }

    def orders(self, one: Operation, two: Operation, results: tuple[Result, Result]) -> Iterator[Model]:
        """The model after both, for each order that the results could come from."""
        for first, then, (one_result, two_result) in ((one, two, results), (two, one, results[::-1])):
            middle = after(self.model, first, one_result, is_crowded=not two_result.reason)
            last = middle and after(middle, then, two_result, is_crowded=not one_result.reason)
            if last is not None:
                yield last

    # -- calling -------------------------------------------------------------------------------------

    async def both(self, one: Operation, two: Operation) -> tuple[Result, Result]:
        """Both at once, watched by somebody who looks all the time."""
        over = asyncio.Event()
        watcher = asyncio.create_task(self.watch(over))
        try:
            return await _both(self.perform(one), self.perform(two))
        finally:
            over.set()
            for image in await watcher:
                assert image.digest == self.digest or image.status != image_pb2.IMAGE_STATUS_ACTIVE
                assert image.virtual_size_bytes == len(DISK) or not image.digest
                names = {state.name for state in self.model.values()} | {"one", "two"}
                assert image.name in names, (image, names)

    async def watch(self, over: asyncio.Event) -> list[image_pb2.Image]:
        found = []
        while not over.is_set():
            for who in "ab":
                found += await self.listed(self.project(who))
        return found

    async def listed(self, project: str) -> list[image_pb2.Image]:
        wanted = image_pb2.ImageFilter(scope=image_pb2.ImageFilter.SCOPE_ALL)
        request = image_pb2.ListImagesRequest(project_id=project, filter=wanted, page_size=1000)
        found = (await self.stubs.images.ListImages(request)).images
        # Public images of other runs are seen too.
        return [image for image in found if image.project_id in (self.project("a"), self.project("b"))]

    async def perform(self, operation: Operation) -> Result:
        if operation.act in JOBS:
            return await self.run_job(operation)
        reason, _ = await answer_of(self.call(operation))
        return Result(reason)

    def call(self, operation: Operation) -> Awaitable[Any]:
        asked: dict[str, Any] = {"project_id": operation.project, "image_id": operation.image}
        asked["etag"] = self.etags[operation.image, *operation.seen] if operation.seen else ""
        images, act = self.stubs.images, operation.act
        if act in UPDATED:
            value: Any = act is Act.PROTECT if act in PROTECTION else operation.text
            image = image_pb2.Image(**{UPDATED[act]: value})
            mask = field_mask_pb2.FieldMask(paths=[UPDATED[act]])
            return _called(
                images.UpdateImage, image_pb2.UpdateImageRequest(**asked, image=image, update_mask=mask)
            )
        if act is Act.TAG:
            tags = [tag_pb2.Tag(key="mark", value=operation.text)]
            return _called(self.stubs.tags.SetImageTags, tag_pb2.SetImageTagsRequest(**asked, tags=tags))
        if act is Act.UNTAG:
            request = tag_pb2.DeleteImageTagsRequest(**asked, keys=["mark"])
            return _called(self.stubs.tags.DeleteImageTags, request)
        name, more = DECIDED.get(act, (f"{act.capitalize()}Image", {}))
        return _called(getattr(images, name), getattr(image_pb2, f"{name}Request")(**asked, **more))

    async def run_job(self, operation: Operation) -> Result:
        reason, job = await answer_of(self.start_job(operation))
        if reason:
            return Result(reason)
        job = await ended(self.stubs, job)
        if operation.act is Act.COPY:
            return Result(job.error.reason, "" if job.error.reason else job.image_ids[0])
        assert job.state == job_pb2.JOB_STATE_SUCCESS, job
        (result,) = job.member_results
        return Result(result.error.reason)

    def start_job(self, operation: Operation) -> Awaitable[Any]:
        act, images, project = operation.act, [operation.image], operation.project
        members = self.stubs.members
        if act is Act.COPY:
            request = image_pb2.CopyImageRequest(
                project_id=project, image_id=operation.image, name=operation.text
            )
            return _called(self.stubs.images.CopyImage, request)
        if act in (Act.ACCEPT, Act.REJECT):
            status = image_pb2.MemberStatus.Value(f"MEMBER_STATUS_{act.upper()}ED")
            update = member_pb2.UpdateMembersRequest(project_id=project, image_ids=images, status=status)
            return _called(members.UpdateMembers, update)
        owner = self.model[operation.image].owner if operation.image in self.model else project
        with_whom: dict[str, Any] = {
            "project_id": project,
            "image_ids": images,
            "member_project_ids": [other(owner)],
        }
        if act is Act.SHARE:
            return _called(members.AddMembers, member_pb2.AddMembersRequest(**with_whom))
        return _called(members.RemoveMembers, member_pb2.RemoveMembersRequest(**with_whom))

    # -- naming --------------------------------------------------------------------------------------

    def project(self, who: str) -> str:
        return f"{self.run_id}{who}"

    def image(self, which: int) -> str:
        return list(self.model)[which % len(self.model)]


JOBS = (Act.COPY, Act.SHARE, Act.ACCEPT, Act.REJECT, Act.WITHDRAW)
PROTECTION = (Act.PROTECT, Act.UNPROTECT)

# The field that an update of the image changes.
UPDATED = {
    Act.RENAME: "name",
    Act.DESCRIBE: "description",
    Act.JOIN: "family",
    Act.PROTECT: "is_protected",
    Act.UNPROTECT: "is_protected",
}

# Calls of two acts each, and what the request says of the one.
DECIDED: dict[Act, tuple[str, dict[str, Any]]] = {
    Act.UNDEPRECATE: ("DeprecateImage", {"is_withdrawn": True}),
    Act.PUBLICIZE: ("SetImageVisibility", {"visibility": image_pb2.VISIBILITY_PUBLIC}),
    Act.PRIVATIZE: ("SetImageVisibility", {"visibility": image_pb2.VISIBILITY_PRIVATE}),
    Act.UNPUBLISH: ("PublishImage", {"is_withdrawn": True}),
}


def takes_etag(act: Act) -> bool:
    return act not in JOBS


def either(state: ImageState) -> ImageState:
    """A copy that was made while its image was put into the marketplace, or taken out."""
    return replace(state, descent=None)


def shown(image: image_pb2.Image) -> tuple[object, ...]:
    """As `ImageState.shown` has it."""
    status = image_pb2.ImageStatus.Name(image.status).removeprefix("IMAGE_STATUS_").lower()
    visibility = image_pb2.Visibility.Name(image.visibility).removeprefix("VISIBILITY_").lower()
    tags = tuple(sorted(image.tags.items()))
    decided = image.is_protected, image.HasField("deprecation"), image.is_published, visibility
    return image.project_id, image.name, image.description, image.family, tags, status, *decided


async def answer_of(call: Awaitable[Any]) -> tuple[str, Any]:
    """The reason of a refusal, or none, and the answer."""
    try:
        return "", await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error), None


async def refusal(call: Awaitable[Any]) -> str:
    return (await answer_of(call))[0]


async def _called(method: Callable[[Any], Any], request: Any) -> Any:
    return await method(request)


async def _both(one: Awaitable[Any], two: Awaitable[Any]) -> tuple[Any, Any]:
    return await asyncio.gather(one, two)


async def _open(address: str) -> Any:
    return grpc.aio.insecure_channel(address)

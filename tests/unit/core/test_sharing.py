"""Sharing by jobs: what pairs become, in which states, within which limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imsd.contract import FailedPrecondition, InvalidRequest, NotFound, Unavailable
from imsd.core.dispatcher import Dispatcher
from imsd.core.identity_services import identity_services
from imsd.core.members import MemberQuery
from imsd.core.requests import RequestKey
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata import members as member_rows
from imsd.metadata import quotas as quota_rows
from imsd.metadata.database import Database
from imsd.metadata.jobs import JobQuery
from imsd.metadata.records import ImageKind, ImageStatus, JobState, MemberStatus, Visibility
from tests.unit.core.core_world import leave_at_commit, new_id, now
from tests.unit.core.sharing_world import OWNER, SharingService, key, serving

PENDING, ACCEPTED, REJECTED = MemberStatus.PENDING, MemberStatus.ACCEPTED, MemberStatus.REJECTED


@pytest.fixture
async def service(database: Database) -> AsyncIterator[SharingService]:
    async with serving(database) as service:
        await service.projects(OWNER, "web", "shop")
        yield service


async def test_a_share_goes_from_pending_to_accepted_and_to_rejected_and_back(
    service: SharingService,
) -> None:
    image = await service.image()
    assert await service.add([image], ["web"]) == ["done"]
    assert await service.status(image, "web") is PENDING
    for answer in (ACCEPTED, REJECTED, REJECTED, ACCEPTED, ACCEPTED):
        assert await service.answer("web", [image], answer) == ["done"]
        assert await service.status(image, "web") is answer
    assert await service.remove([image], ["web"]) == ["done"]
    assert await service.status(image, "web") is None


async def test_the_owner_asks_one_that_rejected_again_and_nobody_else(service: SharingService) -> None:
    image = await service.image()
    await service.add([image], ["web", "shop"])
    await service.answer("web", [image], REJECTED)
    assert await service.add([image], ["web", "shop"]) == ["done", "ALREADY_EXISTS"]
    assert await service.status(image, "web") is PENDING
    await service.answer("web", [image], ACCEPTED)
    assert await service.add([image], ["web"]) == ["ALREADY_EXISTS"]


async def test_a_project_that_is_deleted_leaves_what_was_shared_with_it(service: SharingService) -> None:
    """Whoever shares an image with a project, asked or not, does not keep it from being deleted."""
    both, alone, accepted = [await service.image() for _ in range(3)]
    await service.add([both, alone, accepted], ["web"])
    await service.add([both], ["shop"])
    await service.answer("web", [accepted], ACCEPTED)
    before = await service.record(both)
    await identity_services(service.runtime).projects.delete("web")
    for image_id in (both, alone, accepted):
        assert await service.status(image_id, "web") is None
    assert await service.status(both, "shop") is PENDING
    assert await service.record(both) == before
    for image_id in (alone, accepted):
        record = await service.record(image_id)
        assert (record.visibility, record.version) == (Visibility.PRIVATE, 3)
    async with service.database.reading() as c:
        assert await quota_rows.used(c, OWNER, "image_members") == 0
    assert await service.add([alone], ["web"]) == ["PROJECT_UNKNOWN"]


async def test_a_deletion_that_is_refused_ends_no_share(service: SharingService) -> None:
    image = await service.image()
    await service.add([image], ["web"])
    await service.image(project_id="web")
    with pytest.raises(FailedPrecondition):
        await identity_services(service.runtime).projects.delete("web")
    assert await service.status(image, "web") is PENDING


async def test_the_first_member_makes_an_image_shared_and_the_last_one_private(
    service: SharingService,
) -> None:
    image = await service.image()
    await service.add([image], ["web", "shop"])
    shared = await service.record(image)
    assert (shared.visibility, shared.version) == (Visibility.SHARED, 2)
    await service.answer("web", [image], REJECTED)
    await service.remove([image], ["web"])
    assert await service.record(image) == shared
    await service.remove([image], ["shop"])
    private = await service.record(image)
    assert (private.visibility, private.version) == (Visibility.PRIVATE, 3)
    assert private.updated_at > shared.updated_at


async def test_one_pair_that_fails_stops_no_other(service: SharingService) -> None:
    good, iso, missing = await service.image(), await service.image(kind=ImageKind.ISO), new_id()
    results = await service.add([iso, missing, good], ["web", "nobody", OWNER])
    assert results == [
        *["IMAGE_KIND_UNSUITED"] * 3,
        *["NOT_FOUND"] * 3,
        *["done", "PROJECT_UNKNOWN", "SHARE_WITH_OWNER"],
    ]
    assert await service.status(good, "web") is PENDING


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"is_published": True}, "IMAGE_PUBLISHED"),
        ({"is_market_derived": True}, "IMAGE_PUBLISHED"),
        ({"visibility": Visibility.PUBLIC}, "IMAGE_PUBLIC"),
        ({"visibility": Visibility.PUBLIC, "project_id": "web"}, "IMAGE_PUBLIC"),
        ({"kind": ImageKind.ISO}, "IMAGE_KIND_UNSUITED"),
        ({"kind": ImageKind.DATA_DISK}, "done"),
        ({"status": ImageStatus.QUEUED}, "IMAGE_NOT_ACTIVE"),
        ({"status": ImageStatus.SAVING}, "IMAGE_NOT_ACTIVE"),
        ({"status": ImageStatus.DEACTIVATED}, "IMAGE_NOT_ACTIVE"),
        ({"status": ImageStatus.PENDING_DELETE}, "NOT_FOUND"),
        ({"public_platform": "Ubuntu"}, "done"),
        ({"is_protected": True}, "done"),
    ],
)
async def test_rows_of_table_5_3_on_sharing_images(
    service: SharingService, values: dict[str, Any], reason: str
) -> None:
    """Private image status: Normal; Image sharing: none that is published (contract §9.1, column "share")."""
    image = await service.image(**values)
    assert await service.add([image], ["shop"]) == [reason]
    assert (await service.status(image, "shop") is None) is (reason != "done")


async def test_a_project_receives_any_number_of_images_beside_its_own(database: Database) -> None:
    """Table 5-3, Maximum number of shared images that a tenant can receive: no limit; contract §6.2."""
    async with serving(database, quotas={"images": 1}) as service:
        await service.projects("web")
        images = [await service.image() for _ in range(150)]
        for batch in (images[:100], images[100:]):
            assert set(await service.add(batch, ["web"])) == {"done"}
            assert set(await service.answer("web", batch, ACCEPTED)) == {"done"}
        async with database.reading() as c:
            assert await quota_rows.used(c, "web", "images") == 0


async def test_a_received_image_is_not_shared_on_and_its_other_members_are_not_told(
    service: SharingService,
) -> None:
    """Contract §6.2: a received image cannot be shared on directly."""
    image = await service.image()
    await service.add([image], ["web", "shop"])
    await service.answer("web", [image], ACCEPTED)
    assert await service.add([image], ["shop"], by="web") == ["NOT_OWNER"]
    assert await service.remove([image], ["shop"], by="web") == ["NOT_OWNER"]
    own, token = await service.members.list(MemberQuery(project_id="web", image_id=image), 0, "")
    assert ([each.project_id for each in own], token) == (["web"], "")
    assert (await service.members.get("web", image, "web")).status is ACCEPTED
    with pytest.raises(NotFound):
        await service.members.get("web", image, "shop")
    assert (await service.members.get(OWNER, image, "shop")).status is PENDING


async def test_a_stranger_learns_nothing_of_an_image(service: SharingService) -> None:
    image = await service.image()
    await service.add([image], ["web"])
    assert await service.add([image, new_id()], ["web"], by="shop") == ["NOT_FOUND"] * 2
    assert await service.answer("shop", [image, new_id()], ACCEPTED) == ["NOT_FOUND"] * 2
    assert await service.remove([image, new_id()], ["web"], by="shop") == ["NOT_FOUND"] * 2
    messages = []
    for image_id in (image, new_id()):
        with pytest.raises(NotFound) as listed:
            await service.members.list(MemberQuery(project_id="shop", image_id=image_id), 0, "")
        with pytest.raises(NotFound) as got:
            await service.members.get("shop", image_id, "shop")
        assert listed.value.message == got.value.message
        messages.append(got.value.message.replace(image_id, "IMAGE"))
    assert messages[0] == messages[1]


async def test_only_members_answer_and_only_members_are_removed(service: SharingService) -> None:
    image = await service.image()
    assert await service.answer(OWNER, [image], ACCEPTED) == ["NOT_FOUND"]
    public = await service.image(visibility=Visibility.PUBLIC)
    assert await service.answer("web", [public], ACCEPTED) == ["NOT_FOUND"]
    assert await service.remove([image], ["web", "nobody"]) == ["NOT_FOUND"] * 2


async def test_an_image_that_cannot_be_used_is_not_shared_but_its_shares_can_end(
    service: SharingService,
) -> None:
    """Table 5-3, Private image status: Normal."""
    image = await service.image()
    await service.add([image], ["web"])
    async with service.database.transaction() as c:
        await image_rows.update_image(
            c, image, {"status": ImageStatus.DEACTIVATED}, statuses=[ImageStatus.ACTIVE]
        )
    assert await service.add([image], ["shop"]) == ["IMAGE_NOT_ACTIVE"]
    assert await service.answer("web", [image], ACCEPTED) == ["done"]
    assert await service.remove([image], ["web"]) == ["done"]


async def test_an_image_has_no_more_members_than_the_limit_whatever_they_answered(database: Database) -> None:
    """Table 5-3, Maximum number of tenants an image can be shared with: 128 for a system or data disk."""
    async with serving(database) as service:
        names = [f"p{number}" for number in range(130)]
        await service.projects(*names)
        image = await service.image()
        results = await service.add([image], names[:100])
        await service.answer("p0", [image], REJECTED)
        await service.answer("p1", [image], ACCEPTED)
        results += await service.add([image], names[100:])
        assert results == ["done"] * 128 + ["QUOTA_EXCEEDED"] * 2
        assert await service.add([image], ["p0"]) == ["done"]  # asked again: no further member
        await service.remove([image], ["p5"])
        assert await service.add([image], ["p128", "p129"]) == ["done", "QUOTA_EXCEEDED"]


async def test_the_limit_holds_for_requests_at_the_same_time(database: Database) -> None:
    async with serving(database, max_members_per_image=50) as service:
        names = [f"p{number}" for number in range(200)]
        await service.projects(*names)
        image = await service.image()
        results = await asyncio.gather(*(service.add([image], [name]) for name in names))
        assert sorted(map(tuple, results)) == [("QUOTA_EXCEEDED",)] * 150 + [("done",)] * 50
        async with database.reading() as c:
            assert await member_rows.member_counts(c, [image]) == {image: 50}


async def test_a_share_takes_of_the_quotas_when_it_is_accepted(database: Database) -> None:
    """Contract §6.2: a pending share does not consume the sharing quota."""
    async with serving(database, quotas={"image_members": 2, "shared_images": 1}) as service:
        await service.projects("a", "b", "c")
        first, second = await service.image(), await service.image()
        assert await service.add([first, second], ["a", "b", "c"]) == ["done"] * 6
        assert await service.answer("a", [first, second], ACCEPTED) == ["done", "QUOTA_EXCEEDED"]
        assert await service.answer("b", [first], ACCEPTED) == ["done"]
        assert await service.answer("c", [first, second], ACCEPTED) == ["QUOTA_EXCEEDED"] * 2
        await service.answer("b", [first], REJECTED)
        assert await service.answer("c", [first, second], ACCEPTED) == ["done", "QUOTA_EXCEEDED"]
        async with database.reading() as c:
            assert await quota_rows.used(c, OWNER, "image_members") == 2
            assert await quota_rows.used(c, OWNER, "shared_images") == 1


async def test_acceptances_at_the_same_time_stay_within_the_quota(database: Database) -> None:
    async with serving(database, quotas={"image_members": 5}) as service:
        names = [f"p{number}" for number in range(20)]
        await service.projects(*names)
        image = await service.image()
        await service.add([image], names)
        results = await asyncio.gather(*(service.answer(name, [image], ACCEPTED) for name in names))
        assert sorted(map(tuple, results)) == [("QUOTA_EXCEEDED",)] * 15 + [("done",)] * 5


async def test_a_request_that_is_repeated_starts_no_second_job(service: SharingService) -> None:
    image = await service.image()
    asked = key(OWNER, "once")
    first = await service.members.add(asked, [image], ["web"])
    assert await service.members.add(asked, [image], ["web"]) == first
    with pytest.raises(InvalidRequest) as reused:
        await service.members.remove(RequestKey(OWNER, "once", "other"), [image], ["web"])
    assert reused.value.reason == "REQUEST_ID_REUSED"
    assert await service.results_of(OWNER, first) == ["done"]


async def test_a_job_that_a_crash_ended_is_done_as_a_whole_when_it_runs_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash comes in the transaction, when every pair is written and the job is not ended yet."""
    change = member_rows.change_members
    is_written = asyncio.Event()

    async def crash(*arguments: Any) -> None:
        await change(*arguments)
        is_written.set()
        await asyncio.Event().wait()

    async with serving(database) as service:
        await service.projects("web", "shop")
        image = await service.image()
        monkeypatch.setattr(member_rows, "change_members", crash)
        job_id = await service.members.add(key(OWNER), [image], ["web", "nobody", "shop"])
        await is_written.wait()
    monkeypatch.undo()
    async with serving(database) as service:
        assert await service.results_of(OWNER, job_id) == ["done", "PROJECT_UNKNOWN", "done"]
        view = await service.jobs.get(OWNER, job_id)
        assert view.record.attempt == 2
        assert await service.status(image, "web") is PENDING


async def test_a_job_that_is_cancelled_in_time_changes_nothing(
    service: SharingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await service.image()
    monkeypatch.setattr(Dispatcher, "dispatch", lambda *_: None)
    job_id = await service.members.add(key(OWNER), [image], ["web"])
    monkeypatch.undo()
    await service.jobs.cancel(OWNER, job_id)
    [*_, last] = [view async for view in service.jobs.watch(OWNER, job_id)]
    assert last.record.state is JobState.CANCELLED
    assert await service.status(image, "web") is None


async def test_a_job_fails_as_a_whole_when_the_database_does_not_answer(
    service: SharingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise Unavailable("the database does not answer")

    image = await service.image()
    monkeypatch.setattr(member_rows, "change_members", fail)
    job_id = await service.members.add(key(OWNER), [image], ["web"])
    [*_, last] = [view async for view in service.jobs.watch(OWNER, job_id)]
    assert (last.record.state, last.record.error_reason) == (JobState.FAIL, "UNAVAILABLE")
    assert await service.status(image, "web") is None


async def test_a_job_on_several_images_names_them_all(service: SharingService) -> None:
    images = [await service.image() for _ in range(3)]
    job_id = await service.members.add(key(OWNER), images, ["web"])
    assert list((await service.jobs.get(OWNER, job_id)).image_ids) == images


async def test_members_are_listed_page_by_page(service: SharingService) -> None:
    names = [f"p{number}" for number in range(7)]
    await service.projects(*names)
    image = await service.image()
    for name in names:
        await service.add([image], [name])
    for name in names[::2]:
        await service.answer(name, [image], ACCEPTED)
    query = MemberQuery(project_id=OWNER, image_id=image)
    first, token = await service.members.list(query, 4, "")
    await service.remove([image], ["p3"])  # where the token stands
    second, end = await service.members.list(query, 4, token)
    assert [each.project_id for each in (*first, *second)] == names
    assert end == ""
    accepted = MemberQuery(project_id=OWNER, image_id=image, statuses=(ACCEPTED,))
    found, _ = await service.members.list(accepted, 0, "")
    assert [each.project_id for each in found] == names[::2]
    with pytest.raises(InvalidRequest):
        await service.members.list(accepted, 4, token)


ID = "11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    ("images", "projects"),
    [
        ([], ["web"]),
        ([ID], []),
        ([ID, ID], ["web"]),
        ([ID], ["web", "web"]),
        ([""], ["web"]),
        (["x" * 36], ["web"]),
        ([ID.upper().replace("1", "A")], ["web"]),
        ([ID], [""]),
        ([ID], ["a b"]),
        ([ID], ["web\n"]),
        ([ID], ["w" * 65]),
        ([ID], ["\0"]),
        ([ID], [f"p{n}" for n in range(101)]),
        ([f"{n:08x}{ID[8:]}" for n in range(101)], ["web"]),
        ([f"{n:08x}{ID[8:]}" for n in range(11)], [f"p{n}" for n in range(100)]),
    ],
)
async def test_bad_lists_are_refused(service: SharingService, images: list[str], projects: list[str]) -> None:
    for call in (service.members.add, service.members.remove):
        with pytest.raises(InvalidRequest):
            await call(key(OWNER), images, projects)


async def test_a_thousand_pairs_are_one_job(service: SharingService) -> None:
    names = [f"p{number}" for number in range(100)]
    await service.projects(*names)
    images = [await service.image() for _ in range(10)]
    assert await service.add(images, names) == ["done"] * 1000
    assert await service.answer("p7", images, ACCEPTED) == ["done"] * 10
    assert await service.remove(images, names) == ["done"] * 1000


async def test_a_member_does_not_answer_that_it_is_pending(service: SharingService) -> None:
    with pytest.raises(InvalidRequest):
        await service.members.update(key("web"), [ID], PENDING)


async def test_a_job_whose_caller_leaves_while_it_is_committed_runs_all_the_same(
    service: SharingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await service.image()
    calling = asyncio.create_task(service.members.add(key(OWNER, "once"), [image], ["web"]))
    leave_at_commit(monkeypatch, calling)
    with pytest.raises(asyncio.CancelledError):
        await calling
    async with service.database.reading() as c:
        [job] = await job_rows.list_jobs(c, JobQuery(project_id=OWNER), 2, None)
    async with asyncio.timeout(30):
        assert await service.results_of(OWNER, job.id) == ["done"]


async def test_with_the_image_its_shares_end(service: SharingService) -> None:
    image = await service.image()
    await service.add([image], ["web"])
    async with service.database.transaction() as c:
        await member_rows.end_shares(c, image, now())
    assert (await service.record(image)).visibility is Visibility.PRIVATE
    assert await service.answer("web", [image], ACCEPTED) == ["NOT_FOUND"]

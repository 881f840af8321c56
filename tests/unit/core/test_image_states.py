"""What is decided of images: which states allow it, and that saying it twice changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert

from imsd.contract import Conflict, ImsError, LimitExceeded, NotFound
from imsd.core import quotas
from imsd.core.image_changes import ImageRef
from imsd.core.image_deletion import ImageDeletion
from imsd.core.image_states import ImageStates
from imsd.core.image_update import ImageChange, ImageUpdates
from imsd.core.images import Images
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.metadata import images as image_rows
from imsd.metadata.database import Database
from imsd.metadata.image_query import ImageQuery, Scope
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, MemberStatus, Visibility
from imsd.metadata.states import IMAGE_NEXT_STATES
from imsd.metadata.tables import image_member
from tests.unit.metadata.samples import START, an_image, new_id

Call = Callable[[ImageStates, ImageRef], Awaitable[ImageRecord]]

CALLS: dict[str, Call] = {
    "deactivate": lambda states, ref: states.deactivate(ref),
    "reactivate": lambda states, ref: states.reactivate(ref),
    "deprecate": lambda states, ref: states.deprecate(ref, ""),
    "undeprecate": lambda states, ref: states.undeprecate(ref),
    "make public": lambda states, ref: states.set_visibility(ref, "public"),
    "make private": lambda states, ref: states.set_visibility(ref, "private"),
    "publish": lambda states, ref: states.publish(ref, "code"),
    "unpublish": lambda states, ref: states.unpublish(ref),
}
# The others also while nobody may use it: what is withdrawn need not be offered for it.
OFFERING = {"make public", "publish"}


@pytest.fixture
def states(runtime: Runtime) -> ImageStates:
    return ImageStates(runtime)


async def put(database: Database, *members: str, **values: Any) -> ImageRecord:
    record = an_image(**values)
    async with database.transaction() as c:
        await image_rows.insert_image(c, record)
        for project_id in members:
            row = {"image_id": record.id, "project_id": project_id, "status": MemberStatus.PENDING}
            await c.execute(insert(image_member).values(row | {"created_at": START, "updated_at": START}))
    return record


async def row_of(database: Database, record: ImageRecord) -> ImageRecord | None:
    async with database.reading() as c:
        return await image_rows.get_image(c, record.project_id, record.id)


def ref(record: ImageRecord, etag: str = "") -> ImageRef:
    return ImageRef(record.project_id, record.id, etag)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", list(ImageStatus))
async def test_a_status_allows_a_call_or_refuses_it(
    states: ImageStates, database: Database, name: str, status: ImageStatus
) -> None:
    record = await put(database, status=status)
    allowed = {ImageStatus.ACTIVE} if name in OFFERING else {ImageStatus.ACTIVE, ImageStatus.DEACTIVATED}
    if status in allowed:
        await CALLS[name](states, ref(record))
        return
    is_there = status in (ImageStatus.QUEUED, ImageStatus.SAVING, ImageStatus.DEACTIVATED)
    with pytest.raises(ImsError) as refused:
        await CALLS[name](states, ref(record))
    assert refused.value.reason == ("IMAGE_NOT_ACTIVE" if is_there else "NOT_FOUND")
    assert refused.value.hint
    assert await row_of(database, record) == record


@pytest.mark.parametrize("name", CALLS)
async def test_only_the_owner_decides_and_of_the_version_it_saw(
    states: ImageStates, database: Database, name: str
) -> None:
    record = await put(database, "friend")
    for project_id, reason in (
        ("friend", "NOT_OWNER"),
        ("stranger", "NOT_FOUND"),
        ("a b", "INVALID_REQUEST"),
    ):
        with pytest.raises(ImsError) as refused:
            await CALLS[name](states, replace(ref(record), project_id=project_id))
        assert refused.value.reason == reason
    with pytest.raises(Conflict):
        await CALLS[name](states, ref(record, "2"))
    for image_id in ("", "x", record.id.upper() + "A"):
        with pytest.raises(ImsError) as refused:
            await CALLS[name](states, replace(ref(record), image_id=image_id))
        assert refused.value.reason == "INVALID_REQUEST"
    assert await row_of(database, record) == record


@pytest.mark.parametrize("name", CALLS)
async def test_a_second_call_changes_nothing(states: ImageStates, database: Database, name: str) -> None:
    record = await put(database)
    once = await CALLS[name](states, ref(record))
    assert await CALLS[name](states, ref(record)) == once
    assert once.version in (1, 2)


async def test_a_deactivated_image_is_active_again(states: ImageStates, database: Database) -> None:
    record = await put(database)
    assert (await states.deactivate(ref(record))).status is ImageStatus.DEACTIVATED
    back = await states.reactivate(ref(record))
    assert (back.status, back.version) == (ImageStatus.ACTIVE, 3)


async def test_a_replacement_is_another_image_that_the_project_sees(
    states: ImageStates, database: Database
) -> None:
    record, foreign = await put(database), await put(database, project_id="other")
    public = await put(database, project_id="other", visibility=Visibility.PUBLIC)
    for replacement, reason in (
        (record.id, "INVALID_REQUEST"),
        ("x", "INVALID_REQUEST"),
        (new_id(), "NOT_FOUND"),
        (foreign.id, "NOT_FOUND"),
    ):
        with pytest.raises(ImsError) as refused:
            await states.deprecate(ref(record), replacement)
        assert refused.value.reason == reason
    first = await states.deprecate(ref(record), "")
    marked = await states.deprecate(ref(record), public.id)
    assert (marked.replacement_image_id, marked.deprecated_at) == (public.id, first.deprecated_at)
    with pytest.raises(ImsError):
        await states.undeprecate(ref(record), public.id)
    cleared = await states.undeprecate(ref(record))
    assert (cleared.replacement_image_id, cleared.deprecated_at) == ("", None)


async def shown(runtime: Runtime, record: ImageRecord, project_id: str) -> list[str]:
    """The replacement of an image by each way to read it."""
    images = Images(runtime)
    query = ImageQuery(project_id=project_id, scope=Scope.ALL, exactly=(("id", record.id),))
    [listed], _ = await images.list(query, 0, "")
    found = [await images.get(project_id, record.id), await images.resolve(project_id, record.name), listed]
    return [each.replacement_image_id for each in found]


async def test_a_replacement_that_is_gone_is_named_to_nobody_and_one_that_comes_back_is(
    runtime: Runtime, states: ImageStates, database: Database
) -> None:
    record, other = await put(database, name="old"), await put(database, name="new")
    await states.deprecate(ref(record), other.id)
    assert await shown(runtime, record, "lab") == [other.id] * 3
    deletion = ImageDeletion(runtime, Sweeper(runtime))
    await deletion.delete(ref(other), is_final=False)
    assert await shown(runtime, record, "lab") == [""] * 3
    change = ImageChange(values={"description": "d"})
    assert (await ImageUpdates(runtime).update(ref(record), change)).replacement_image_id == ""
    assert (await states.deactivate(ref(record))).replacement_image_id == ""
    await states.reactivate(ref(record))
    await deletion.undelete(ref(other))
    assert await shown(runtime, record, "lab") == [other.id] * 3


async def test_a_replacement_that_is_gone_can_be_taken_back(
    runtime: Runtime, states: ImageStates, database: Database
) -> None:
    record, other = await put(database, name="old"), await put(database, name="new")
    await states.deprecate(ref(record), other.id)
    deletion = ImageDeletion(runtime, Sweeper(runtime))
    await deletion.delete(ref(other), is_final=False)
    await states.deprecate(ref(record), "")
    await deletion.undelete(ref(other))
    assert await shown(runtime, record, "lab") == [""] * 3


async def test_a_replacement_is_named_to_those_who_see_it(
    runtime: Runtime, states: ImageStates, database: Database
) -> None:
    record = await put(database, name="old", visibility=Visibility.PUBLIC)
    private = await put(database, name="private")
    shared = await put(database, "friend", name="shared", visibility=Visibility.SHARED)
    await states.deprecate(ref(record), private.id)
    assert await shown(runtime, record, "friend") == [""] * 3
    await states.deprecate(ref(record), shared.id)
    assert await shown(runtime, record, "friend") == [shared.id] * 3
    assert await shown(runtime, record, "stranger") == [""] * 3


@pytest.mark.parametrize("visibility", ["shared", "", "everybody"])
async def test_only_members_make_an_image_shared(
    states: ImageStates, database: Database, visibility: str
) -> None:
    with pytest.raises(ImsError) as refused:
        await states.set_visibility(ref(await put(database)), visibility)
    assert (refused.value.reason, refused.value.field) == ("INVALID_REQUEST", "visibility")


@pytest.mark.parametrize(
    ("values", "members", "reason"),
    [
        ({"kind": ImageKind.DATA_DISK}, (), "IMAGE_KIND_UNSUITED"),
        ({"kind": ImageKind.ISO}, (), "IMAGE_KIND_UNSUITED"),
        ({"is_published": True}, (), "IMAGE_PUBLISHED"),
        ({"visibility": Visibility.SHARED}, ("friend",), "IMAGE_SHARED"),
    ],
)
async def test_what_cannot_be_public_stays_as_it_is(
    states: ImageStates, database: Database, values: dict[str, Any], members: tuple[str, ...], reason: str
) -> None:
    record = await put(database, *members, **values)
    with pytest.raises(ImsError) as refused:
        await states.set_visibility(ref(record), "public")
    assert refused.value.reason == reason
    assert await row_of(database, record) == record


@pytest.mark.parametrize(
    ("values", "members", "reason"),
    [
        ({"kind": ImageKind.DATA_DISK}, (), "IMAGE_KIND_UNSUITED"),
        ({"visibility": Visibility.PUBLIC}, (), "IMAGE_PUBLIC"),
        ({"visibility": Visibility.SHARED}, ("friend",), "IMAGE_SHARED"),
    ],
)
async def test_what_cannot_be_published_stays_as_it_is(
    states: ImageStates, database: Database, values: dict[str, Any], members: tuple[str, ...], reason: str
) -> None:
    record = await put(database, *members, **values)
    with pytest.raises(ImsError) as refused:
        await states.publish(ref(record), "")
    assert refused.value.reason == reason


async def test_what_is_offered_is_withdrawn_while_nobody_may_use_it(
    states: ImageStates, database: Database
) -> None:
    public = await put(database, visibility=Visibility.PUBLIC, status=ImageStatus.DEACTIVATED)
    withdrawn = await states.set_visibility(ref(public), "private")
    assert (withdrawn.visibility, withdrawn.status) == (Visibility.PRIVATE, ImageStatus.DEACTIVATED)
    sold = await put(database, is_published=True, product_code="one", status=ImageStatus.DEACTIVATED)
    withdrawn = await states.unpublish(ref(sold))
    assert (withdrawn.is_published, withdrawn.status) == (False, ImageStatus.DEACTIVATED)


@pytest.mark.parametrize("code", ["a b", "x" * 65, "ä", "\0", "a\n"])
async def test_a_product_code_is_plain(states: ImageStates, database: Database, code: str) -> None:
    with pytest.raises(ImsError) as refused:
        await states.publish(ref(await put(database)), code)
    assert refused.value.field == "product_code"


async def test_a_published_image_may_get_another_code_and_loses_it(
    states: ImageStates, database: Database
) -> None:
    record = await put(database)
    assert (await states.publish(ref(record), "one")).product_code == "one"
    assert (await states.publish(ref(record), "two")).product_code == "two"
    with pytest.raises(ImsError):
        await states.unpublish(ref(record), "two")
    withdrawn = await states.unpublish(ref(record))
    assert (withdrawn.is_published, withdrawn.product_code) == (False, "")


async def test_a_public_image_that_becomes_private_needs_room_in_the_quota(
    states: ImageStates, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await put(database, visibility=Visibility.PUBLIC)
    await put(database)
    monkeypatch.setattr(quotas, "default_of", lambda *_: 1)
    with pytest.raises(LimitExceeded):
        await states.set_visibility(ref(record), "private")
    monkeypatch.setattr(quotas, "default_of", lambda *_: 2)
    assert (await states.set_visibility(ref(record), "private")).visibility is Visibility.PRIVATE


@pytest.mark.parametrize("old", list(ImageStatus))
@pytest.mark.parametrize("new", list(ImageStatus))
async def test_a_move_outside_the_table_is_a_defect(
    database: Database, old: ImageStatus, new: ImageStatus
) -> None:
    record = await put(database, status=old)
    async with database.transaction() as c:
        move = image_rows.update_image(c, record.id, {"status": new}, statuses=[old])
        if new is old or new in IMAGE_NEXT_STATES[old]:
            moved = await move
            assert moved is not None
            assert moved.status is new
        else:
            with pytest.raises(ValueError, match=f"cannot become {new}"):
                await move


async def test_an_image_that_is_gone_is_not_found(states: ImageStates) -> None:
    for call in CALLS.values():
        with pytest.raises(NotFound):
            await call(states, ImageRef("lab", new_id()))

"""Tags of an image: what they may be, who changes them, what a list may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from imsd.contract import Conflict, FailedPrecondition, InvalidRequest, NotFound, PermissionDenied
from imsd.core import checks
from imsd.core.image_changes import ImageRef
from imsd.core.runtime import Runtime
from imsd.core.tag_filter import tag_query
from imsd.core.tags import Tags
from imsd.metadata import images, members
from imsd.metadata.image_query import ImageQuery
from imsd.metadata.records import ImageRecord, ImageStatus, MemberRecord, MemberStatus, Visibility
from tests.unit.core.core_world import new_id
from tests.unit.metadata.samples import an_image

PROJECT = "lab"


@pytest.fixture
def tags(runtime: Runtime) -> Tags:
    return Tags(runtime)


def ref(image_id: str, etag: str = "") -> ImageRef:
    return ImageRef(PROJECT, image_id, etag)


async def stored(runtime: Runtime, **values: object) -> ImageRecord:
    record = an_image(**values)
    async with runtime.database.transaction() as c:
        await images.insert_image(c, record)
    return record


async def test_tags_are_added_replaced_and_taken_off(runtime: Runtime, tags: Tags) -> None:
    image = await stored(runtime, tags={"stage": "test"})
    after = await tags.set(ref(image.id), [(" team ", " core "), ("stage", "live")])
    assert dict(after.tags) == {"stage": "live", "team": "core"}
    assert after.version == image.version + 1
    assert after.updated_at > image.updated_at
    assert await tags.get(PROJECT, image.id) == after
    left = await tags.delete(ref(image.id), ["team"], is_lenient=False)
    assert dict(left.tags) == {"stage": "live"}


async def test_what_changes_nothing_leaves_the_etag(runtime: Runtime, tags: Tags) -> None:
    image = await stored(runtime, tags={"stage": "live"})
    assert (await tags.set(ref(image.id), [("stage", "live")])).version == image.version
    assert (await tags.delete(ref(image.id), ["x"], is_lenient=True)).version == image.version


async def test_table_5_6_maximum_number_of_tags_that_can_be_added_to_a_private_image(
    runtime: Runtime, tags: Tags
) -> None:
    image = await stored(runtime, tags={f"key{n}": "" for n in range(9)})
    await tags.set(ref(image.id), [("key9", "")])
    for given in ([("key10", "")], [(f"other{n}", "") for n in range(11)]):
        with pytest.raises(InvalidRequest) as refused:
            await tags.set(ref(image.id), given)
        assert refused.value.reason == "TOO_MANY_TAGS"
    # A key that is there is replaced, which needs no room.
    assert (await tags.set(ref(image.id), [("key0", "new")])).tags["key0"] == "new"


async def test_an_image_with_more_tags_than_are_allowed_by_now_gets_no_more(runtime: Runtime) -> None:
    """The operator has set a lower limit: what is there stays, and its values can be replaced."""
    fewer = Tags(replace(runtime, limits=replace(runtime.limits, max_tags_per_image=2)))
    image = await stored(runtime, tags={"a": "", "b": "", "c": ""})
    assert (await fewer.set(ref(image.id), [("a", "new")])).tags == {"a": "new", "b": "", "c": ""}
    for given in ([("d", "")], [("a", "x"), ("d", "")]):
        with pytest.raises(InvalidRequest) as refused:
            await fewer.set(ref(image.id), given)
        assert refused.value.reason == "TOO_MANY_TAGS"
    assert (await fewer.delete(ref(image.id), ["c"], is_lenient=False)).tags == {"a": "new", "b": ""}


async def test_case_counts(runtime: Runtime, tags: Tags) -> None:
    image = await stored(runtime, tags={"Stage": "Live"})
    after = await tags.set(ref(image.id), [("stage", "live")])
    assert dict(after.tags) == {"Stage": "Live", "stage": "live"}
    with pytest.raises(NotFound):
        await tags.delete(ref(image.id), ["STAGE"], is_lenient=False)


async def test_a_key_that_is_not_there_is_not_found_and_nothing_changes(runtime: Runtime, tags: Tags) -> None:
    image = await stored(runtime, tags={"stage": "live", "team": "core"})
    with pytest.raises(NotFound, match="has no tag 'zone'") as refused:
        await tags.delete(ref(image.id), ["stage", "zone"], is_lenient=False)
    assert refused.value.field == "keys"
    assert dict((await tags.get(PROJECT, image.id)).tags) == image.tags
    left = await tags.delete(ref(image.id), ["stage", "zone"], is_lenient=True)
    assert dict(left.tags) == {"team": "core"}


async def test_only_the_owner_changes_tags_and_only_of_an_active_image(runtime: Runtime, tags: Tags) -> None:
    public = await stored(runtime, project_id="owner", visibility=Visibility.PUBLIC, tags={"a": "b"})
    hidden = await stored(runtime, project_id="owner")
    queued = await stored(runtime, status=ImageStatus.QUEUED)
    assert dict((await tags.get(PROJECT, public.id)).tags) == {"a": "b"}
    for call in (
        tags.set(ref(public.id), [("a", "c")]),
        tags.delete(ref(public.id), ["a"], is_lenient=False),
    ):
        with pytest.raises(PermissionDenied) as refused:
            await call
        assert refused.value.reason == "NOT_OWNER"
    for missing in (hidden.id, new_id()):
        with pytest.raises(NotFound):
            await tags.set(ref(missing), [("a", "c")])
        with pytest.raises(NotFound):
            await tags.get(PROJECT, missing)
    with pytest.raises(FailedPrecondition, match="is queued, not active"):
        await tags.set(ref(queued.id), [("a", "c")])


async def test_a_prepared_image_is_tagged_while_it_waits_for_its_bytes(runtime: Runtime, tags: Tags) -> None:
    """As by an update of the image."""
    image = await stored(runtime, status=ImageStatus.QUEUED, is_prepared=True, tags={"a": "b"})
    assert dict((await tags.set(ref(image.id), [("stage", "live")])).tags) == {"a": "b", "stage": "live"}
    assert dict((await tags.delete(ref(image.id), ["a"], is_lenient=False)).tags) == {"stage": "live"}


async def test_tags_change_only_at_the_etag_that_was_read(runtime: Runtime, tags: Tags) -> None:
    image = await stored(runtime, tags={"stage": "test"})
    read = f"{image.version}"
    changed = await tags.set(ref(image.id, read), [("stage", "live")])
    with pytest.raises(Conflict):
        await tags.set(ref(image.id, read), [("stage", "late")])
    with pytest.raises(Conflict):
        await tags.delete(ref(image.id, read), ["stage"], is_lenient=False)
    assert await tags.get(PROJECT, image.id) == changed
    assert (await tags.delete(ref(image.id, f"{changed.version}"), ["stage"], is_lenient=False)).tags == {}


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("", "x")],
        [("  ", "x")],
        [("k" * 37, "x")],
        [("a.b", "x")],
        [("a=b", "x")],
        [("a b", "x")],
        [("a", "v" * 44)],
        [("a", "b c")],
        [("a", "b=c")],
        [("a\x00", "b")],
        [("a\n", "b")],
        [("a", "b\n")],
        [("a", "\ud7ff\u2028")],
        [("a", "1"), ("a", "2")],
        [("a", "1"), (" a ", "2")],
    ],
)
async def test_what_is_no_tag_is_refused(
    runtime: Runtime, tags: Tags, given: Sequence[tuple[str, str]]
) -> None:
    image = await stored(runtime)
    with pytest.raises(InvalidRequest) as refused:
        await tags.set(ref(image.id), given)
    assert refused.value.field == "tags"


async def test_letters_of_every_language_are_letters(runtime: Runtime, tags: Tags) -> None:
    image = await stored(runtime)
    wide = [("阶段" * 18, "生产" * 21 + "x"), ("größe_1-a", "1.0-rc_2")]
    assert dict((await tags.set(ref(image.id), wide)).tags) == dict(wide)


def test_the_tags_of_a_new_image_obey_the_same_rules() -> None:
    assert checks.tags({" b ": " x ", "a": ""}) == {"a": "", "b": "x"}
    with pytest.raises(InvalidRequest) as refused:
        checks.tags({f"k{n}": "" for n in range(11)})
    assert refused.value.reason == "TOO_MANY_TAGS"
    with pytest.raises(InvalidRequest, match="the same key"):
        checks.tags({"a": "1", " a": "2"})


Wanted = dict[str, Sequence[tuple[str, Sequence[str]]]]


@pytest.mark.parametrize(
    "wanted",
    [
        {"all": [(f"k{n}", []) for n in range(11)]},
        {"any": [("k", [f"v{n}" for n in range(11)])]},
        {"not_all": [("k", []), ("k", ["v"])]},
        {"not_any": [("k", ["v", "v"])]},
        {"any": [("k", ["v", " v "])]},
        {"all": [("", ["v"])]},
        {"all": [(" ", ["v"])]},
        {"all": [("k" * 128, [])]},
        {"all": [("k", ["v" * 256])]},
        {"all": [("k\x00", [])]},
        {"all": [("k", ["v\x00"])]},
    ],
)
def test_a_filter_that_asks_for_too_much_is_refused(wanted: Wanted) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tag_query(PROJECT, wanted, [])
    assert refused.value.field.startswith("filter.")
    # Of images without any tag, the lists do not count.
    assert tag_query(PROJECT, wanted, [], is_untagged=True).has_all == {}


@pytest.mark.parametrize(
    "matches",
    [
        [("name", "x")],
        [("resource_name", "x"), ("resource_name", "y")],
        [("resource_id", "x" * 256)],
        [("resource_name", "\x00")],
    ],
)
def test_what_cannot_be_matched_is_refused(matches: Sequence[tuple[str, str]]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tag_query(PROJECT, {}, matches)
    assert refused.value.field == "filter.matches"


async def test_images_are_found_by_tags_in_pages_and_counted(runtime: Runtime, tags: Tags) -> None:
    made = [await stored(runtime, tags={"stage": "live"}) for _ in range(12)]
    await stored(runtime)
    query = tag_query(PROJECT, {"all": [(" stage ", [" live "])]}, [])
    found, total = await tags.find(query, 0, 0)
    assert (len(found), total) == (10, 12)
    rest, total = await tags.find(query, 10, 10)
    assert (len(rest), total) == (2, 12)
    assert {each.id for each in [*found, *rest]} == {each.id for each in made}
    assert await tags.count(tag_query(PROJECT, {}, [], is_untagged=True)) == 1
    by_id = tag_query(PROJECT, {}, [("resource_id", made[3].id)])
    assert [each.id for each in (await tags.find(by_id, 1, 0))[0]] == [made[3].id]
    assert await tags.find(by_id, 1, 1_000_000) == ([], 1)
    for limit, offset in ((-1, 0), (1001, 0), (1, -1), (1, 1_000_001)):
        with pytest.raises(InvalidRequest):
            await tags.find(query, limit, offset)


async def test_a_shared_image_is_not_found_by_its_tags_elsewhere(runtime: Runtime, tags: Tags) -> None:
    image = await stored(runtime, project_id="owner", tags={"stage": "live"})
    async with runtime.database.transaction() as c:
        now = runtime.clock()
        member = MemberRecord(
            image_id=image.id,
            project_id=PROJECT,
            status=MemberStatus.ACCEPTED,
            created_at=now,
            updated_at=now,
        )
        await members.insert_member(c, member)
    assert await tags.count(tag_query(PROJECT, {"all": [("stage", [])]}, [])) == 0


async def test_keys_come_in_pages_that_belong_to_their_query(runtime: Runtime, tags: Tags) -> None:
    await stored(runtime, tags={"a": "1", "b": "2", "c": "3"})
    query = ImageQuery(project_id=PROJECT)
    first, token = await tags.list(query, 2, "")
    assert [key for key, _ in first] == ["a", "b"]
    last, end = await tags.list(query, 2, token)
    assert (list(last), end) == ([("c", ["3"])], "")
    with pytest.raises(InvalidRequest) as refused:
        await tags.list(ImageQuery(project_id="other"), 2, token)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"

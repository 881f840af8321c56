"""Decisions on images that are there, are not there, or are not seen; and what a denial says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imsd.contract import PermissionDenied
from imsd.core.access import MAX_IMAGES, Access, Target
from imsd.core.caller import Caller
from imsd.core.policies.decisions import Policies
from imsd.core.policies.loading import load_policies
from imsd.metadata import images
from imsd.metadata.database import Database, open_database
from imsd.metadata.records import Visibility
from tests.unit.policies.policy_world import LOCAL, image, policies, user

DELETE, GET, SHARE = "ims:images:delete", "ims:images:get", "ims:images:share"
LIVE, TEST, HIDDEN, PUBLIC, MISSING = (f"{n}0000000-0000-4000-8000-000000000000" for n in range(5))
FULL = "IMS FullAccess"

RULES = """
@id("live-stays")
forbid (
  principal,
  action in [Action::"ims:images:delete", Action::"ims:images:share", Action::"ims:images:export"],
  resource is Image
)
when { resource.hasTag("stage") && resource.getTag("stage") == "live" };

@id("testers")
permit (principal in Group::"testers", action == Action::"ims:images:get", resource is Image)
when { resource.hasTag("stage") && resource.getTag("stage") == "test" };
"""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as database:
        async with database.transaction() as c:
            for record in (
                image(id=LIVE, tags={"stage": "live"}),
                image(id=TEST, tags={"stage": "test"}),
                image(id=HIDDEN, project_id="vendor", tags={"stage": "live"}),
                image(id=PUBLIC, project_id="vendor", tags={"stage": "live"}, visibility=Visibility.PUBLIC),
            ):
                await images.insert_image(c, record)
        yield database


@pytest.fixture
def access(database: Database, tmp_path: Path) -> Access:
    return Access(database, policies(tmp_path / "p", RULES))


async def denial(access: Access, caller: Caller, action: str, *ids: str, project_id: str = "blue") -> str:
    """What is said of a denied call; empty when it is admitted."""
    try:
        await access.require(caller, action, Target(project_id=project_id, image_ids=ids))
    except PermissionDenied as error:
        return f"{error.message} | {error.hint}"
    return ""


async def test_what_an_image_is_like_decides(access: Access) -> None:
    alice = user("alice", FULL)
    assert await denial(access, alice, DELETE, TEST) == ""
    assert await denial(access, alice, DELETE, LIVE) == (
        f"policy live-stays forbids ims:images:delete on image {LIVE} in project blue"
        f" | `imsctl policy check me ims:images:delete {LIVE} --project blue` explains"
    )
    assert "live-stays" in await denial(access, LOCAL, DELETE, LIVE)


async def test_a_public_image_is_looked_at_in_any_project(access: Access) -> None:
    assert "live-stays" in await denial(access, user("alice", FULL), "ims:images:export", PUBLIC)


@pytest.mark.parametrize("image_id", [HIDDEN, MISSING, "no id", ""])
async def test_an_image_that_the_project_does_not_see_is_decided_as_one_that_is_not_there(
    access: Access, image_id: str
) -> None:
    assert await denial(access, user("alice", FULL), DELETE, image_id) == ""  # the core says NOT_FOUND
    tester = user("bob", groups=frozenset({"testers"}))
    assert await denial(access, tester, GET, image_id) == await denial(access, tester, GET, MISSING) != ""


async def test_a_permission_for_some_images_is_none_for_others(access: Access) -> None:
    tester = user("bob", groups=frozenset({"testers"}))
    assert await denial(access, tester, GET, TEST) == ""
    assert await denial(access, tester, GET, LIVE) != ""
    assert await denial(access, tester, GET) != ""


async def test_a_batch_is_decided_for_each_of_its_images(access: Access) -> None:
    alice = user("alice", FULL)
    assert await denial(access, alice, SHARE, TEST, MISSING, HIDDEN) == ""
    assert f"on image {LIVE}" in await denial(access, alice, SHARE, TEST, MISSING, LIVE)


async def test_a_batch_is_not_looked_up_without_end(access: Access) -> None:
    many = [TEST] * MAX_IMAGES + [LIVE]
    assert len(await access.ask(user("alice", FULL), SHARE, Target(project_id="blue", image_ids=many))) == 100


async def test_nothing_is_looked_up_for_policies_that_look_at_no_image(database: Database) -> None:
    shipped = Access(database, Policies(load_policies()))
    (answer,) = await shipped.ask(user("alice", FULL), DELETE, Target(project_id="blue", image_ids=(LIVE,)))
    assert answer.image is None


async def test_a_denial_says_which_role_would_help(access: Access) -> None:
    assert await denial(access, user("alice", "IMS ReadOnlyAccess"), DELETE, TEST) == (
        f"alice may not do ims:images:delete on image {TEST} in project blue"
        " | granted there, IMS Administrator with Tenant Administrator or IMS FullAccess allows it"
        f"; `imsctl policy check me ims:images:delete {TEST} --project blue` explains"
    )


@pytest.mark.parametrize("action", [DELETE, GET, SHARE, "ims:images:export"])
async def test_who_sees_nothing_of_a_project_learns_nothing_of_its_images(
    access: Access, action: str
) -> None:
    stranger = user("mallory", "IMS FullAccess", project_id="green")
    said = await denial(access, stranger, action, MISSING)
    assert said.startswith(f"mallory may not do {action} in project blue | granted there, ")
    for image_id in (LIVE, TEST, HIDDEN, PUBLIC):
        assert await denial(access, stranger, action, image_id) == said


async def test_who_sees_an_image_by_a_policy_alone_is_told_of_it(access: Access) -> None:
    tester = user("bob", groups=frozenset({"testers"}))
    assert f"on image {TEST} in" in await denial(access, tester, DELETE, TEST)
    assert await denial(access, tester, DELETE, LIVE) == await denial(access, tester, DELETE, MISSING)


async def test_a_denial_says_which_role_does_not_count(access: Access) -> None:
    said = await denial(access, user("alice", "Server Administrator"), DELETE, TEST)
    needed = (
        "your role Server Administrator does not count without IMS Administrator and Tenant Administrator"
    )
    assert needed in said


async def test_a_denial_of_what_is_for_operators_says_where_the_role_is_granted(access: Access) -> None:
    assert await denial(access, user(), "ims:identity:manage", project_id="*") == (
        "alice may not do ims:identity:manage | granted in every project (*), IMS Operator allows it"
        "; `imsctl policy check me ims:identity:manage` explains"
    )

"""An image that is found by its id, its name or its family is decided on as one that is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imsd.contract import PermissionDenied
from imsd.core.access import Access
from imsd.core.caller import Caller
from imsd.core.projects import KnownProjects
from imsd.core.remembered import Changes
from imsd.grpc_server.gate import Admission
from imsd.metadata import images
from imsd.metadata.database import Database, open_database
from imsd.v1 import image_pb2
from tests.unit.core.core_world import now
from tests.unit.policies.policy_world import LOCAL, image, policies, user

SECRET, TEST = (f"{n}0000000-0000-4000-8000-000000000000" for n in range(2))
FULL = "IMS FullAccess"
RULES = """
@id("secret")
forbid (principal, action == Action::"ims:images:get", resource is Image)
when { resource.hasTag("stage") && resource.getTag("stage") == "secret" };

@id("testers")
permit (principal in Group::"testers", action == Action::"ims:images:get", resource is Image)
when { resource.hasTag("stage") && resource.getTag("stage") == "test" };
"""
ALICE, TESTER = user("alice", FULL), user("bob", groups=frozenset({"testers"}))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as database:
        async with database.transaction() as c:
            await images.insert_image(c, image(id=SECRET, tags={"stage": "secret"}))
            await images.insert_image(c, image(id=TEST, tags={"stage": "test"}))
        yield database


@pytest.fixture
def access(database: Database, tmp_path: Path) -> Access:
    return Access(database, policies(tmp_path / "p", RULES))


def by_text(text: str) -> image_pb2.ResolveImageRequest:
    return image_pb2.ResolveImageRequest(project_id="blue", name_or_id=text)


async def is_admitted(access: Access, caller: Caller, request: Any, answer: Any) -> bool:
    """Whether the caller gets ``answer``."""
    call = type(request).__name__.removesuffix("Request")
    projects = KnownProjects(access._database, now, Changes())
    admission = Admission(caller, f"imsd.v1.ImageService/{call}", access, projects, trace=None)
    try:
        await admission.admit(request)
        await admission.found(answer)
    except PermissionDenied:
        return False
    return True


async def test_by_its_id_it_is_decided_as_get_image_is(access: Access) -> None:
    for caller, admitted in ((ALICE, {TEST}), (LOCAL, {TEST}), (TESTER, {TEST}), (user("eve"), set())):
        for image_id in (SECRET, TEST):
            got = image_pb2.GetImageRequest(project_id="blue", image_id=image_id)
            for request in (got, by_text(image_id)):
                found = await is_admitted(access, caller, request, image_pb2.Image(id=image_id))
                assert found is (image_id in admitted), (caller.id, request)


async def test_by_its_name_it_is_decided_when_it_was_found(access: Access) -> None:
    for request in (by_text("web"), by_text(SECRET[:12])):
        for caller in (ALICE, LOCAL):
            assert not await is_admitted(access, caller, request, image_pb2.Image(id=SECRET))
            assert await is_admitted(access, caller, request, image_pb2.Image(id=TEST))
        # Who may look for no name does not learn whether there is one.
        assert not await is_admitted(access, TESTER, request, image_pb2.Image(id=TEST))


async def test_by_its_family_it_is_decided_when_it_was_found(access: Access) -> None:
    request = image_pb2.ResolveFamilyRequest(project_id="blue", family="web")
    for image_id, admitted in ((SECRET, False), (TEST, True)):
        answer = image_pb2.ResolveFamilyResponse(image_id=image_id)
        assert await is_admitted(access, ALICE, request, answer) is admitted


async def test_in_the_project_that_counts_when_none_is_named(access: Access) -> None:
    request = image_pb2.ResolveImageRequest(name_or_id="web")
    assert not await is_admitted(access, ALICE, request, image_pb2.Image(id=SECRET))
    assert await is_admitted(access, ALICE, request, image_pb2.Image(id=TEST))

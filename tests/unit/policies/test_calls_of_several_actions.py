"""Calls that need more than one action (contract §12.2): none of them may be missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from imsd.contract import PermissionDenied
from imsd.core.access import Access
from imsd.core.projects import KnownProjects
from imsd.core.remembered import Changes
from imsd.grpc_server.gate import Admission
from imsd.metadata import identity, images
from imsd.metadata.database import Database, open_database
from imsd.metadata.identity_records import ProjectRecord
from imsd.v1 import image_pb2
from tests.unit.core.core_world import now
from tests.unit.policies.policy_world import IMAGE_ID, image, policies, user

ENTERPRISE = "aaaaaaaa-0000-4000-8000-000000000000"
ABOUT: dict[str, Any] = {"project_id": "blue", "image_id": IMAGE_ID}
UPLOAD, GET, UPDATE = "ims:images:upload", "ims:images:get", "ims:images:update"
COPY, CREATE = "ims:images:copy", "ims:serverImages:create"


def permit(action: str, condition: str = "") -> str:
    name = action.replace(":", ".")
    return f'@id("{name}") permit (principal, action == Action::"{action}", resource) {condition};\n'


def update(*paths: str) -> image_pb2.UpdateImageRequest:
    wanted = image_pb2.Image(name="new", enterprise_project_id=ENTERPRISE)
    return image_pb2.UpdateImageRequest(
        **ABOUT, image=wanted, update_mask=field_mask_pb2.FieldMask(paths=paths)
    )


def copy(enterprise_project_id: str) -> image_pb2.CopyImageRequest:
    return image_pb2.CopyImageRequest(**ABOUT, name="copy", enterprise_project_id=enterprise_project_id)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as database:
        async with database.transaction() as c:
            await identity.insert_project(c, ProjectRecord(id="blue", description="", created_at=now()))
            await images.insert_image(c, image())
        yield database


async def missing(access: Access, method: str, request: Any) -> str:
    """The action for want of which the call is denied; empty when it is admitted."""
    projects = KnownProjects(access._database, now, Changes())
    entering = Admission(user("alice"), f"imsd.v1.ImageService/{method}", access, projects, trace=None)
    try:
        await entering.admit(request)
    except PermissionDenied as error:
        return error.message.removeprefix("alice may not do ").partition(" ")[0]
    return ""


@pytest.mark.parametrize("condition", ["", 'when { resource is Image && resource.name == "web" }'])
@pytest.mark.parametrize(
    ("method", "request_", "needed"),
    [
        ("RegisterImage", image_pb2.RegisterImageRequest(**ABOUT), (UPLOAD, GET, UPDATE)),
        ("UpdateImage", update("name"), (UPDATE,)),
        ("UpdateImage", update("name", "enterprise_project_id"), (UPDATE, CREATE)),
        ("CopyImage", copy(""), (COPY,)),
        ("CopyImage", copy("0"), (COPY,)),
        ("CopyImage", copy(ENTERPRISE), (COPY, CREATE)),
    ],
    ids=["register", "update", "move", "copy", "copy into the default", "copy into another"],
)
async def test_a_call_needs_every_one_of_its_actions(
    database: Database, tmp_path: Path, method: str, request_: Any, needed: tuple[str, ...], condition: str
) -> None:
    """A policy on images decides what is about the image; to create is decided of the project."""

    def access(number: int, *allowed: str) -> Access:
        rules = "".join(permit(action, condition if action != CREATE else "") for action in allowed)
        return Access(database, policies(tmp_path / str(number), rules))

    assert await missing(access(0, *needed), method, request_) == ""
    for number, action in enumerate(needed, start=1):
        left = [other for other in needed if other != action]
        assert await missing(access(number, *left), method, request_) == action


async def test_a_call_that_runs_ends_when_one_of_its_actions_is_taken_away(
    database: Database, tmp_path: Path
) -> None:
    access = Access(database, policies(tmp_path / "one", "".join(map(permit, (UPLOAD, GET, UPDATE)))))
    projects = KnownProjects(database, now, Changes())
    method = "imsd.v1.ImageService/RegisterImage"
    entered = Admission(user("alice"), method, access, projects, trace=None)
    await entered.admit(image_pb2.RegisterImageRequest(**ABOUT))
    await entered.review(user("alice"))
    access.use(policies(tmp_path / "two", "".join(map(permit, (UPLOAD, GET)))))
    with pytest.raises(PermissionDenied, match=UPDATE):
        await entered.review(user("alice"))

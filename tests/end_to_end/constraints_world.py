"""What the tests of the rows of chapter 5 do again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import closing
from dataclasses import dataclass
from sqlite3 import connect
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from imsd.v1 import identity_pb2, image_pb2, job_pb2, member_pb2, quota_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs

MIB = 1 << 20
OWNER, MEMBER = "owner", "member"
DISK = bytes(range(256)) * 64


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call was refused; ``code``: of the hosted service, or empty."""

    reason: str
    code: str


async def refusal(call: Awaitable[Any]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return code_of(error.value)


def code_of(error: grpc.aio.AioRpcError) -> Refusal:
    info = _info(error)
    return Refusal(info.reason, info.metadata.get("img_code", ""))


def hint_of(error: grpc.aio.AioRpcError) -> str:
    """What the daemon says to do, or nothing."""
    return str(_info(error).metadata.get("hint", ""))


def _info(error: grpc.aio.AioRpcError) -> Any:
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


async def limit(stubs: Stubs, name: str) -> int:
    """The value of a limit of the service."""
    found = await stubs.quotas.ListLimits(quota_pb2.ListLimitsRequest())
    values = {each.name: each.value for each in found.limits}
    return int(values[name])


async def create_projects(stubs: Stubs, *ids: str) -> None:
    for each in ids:
        await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id=each))


async def owned_image(stubs: Stubs, disk: bytes = DISK, **fields: Any) -> image_pb2.Image:
    return await wire.import_disk(stubs, disk, OWNER, **fields)


async def share(stubs: Stubs, image_id: str, *projects: str, by: str = OWNER) -> Sequence[str]:
    """``done``, or the reason why not, for each project."""
    request = member_pb2.AddMembersRequest(project_id=by, image_ids=[image_id], member_project_ids=projects)
    job = await wire.ended(stubs, await stubs.members.AddMembers(request))
    assert job.state == job_pb2.JOB_STATE_SUCCESS, job
    return ["done" if each.is_done else each.error.reason for each in job.member_results]


async def accept(stubs: Stubs, image_id: str, project_id: str = MEMBER) -> None:
    request = member_pb2.UpdateMembersRequest(
        project_id=project_id, image_ids=[image_id], status=image_pb2.MEMBER_STATUS_ACCEPTED
    )
    job = await wire.ended(stubs, await stubs.members.UpdateMembers(request))
    assert [each.is_done for each in job.member_results] == [True], job


def copy_request(image_id: str, project_id: str = OWNER) -> image_pb2.CopyImageRequest:
    return image_pb2.CopyImageRequest(project_id=project_id, image_id=image_id, name="copy")


def set_column(daemon: DaemonProcess, image_id: str, column: str, value: object) -> None:
    """Make an image one that only another part of the service, or a terabyte, could make."""
    with closing(connect(daemon.state_dir / "imsd.sqlite3", timeout=30)) as database, database:
        changed = database.execute(f"UPDATE image SET {column} = ? WHERE id = ?", (value, image_id))
        assert changed.rowcount == 1

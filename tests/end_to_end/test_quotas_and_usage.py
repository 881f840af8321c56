"""Quotas, limits and usage through the whole daemon, by the wire and by imsctl."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from imsd.v1 import identity_pb2, image_pb2, job_pb2
from imsd.v1 import quota_pb2 as pb
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs

DISK = b"disk" * 1024


async def quota(stubs: Stubs, resource: str = "images", project_id: str = "") -> pb.Quota:
    found = await stubs.quotas.GetQuotas(pb.GetQuotasRequest(project_id=project_id))
    quotas: list[pb.Quota] = [each for each in found.quotas if each.resource == resource]
    return quotas[0]


async def attempt(stubs: Stubs, request: image_pb2.CreateImageRequest) -> job_pb2.Job | str:
    """The job, or the reason of the refusal and the code of the hosted service."""
    try:
        job: job_pb2.Job = await stubs.images.CreateImage(request)
    except grpc.aio.AioRpcError as error:
        return wire.reason_of(error)
    return job


async def test_table_5_1_maximum_number_of_private_images_of_200_parallel_requests_50_are_accepted(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    (folder / "disk.raw").write_bytes(DISK)
    daemon = start_daemon(import_roots=folder)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        request = image_pb2.CreateImageRequest(name="disk", local_path=str(folder / "disk.raw"))
        answers = await asyncio.gather(*(attempt(stubs, request) for _ in range(200)))
        accepted = [each for each in answers if not isinstance(each, str)]
        refused = [each for each in answers if isinstance(each, str)]
        assert (len(accepted), set(refused), len(refused)) == (50, {"QUOTA_EXCEEDED"}, 150)
        ended = await asyncio.gather(*(wire.ended(stubs, job) for job in accepted))
        assert {job.state for job in ended} == {job_pb2.JOB_STATE_SUCCESS}
        assert (await quota(stubs)).used == 50
        # Elsewhere there is room, and so there is when one is gone.
        other = image_pb2.CreateImageRequest(name="x", local_path=request.local_path, project_id="other")
        assert not isinstance(await attempt(stubs, other), str)
        await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(image_id=ended[0].image_ids[0]))
        assert not isinstance(await attempt(stubs, request), str)
        assert await attempt(stubs, request) == "QUOTA_EXCEEDED"


async def test_what_failed_is_free_again(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon(quotas__images=1)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        bad = await wire.send(stubs, b"QFI\xfb" + bytes(4096))
        failed = await wire.ended(stubs, await wire.start_image(stubs, bad))
        assert failed.state == job_pb2.JOB_STATE_FAIL
        assert (await quota(stubs)).used == 0
        await wire.import_disk(stubs, DISK)
        assert (await quota(stubs)).used == 1


async def test_a_quota_of_its_own_holds_for_a_project(stubs: Stubs) -> None:
    before = await quota(stubs)
    assert (before.quota, before.default_quota, before.used) == (50, 50, 0)
    assert before.source.startswith("Table 5-1")
    changed = await stubs.quotas.SetQuota(pb.SetQuotaRequest(resource="images", quota=0))
    assert (changed.quota, changed.default_quota) == (0, 50)
    upload = await wire.send(stubs, DISK)
    request = image_pb2.CreateImageRequest(name="disk", upload_id=upload.id)
    assert await attempt(stubs, request) == "QUOTA_EXCEEDED"
    await stubs.quotas.SetQuota(pb.SetQuotaRequest(resource="images", is_default=True))
    assert not isinstance(await attempt(stubs, request), str)


async def reason(call: Any, request: Any, metadata: tuple[tuple[str, str], ...] = ()) -> str:
    """Why a call is refused; empty when it is not."""
    try:
        await call(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return wire.reason_of(error)
    return ""


async def test_what_cannot_be_a_quota_or_an_hour_is_refused(stubs: Stubs) -> None:
    for change in (
        pb.SetQuotaRequest(resource="cores", quota=1),
        pb.SetQuotaRequest(resource="images", quota=-2),
        pb.SetQuotaRequest(resource="images", quota=2**63 - 1),
        pb.SetQuotaRequest(resource="images", quota=1, project_id="a b"),
        pb.SetQuotaRequest(resource="images", quota=1, project_id="*"),
        pb.SetQuotaRequest(resource="images", quota=1, is_default=True),
        pb.SetQuotaRequest(resource="images", quota=0, is_default=True),
        pb.SetQuotaRequest(resource="images"),
    ):
        assert await reason(stubs.quotas.SetQuota, change) == "INVALID_REQUEST"
    for request in (
        pb.ListUsageRequest(from_time=Timestamp(seconds=2**62)),
        pb.ListUsageRequest(from_time=Timestamp(nanos=-1)),
        pb.ListUsageRequest(from_time=Timestamp(seconds=7200), to_time=Timestamp(seconds=1)),
        pb.ListUsageRequest(page_size=1001),
        pb.ListUsageRequest(page_token="x"),
    ):
        assert await reason(stubs.quotas.ListUsage, request) in ("INVALID_REQUEST", "INVALID_PAGE_TOKEN")


async def usage(stubs: Stubs, **fields: Any) -> dict[tuple[str, str], int]:
    found = await stubs.quotas.ListUsage(pb.ListUsageRequest(**fields))
    totals: dict[tuple[str, str], int] = {}
    for each in found.records:  # the test may run across the end of an hour
        key = (each.project_id, each.resource)
        totals[key] = totals.get(key, 0) + each.quantity
    return totals


async def test_what_flows_and_what_lies_is_recorded_once(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await wire.import_disk(stubs, DISK)
        await wire.import_disk(stubs, DISK * 2, project_id="web")
        for _ in range(2):
            assert len(await wire.download(stubs, image.id)) == len(DISK)
        # A download is counted when its call has ended.
        while (await usage(stubs)).get(("default", "download_bytes")) != 2 * len(DISK):
            await asyncio.sleep(0.05)
        daemon.kill()
    daemon.restart()  # which looks at once
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        while ("default", "image_byte_hours") not in (own := await usage(stubs)):
            await asyncio.sleep(0.05)
        assert own[("default", "import_bytes")] == len(DISK)
        assert own[("default", "download_bytes")] == 2 * len(DISK)
        assert own[("default", "image_hours")] >= 1
        assert own[("default", "image_byte_hours")] >= image.stored_size_bytes
        assert own[("default", "pack_byte_hours")] >= image.stored_size_bytes
        assert {project for project, _ in own} == {"default"}
        everybody = await usage(stubs, project_id="*")
        assert everybody[("web", "import_bytes")] == 2 * len(DISK)


async def test_the_space_of_a_bucket_of_one_project_is_recorded_for_it(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    sections = []
    for name, projects in (("own", '["web"]'), ("common", '["*"]')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "disk.raw").write_bytes(DISK)
        sections.append(
            f'[buckets.{name}]\ndriver = "localfs"\npath = "{tmp_path / name}"\nprojects = {projects}\n'
        )
    (tmp_path / "imsd.toml").write_text("".join(sections))
    daemon = start_daemon(config=tmp_path / "imsd.toml")
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        while not (everybody := await usage(Stubs(channel), project_id="*")):
            await asyncio.sleep(0.05)
        assert set(everybody) == {("web", "bucket_byte_hours")}
        assert everybody[("web", "bucket_byte_hours")] in (len(DISK), 2 * len(DISK))


async def token_of(stubs: Stubs, user_id: str, project_id: str, role: str) -> tuple[tuple[str, str], ...]:
    """What the calls of a new user with a role carry."""
    await stubs.identity.CreateUser(identity_pb2.CreateUserRequest(id=user_id))
    grant = identity_pb2.GrantRoleRequest(
        principal_kind=identity_pb2.PRINCIPAL_KIND_USER,
        principal_id=user_id,
        project_id=project_id,
        role=role,
    )
    await stubs.identity.GrantRole(grant)
    made = await stubs.identity.CreateToken(identity_pb2.CreateTokenRequest(user_id=user_id, name="test"))
    return (("authorization", f"Bearer {made.secret}"),)


async def test_operators_set_quotas_and_see_the_usage_of_all_and_users_see_their_own(stubs: Stubs) -> None:
    await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id="web"))
    user = await token_of(stubs, "user", "web", "IMS FullAccess")
    operator = await token_of(stubs, "operator", "*", "IMS Operator")
    own = pb.ListUsageRequest(project_id="web")
    everybody = pb.ListUsageRequest(project_id="*")
    change = pb.SetQuotaRequest(project_id="web", resource="images", quota=7)
    for call, request in ((stubs.quotas.ListUsage, everybody), (stubs.quotas.SetQuota, change)):
        assert await reason(call, request, user) == "PERMISSION_DENIED"
        assert await reason(call, request, operator) == ""
    assert await reason(stubs.quotas.ListUsage, own, user) == ""
    found = await stubs.quotas.GetQuotas(pb.GetQuotasRequest(), metadata=user)
    assert (found.project_id, found.quotas[0].quota) == ("web", 7)


def test_imsctl_shows_quotas_limits_and_usage(daemon: DaemonProcess) -> None:
    disk = daemon.folder / "web.raw"
    disk.write_bytes(DISK)
    daemon.imsctl("image", "import", str(disk), "--name", "web")
    shown = daemon.imsctl("quota", "show").stdout
    assert "Table 5-1, Maximum number of private images" in shown
    assert daemon.imsctl("quota", "set", "images", "200").stdout == "images: 1 of 200 used\n"
    assert (
        daemon.imsctl("quota", "set", "staged_bytes", "2TiB").stdout == "staged_bytes: 0 B of 2.0 TiB used\n"
    )
    assert daemon.imsctl_json("quota", "set", "uploads", "unlimited")["quota"] == -1
    quotas = {each["resource"]: each for each in daemon.imsctl_json("quota", "show")["quotas"]}
    assert (quotas["images"]["quota"], quotas["images"]["default_quota"]) == (200, 50)
    assert daemon.imsctl_json("quota", "unset", "images")["quota"] == 50
    for wrong in ("-5", "many", "1.5", "2XiB"):
        assert daemon.imsctl("quota", "set", "images", "--", wrong, check=False).returncode == 2
    limits = {each["name"]: each for each in daemon.imsctl_json("limit", "list")}
    assert limits["max_import_bytes"] == {
        "name": "max_import_bytes",
        "value": 128 << 30,
        "unit": "bytes",
        "summary": "The largest file of an ordinary import.",
        "source": "Table 5-2, Image size",
        "setting": "limits.max_import_bytes",
    }
    assert "1.0 TiB" in daemon.imsctl("limit", "list").stdout
    rows = list(csv.DictReader(io.StringIO(daemon.imsctl("usage", "list", "--all", "-o", "csv").stdout)))
    assert {"project_id": "default", "resource": "import_bytes", "quantity": str(len(DISK))}.items() <= next(
        row for row in rows if row["resource"] == "import_bytes"
    ).items()
    assert daemon.imsctl_json("usage", "list", "--from", "2020-01-01", "--to", "2020-01-02T10:00+02:00") == []
    assert daemon.imsctl("usage", "list", "--from", "yesterday", check=False).returncode == 2

"""Images shared with other projects, and copied, against a real daemon: crashes, races, withdrawals."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from imsd.v1 import identity_pb2, image_pb2, job_pb2, member_pb2, tag_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs

MIB = 1 << 20
OWNER, WEB, SHOP = "owner", "web", "shop"
PENDING, ACCEPTED, REJECTED = (
    image_pb2.MEMBER_STATUS_PENDING,
    image_pb2.MEMBER_STATUS_ACCEPTED,
    image_pb2.MEMBER_STATUS_REJECTED,
)
BY_ITS_ID = (
    "name an image that was not accepted yet by its id: `imsctl image list --shared --share-status pending`"
)
StartDaemon = Callable[..., DaemonProcess]


def a_disk(seed: int, mebibytes: int = 4) -> bytes:
    return random.Random(seed).randbytes(mebibytes * MIB)


async def create_projects(stubs: Stubs, *ids: str) -> None:
    for each in ids:
        await stubs.identity.CreateProject(identity_pb2.CreateProjectRequest(id=each))


async def add(stubs: Stubs, images: Sequence[str], projects: Sequence[str], **fields: Any) -> Sequence[str]:
    request = member_pb2.AddMembersRequest(
        **({"project_id": OWNER} | fields), image_ids=images, member_project_ids=projects
    )
    return await results(stubs, await stubs.members.AddMembers(request))


async def answer(stubs: Stubs, images: Sequence[str], status: Any, by: str = WEB) -> Sequence[str]:
    request = member_pb2.UpdateMembersRequest(project_id=by, image_ids=images, status=status)
    return await results(stubs, await stubs.members.UpdateMembers(request))


async def remove(stubs: Stubs, images: Sequence[str], projects: Sequence[str]) -> Sequence[str]:
    request = member_pb2.RemoveMembersRequest(project_id=OWNER, image_ids=images, member_project_ids=projects)
    return await results(stubs, await stubs.members.RemoveMembers(request))


async def results(stubs: Stubs, job: job_pb2.Job) -> Sequence[str]:
    """What became of each pair of a job: ``done``, or the reason why not."""
    job = await wire.ended(stubs, job)
    assert job.state == job_pb2.JOB_STATE_SUCCESS, job
    return ["done" if each.is_done else each.error.reason for each in job.member_results]


async def members_of(stubs: Stubs, image_id: str, **fields: Any) -> Sequence[member_pb2.Member]:
    request = member_pb2.ListMembersRequest(**({"project_id": OWNER} | fields), image_id=image_id)
    return list((await stubs.members.ListMembers(request)).members)


async def copy(stubs: Stubs, image_id: str, project_id: str, **fields: Any) -> image_pb2.Image:
    request = image_pb2.CopyImageRequest(
        **({"name": "copy"} | fields), project_id=project_id, image_id=image_id
    )
    job = await wire.ended(stubs, await stubs.images.CopyImage(request))
    assert job.state == job_pb2.JOB_STATE_SUCCESS, job
    get = image_pb2.GetImageRequest(project_id=project_id, image_id=job.image_ids[0])
    found: image_pb2.Image = await stubs.images.GetImage(get)
    return found


async def delete(stubs: Stubs, image: image_pb2.Image) -> None:
    request = image_pb2.DeleteImageRequest(project_id=image.project_id, image_id=image.id, is_final=True)
    await stubs.images.DeleteImage(request)


async def verify(stubs: Stubs, image: image_pb2.Image) -> None:
    request = image_pb2.VerifyImageRequest(project_id=image.project_id, image_id=image.id)
    report = (await wire.ended(stubs, await stubs.images.VerifyImage(request))).verify_report
    assert (report.damage_count, report.digest) == (0, image.digest)


async def refusal(call: Any) -> str:
    """The reason of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return wire.reason_of(error.value)


async def shared(stubs: Stubs, disk: bytes, *members: str, status: Any = ACCEPTED) -> image_pb2.Image:
    """An image of the owner, to which ``members`` gave their answer."""
    image = await wire.import_disk(stubs, disk, OWNER)
    assert set(await add(stubs, [image.id], members)) <= {"done"}
    for member in members:
        if status != PENDING:
            await answer(stubs, [image.id], status, member)
    return image


async def test_a_batch_that_is_killed_is_done_once_and_as_a_whole(start_daemon: StartDaemon) -> None:
    """Whatever instruction the kill hits: a job that runs again gives the results of one that ran through."""
    daemon = start_daemon()
    names = [f"p{number}" for number in range(100)]
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        await create_projects(stubs, OWNER, *names)
        images = [(await wire.import_disk(stubs, a_disk(n, 1), OWNER)).id for n in range(10)]
        request = member_pb2.AddMembersRequest(
            project_id=OWNER, request_id="batch", image_ids=images, member_project_ids=names
        )
        job = await stubs.members.AddMembers(request)
        await asyncio.sleep(random.Random().uniform(0, 0.1))
    daemon.kill()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        assert (await stubs.members.AddMembers(request)).id == job.id
        assert await results(stubs, job) == ["done"] * 1000
        assert daemon.rows()["image_member"] == 1000
        assert await add(stubs, images, names) == ["ALREADY_EXISTS"] * 1000


async def test_200_projects_at_once_against_the_limit_of_128(stubs: Stubs) -> None:
    """Table 5-3, Maximum number of tenants an image can be shared with: 128."""
    names = [f"p{number}" for number in range(200)]
    await create_projects(stubs, OWNER, *names)
    image = await wire.import_disk(stubs, a_disk(1, 1), OWNER)
    outcomes = [each for [each] in await asyncio.gather(*(add(stubs, [image.id], [name]) for name in names))]
    assert sorted(outcomes) == ["QUOTA_EXCEEDED"] * 72 + ["done"] * 128
    listed = await members_of(stubs, image.id, page_size=1000)
    assert len(listed) == 128
    assert {each.status for each in listed} == {PENDING}


@pytest.mark.parametrize("status", [PENDING, ACCEPTED, REJECTED])
async def test_what_a_member_may(stubs: Stubs, status: Any) -> None:
    """Contract §6.2 and §9.1: seen by its id whatever it answered, read and copied when it accepted."""
    await create_projects(stubs, OWNER, WEB, SHOP)
    image = await shared(stubs, a_disk(2, 1), WEB, status=status)
    asked: dict[str, Any] = {"project_id": WEB, "image_id": image.id}
    seen = await stubs.images.GetImage(image_pb2.GetImageRequest(**asked))
    assert (seen.member_status, seen.visibility) == (status, image_pb2.VISIBILITY_SHARED)
    may = "done" if status == ACCEPTED else "SHARE_NOT_ACCEPTED"
    assert await outcome(stubs.images.InspectImage(image_pb2.InspectImageRequest(**asked))) == may
    assert await outcome(wire.download(stubs, image.id, project_id=WEB)) == may
    copying = stubs.images.CopyImage(image_pb2.CopyImageRequest(**asked, name="mine"))
    assert await outcome(copying) == may
    listing = image_pb2.ListImagesRequest(
        project_id=WEB, filter=image_pb2.ImageFilter(scope=image_pb2.ImageFilter.SCOPE_ALL)
    )
    listed = [each.id for each in (await stubs.images.ListImages(listing)).images if each.id == image.id]
    assert listed == ([image.id] if status == ACCEPTED else [])
    assert {await refusal(call) for call in changes_of_the_owner(stubs, asked)} == {"NOT_OWNER"}
    assert await add(stubs, [image.id], [SHOP], project_id=WEB) == ["NOT_OWNER"]
    for project_id in (SHOP, "stranger"):
        get = image_pb2.GetImageRequest(project_id=project_id, image_id=image.id)
        assert await refusal(stubs.images.GetImage(get)) == "NOT_FOUND"
        members = member_pb2.ListMembersRequest(project_id=project_id, image_id=image.id)
        assert await refusal(stubs.members.ListMembers(members)) == "NOT_FOUND"
    [own] = await members_of(stubs, image.id, project_id=WEB)
    assert (own.project_id, own.status) == (WEB, status)


def changes_of_the_owner(stubs: Stubs, asked: dict[str, Any]) -> Iterator[Any]:
    """Calls that only the project of an image may make."""
    images = stubs.images
    renamed: dict[str, Any] = {"image": image_pb2.Image(name="x"), "update_mask": FieldMask(paths=["name"])}
    yield images.UpdateImage(image_pb2.UpdateImageRequest(**asked, **renamed))
    yield images.DeleteImage(image_pb2.DeleteImageRequest(**asked))
    yield images.DeactivateImage(image_pb2.DeactivateImageRequest(**asked))
    yield images.DeprecateImage(image_pb2.DeprecateImageRequest(**asked))
    yield images.VerifyImage(image_pb2.VerifyImageRequest(**asked))
    yield images.SetImageVisibility(
        image_pb2.SetImageVisibilityRequest(**asked, visibility=image_pb2.VISIBILITY_PUBLIC)
    )
    yield images.PublishImage(image_pb2.PublishImageRequest(**asked))
    export: dict[str, Any] = {"target": "main:x.qcow2", "disk_format": image_pb2.DISK_FORMAT_QCOW2}
    yield images.ExportImage(image_pb2.ExportImageRequest(**asked, **export))
    tag = tag_pb2.Tag(key="a", value="b")
    yield stubs.tags.SetImageTags(tag_pb2.SetImageTagsRequest(**asked, tags=[tag]))


async def test_a_deactivated_image_is_of_no_use_to_its_members_either(stubs: Stubs) -> None:
    await create_projects(stubs, OWNER, WEB)
    image = await shared(stubs, a_disk(8, 1), WEB)
    own: dict[str, Any] = {"project_id": OWNER, "image_id": image.id}
    await stubs.images.DeactivateImage(image_pb2.DeactivateImageRequest(**own))
    assert await outcome(wire.download(stubs, image.id, project_id=WEB)) == "IMAGE_NOT_ACTIVE"
    copying = image_pb2.CopyImageRequest(project_id=WEB, image_id=image.id, name="mine")
    assert await refusal(stubs.images.CopyImage(copying)) == "IMAGE_NOT_ACTIVE"
    await stubs.images.ReactivateImage(image_pb2.ReactivateImageRequest(**own))
    assert (await copy(stubs, image.id, WEB)).digest == image.digest


async def test_with_an_image_its_shares_end_and_do_not_come_back(stubs: Stubs) -> None:
    await create_projects(stubs, OWNER, WEB)
    image = await shared(stubs, a_disk(9, 1), WEB)
    own: dict[str, Any] = {"project_id": OWNER, "image_id": image.id}
    await stubs.images.DeleteImage(image_pb2.DeleteImageRequest(**own))
    get = image_pb2.GetImageRequest(project_id=WEB, image_id=image.id)
    assert await refusal(stubs.images.GetImage(get)) == "NOT_FOUND"
    back = await stubs.images.UndeleteImage(image_pb2.UndeleteImageRequest(**own))
    assert back.visibility == image_pb2.VISIBILITY_PRIVATE
    assert await refusal(stubs.images.GetImage(get)) == "NOT_FOUND"
    assert list(await members_of(stubs, image.id)) == []


async def outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return wire.reason_of(error)
    return "done"


async def test_a_withdrawn_share_counts_at_once_and_what_runs_keeps_its_bytes(daemon: DaemonProcess) -> None:
    """The reader takes the first message, then the share ends and the image is deleted; it reads on."""
    disk = a_disk(3, 24)
    # A channel of its own, whose windows do not take the whole disk.
    options = [("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)]
    async with (
        grpc.aio.insecure_channel(daemon.address) as channel,
        grpc.aio.insecure_channel(daemon.address, options=options) as slow,
    ):
        stubs, reader = Stubs(channel), Stubs(slow)
        await create_projects(stubs, OWNER, WEB)
        image = await shared(stubs, disk, WEB)
        request = image_pb2.DownloadImageRequest(project_id=WEB, image_id=image.id)
        messages = reader.images.DownloadImage(request).__aiter__()
        assert (await anext(messages)).WhichOneof("step") == "header"
        assert await remove(stubs, [image.id], [WEB]) == ["done"]
        assert await outcome(wire.download(stubs, image.id, project_id=WEB)) == "NOT_FOUND"
        copying = image_pb2.CopyImageRequest(project_id=WEB, image_id=image.id, name="late")
        assert await refusal(stubs.images.CopyImage(copying)) == "NOT_FOUND"
        await delete(stubs, image)
        content = bytearray()
        async for message in messages:
            content += message.data if message.WhichOneof("step") == "data" else bytes(message.zero_length)
        assert content == disk
        await wire.becomes_empty(daemon, "packs/")


async def test_a_copy_of_a_shared_image_outlives_the_image(daemon: DaemonProcess, stubs: Stubs) -> None:
    disk = a_disk(4)
    await create_projects(stubs, OWNER, WEB)
    image = await shared(stubs, disk, WEB)
    packed = daemon.blobs("packs/")
    mine = await copy(stubs, image.id, WEB, name="mine", tags={"team": "web"})
    assert daemon.blobs("packs/") == packed
    assert len(daemon.blobs("manifests/")) == 2  # the two parts of one
    assert (mine.project_id, mine.origin_image_id, mine.new_size_bytes) == (WEB, image.id, 0)
    assert (mine.digest, dict(mine.tags)) == (image.digest, {"team": "web"})
    await delete(stubs, image)
    await verify(stubs, mine)
    assert await wire.download(stubs, mine.id, project_id=WEB) == disk
    again = await copy(stubs, mine.id, WEB, name="again")
    await delete(stubs, mine)
    await verify(stubs, again)
    await delete(stubs, again)
    await wire.becomes_empty(daemon, "packs/")
    await wire.becomes_empty(daemon, "manifests/")


async def test_copies_go_on_after_a_kill(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    disk = a_disk(5)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        image = await wire.import_disk(stubs, disk, OWNER)
        jobs = [
            await stubs.images.CopyImage(
                image_pb2.CopyImageRequest(project_id=OWNER, image_id=image.id, name=f"copy-{number}")
            )
            for number in range(20)
        ]
    daemon.kill()
    daemon.restart()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stubs = Stubs(channel)
        done = [await wire.ended(stubs, job) for job in jobs]
        assert {job.state for job in done} == {job_pb2.JOB_STATE_SUCCESS}
        await delete(stubs, image)
        for job in done:
            get = image_pb2.GetImageRequest(project_id=OWNER, image_id=job.image_ids[0])
            made = await stubs.images.GetImage(get)
            await delete(stubs, made)
        await wire.becomes_empty(daemon, "packs/")
        await wire.becomes_empty(daemon, "manifests/")


async def test_deleting_and_withdrawing_while_others_copy_leaves_only_whole_images(stubs: Stubs) -> None:
    disk = a_disk(6)
    await create_projects(stubs, OWNER, WEB)
    image = await shared(stubs, disk, WEB)

    async def try_to_copy(number: int) -> image_pb2.Image | str:
        """The copy, or the reason why there is none."""
        request = image_pb2.CopyImageRequest(project_id=WEB, image_id=image.id, name=f"copy-{number}")
        try:
            job = await wire.ended(stubs, await stubs.images.CopyImage(request))
        except grpc.aio.AioRpcError as error:
            return wire.reason_of(error)
        if job.state == job_pb2.JOB_STATE_FAIL:
            return str(job.error.reason)
        get = image_pb2.GetImageRequest(project_id=WEB, image_id=job.image_ids[0])
        made: image_pb2.Image = await stubs.images.GetImage(get)
        return made

    async def withdraw() -> None:
        await asyncio.sleep(0.05)
        await remove(stubs, [image.id], [WEB])
        await delete(stubs, image)

    *made, _ = await asyncio.gather(*(try_to_copy(number) for number in range(30)), withdraw())
    assert {each for each in made if isinstance(each, str)} <= {"NOT_FOUND"}
    for copied in (each for each in made if isinstance(each, image_pb2.Image)):
        assert await wire.download(stubs, copied.id, project_id=WEB) == disk


async def test_the_commands_of_sharing_and_copying(daemon: DaemonProcess, stubs: Stubs) -> None:
    await create_projects(stubs, OWNER, WEB, SHOP)
    image = await wire.import_disk(stubs, a_disk(7, 1), OWNER, name="debian-12")
    run = daemon.imsctl
    partly = run(
        "member", "add", "debian-12", "--member", WEB, "--member", "nobody", "--project", OWNER, check=False
    )
    assert partly.returncode == 1
    rows = [line.split(maxsplit=2) for line in partly.stdout.splitlines()[1:]]
    assert rows[0] == ["debian-12", WEB, "pending"]
    assert rows[1][:2] == ["debian-12", "nobody"]
    assert rows[1][2].endswith("[PROJECT_UNKNOWN]")
    assert partly.stderr.startswith("  [PROJECT_UNKNOWN] ask its people for its id")
    assert "pending" in run("member", "list", image.id, "--project", WEB).stdout
    unread = run("image", "copy", image.id, "--name", "mine", "--project", WEB, check=False)
    assert unread.returncode == 1
    assert "[SHARE_NOT_ACCEPTED]" in unread.stderr
    by_name = run("member", "accept", "debian-12", "--project", WEB, check=False)
    assert (by_name.returncode, by_name.stderr.splitlines()[1]) == (1, f"  {BY_ITS_ID}")
    pending = daemon.imsctl_json("image", "list", "--shared", "--share-status", "pending", "--project", WEB)
    assert [each["id"] for each in pending] == [image.id]
    assert "accepted" in run("member", "accept", image.id, "--project", WEB).stdout
    run("image", "share", "debian-12", SHOP, "--project", OWNER)
    members = daemon.imsctl_json("member", "list", "debian-12", "--project", OWNER)
    assert [(each["project_id"], each["status"]) for each in members] == [
        (WEB, "accepted"),
        (SHOP, "pending"),
    ]
    mine = daemon.imsctl_json("image", "copy", image.id, "--name", "mine", "--tag", "a=b", "--project", WEB)
    assert (mine["name"], mine["tags"], mine["digest"]) == ("mine", {"a": "b"}, image.digest)
    run("member", "reject", image.id, "--project", WEB)
    shown = daemon.imsctl_json("member", "show", "debian-12", WEB, "--project", OWNER)
    assert shown["status"] == "rejected"
    removed = run("member", "remove", "debian-12", "--member", WEB, "-o", "json", "--project", OWNER)
    [result] = json.loads(removed.stdout)["member_results"]
    assert result == {"image_id": image.id, "project_id": WEB, "done": True, "error": None}
    gone = run("member", "show", "debian-12", WEB, "--project", OWNER, check=False)
    assert gone.returncode == 1

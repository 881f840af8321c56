"""Tags through the whole daemon, by the wire and by imsctl."""

from __future__ import annotations

import json

import grpc
import pytest

from imsd.v1 import image_pb2
from imsd.v1 import tag_pb2 as pb
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs

DISK = b"disk" * 1024


def tags(**values: str) -> list[pb.Tag]:
    return [pb.Tag(key=key, value=value) for key, value in values.items()]


def pairs(found: pb.ImageTags | pb.TaggedImage) -> dict[str, str]:
    return {tag.key: tag.value for tag in found.tags}


async def test_images_are_tagged_and_found_again(stubs: Stubs) -> None:
    web, db = [await wire.import_disk(stubs, DISK, name=name) for name in ("web", "db")]
    put = pb.SetImageTagsRequest(image_id=web.id, tags=tags(stage="live", team="core"))
    after = await stubs.tags.SetImageTags(put)
    assert pairs(after) == {"stage": "live", "team": "core"}
    seen = await stubs.images.GetImage(image_pb2.GetImageRequest(image_id=web.id))
    assert (dict(seen.tags), seen.etag) == (pairs(after), after.etag)
    await stubs.tags.SetImageTags(pb.SetImageTagsRequest(image_id=db.id, tags=tags(stage="test")))

    stage = [pb.TagCondition(key="stage")]
    team = [pb.TagCondition(key="team", values=["core"])]
    for filter, names in (
        (pb.TagFilter(all=stage), ["db", "web"]),
        (pb.TagFilter(all=stage, not_any=team), ["db"]),
        (pb.TagFilter(any=team), ["web"]),
        (pb.TagFilter(is_untagged=True), []),
        (pb.TagFilter(matches=[pb.TagMatch(key="resource_name", value="WE")]), ["web"]),
    ):
        found = await stubs.tags.FindImagesByTags(pb.FindImagesByTagsRequest(filter=filter))
        assert [image.name for image in found.images] == names
        counted = await stubs.tags.CountImagesByTags(pb.CountImagesByTagsRequest(filter=filter))
        assert counted.total_count == found.total_count == len(names)
    listed = await stubs.tags.ListTags(pb.ListTagsRequest())
    assert {tag.key: list(tag.values) for tag in listed.tags} == {"stage": ["live", "test"], "team": ["core"]}
    elsewhere = await stubs.tags.ListTags(pb.ListTagsRequest(project_id="other"))
    assert not elsewhere.tags


async def test_what_is_wrong_with_tags_has_a_reason(stubs: Stubs) -> None:
    image = await wire.import_disk(stubs, DISK)

    async def refused(call: grpc.aio.UnaryUnaryMultiCallable, request: object) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(request)
        return wire.reason_of(error.value)

    many = pb.SetImageTagsRequest(image_id=image.id, tags=tags(**{f"k{n}": "" for n in range(11)}))
    assert await refused(stubs.tags.SetImageTags, many) == "TOO_MANY_TAGS"
    bad = pb.SetImageTagsRequest(image_id=image.id, tags=tags(key="a=b"))
    assert await refused(stubs.tags.SetImageTags, bad) == "INVALID_REQUEST"
    absent = pb.DeleteImageTagsRequest(image_id=image.id, keys=["gone"])
    assert await refused(stubs.tags.DeleteImageTags, absent) == "NOT_FOUND"
    elsewhere = pb.GetImageTagsRequest(project_id="other", image_id=image.id)
    assert await refused(stubs.tags.GetImageTags, elsewhere) == "NOT_FOUND"


def test_imsctl_tags_images(daemon: DaemonProcess) -> None:
    disk = daemon.folder / "web.raw"
    disk.write_bytes(DISK)
    daemon.imsctl("image", "import", str(disk), "--name", "web")
    assert daemon.imsctl_json("tag", "set", "web", "stage=live", "team=")["tags"] == {
        "stage": "live",
        "team": "",
    }
    assert "stage  live" in daemon.imsctl("tag", "show", "web").stdout
    assert daemon.imsctl_json("tag", "list") == [
        {"key": "stage", "values": ["live"]},
        {"key": "team", "values": [""]},
    ]
    assert daemon.imsctl_json("tag", "list", "--kind", "iso", "--status", "active") == []
    assert len(daemon.imsctl_json("tag", "list", "--kind", "system-disk", "--name", "w*")) == 2
    # What else a list of images can be chosen by (contract §3.12, ListTags).
    everything = daemon.imsctl_json("tag", "list")
    for options, found in (
        (("--visibility", "private", "--min-ram", "0", "--enterprise-project", "0"), everything),
        (("--created", "gte:2026-01-01", "--updated", "lt:2200-01-01"), everything),
        (("--id", "00000000-0000-4000-8000-000000000000"), []),
        (("--os-type", "windows"), []),
        (("--min-disk", "77"), []),
    ):
        assert daemon.imsctl_json("tag", "list", *options) == found, options
    found = daemon.imsctl_json("tag", "find", "--all", "stage=live,test", "--any", "team", "--name", "WEB")
    assert (found["total_count"], found["images"][0]["tags"]) == (1, {"stage": "live", "team": ""})
    assert daemon.imsctl("tag", "count", "--untagged").stdout == "0\n"
    failed = daemon.imsctl("tag", "delete", "web", "stage", "zone", check=False)
    assert (failed.returncode, "[NOT_FOUND]" in failed.stderr) == (1, True)
    left = daemon.imsctl("tag", "delete", "web", "stage", "zone", "--lenient", "-o", "json")
    assert json.loads(left.stdout)["tags"] == {"team": ""}
    wrong = daemon.imsctl("tag", "set", "web", "stage", check=False)
    assert (wrong.returncode, "is not KEY=VALUE" in wrong.stderr) == (2, True)

"""The rows of Tables 5-2 to 5-6 that are about encrypted images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from imsd.v1 import image_pb2, key_pb2, upload_pb2
from tests.end_to_end import wire
from tests.end_to_end.constraints_world import (
    DISK,
    MEMBER,
    OWNER,
    Refusal,
    create_projects,
    refusal,
    share,
)
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.key_files import StartDaemon, with_keys
from tests.unit.formats.crafted_iso import disc

KEY = "payroll"


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    return with_keys(start_daemon, tmp_path)


async def new_key(stubs: Stubs, name: str = KEY) -> key_pb2.Key:
    made: key_pb2.Key = await stubs.keys.CreateKey(key_pb2.CreateKeyRequest(project_id=OWNER, name=name))
    return made


async def encrypted(stubs: Stubs, **fields: Any) -> image_pb2.Image:
    await new_key(stubs)
    upload = await wire.send(stubs, DISK, project_id=OWNER, key=KEY)
    job = await wire.ended(stubs, await wire.start_image(stubs, upload, **fields))
    request = image_pb2.GetImageRequest(project_id=OWNER, image_id=job.image_ids[0])
    image: image_pb2.Image = await stubs.images.GetImage(request)
    assert image.is_encrypted
    return image


async def test_table_5_2_the_iso_image_cannot_be_encrypted(stubs: Stubs) -> None:
    await new_key(stubs)
    declared = upload_pb2.CreateUploadRequest(
        project_id=OWNER, key=KEY, disk_format=image_pb2.DISK_FORMAT_ISO
    )
    assert await refusal(stubs.uploads.CreateUpload(declared)) == Refusal("IMAGE_KIND_UNSUITED", "IMG.0167")
    undeclared = wire.send(stubs, disc(bootable=False), project_id=OWNER, key=KEY)
    assert (await refusal(undeclared)).reason == "IMAGE_KIND_UNSUITED"


async def test_table_5_3_encrypted_images_cannot_be_shared_with_others(stubs: Stubs) -> None:
    await create_projects(stubs, MEMBER)
    image = await encrypted(stubs)
    assert await share(stubs, image.id, MEMBER) == ["ENCRYPTED_IMAGE_UNSUITED"]


async def test_table_5_5_encrypted_images_cannot_be_exported_through_fast_export(
    stubs: Stubs, tmp_path: Path
) -> None:
    image = await encrypted(stubs)
    fast = image_pb2.ExportImageRequest(project_id=OWNER, image_id=image.id, target="main:disk", is_fast=True)
    assert await refusal(stubs.images.ExportImage(fast)) == Refusal("ENCRYPTED_IMAGE_UNSUITED", "IMG.0071")
    assert list((tmp_path / "bucket").iterdir()) == []


async def test_table_5_6_an_encrypted_image_is_neither_public_nor_published(stubs: Stubs) -> None:
    image = await encrypted(stubs)
    named: dict[str, Any] = {"project_id": OWNER, "image_id": image.id}
    public = image_pb2.SetImageVisibilityRequest(**named, visibility=image_pb2.VISIBILITY_PUBLIC)
    expected = Refusal("ENCRYPTED_IMAGE_UNSUITED", "IMG.0098")
    assert await refusal(stubs.images.SetImageVisibility(public)) == expected
    assert await refusal(stubs.images.PublishImage(image_pb2.PublishImageRequest(**named))) == expected


async def test_table_5_6_the_key_used_for_encrypting_an_image_cannot_be_changed(stubs: Stubs) -> None:
    image = await encrypted(stubs)
    other = await new_key(stubs, "other")
    changes: tuple[dict[str, Any], ...] = ({"key_id": other.id}, {"is_encrypted": False})
    for change in changes:
        request = image_pb2.UpdateImageRequest(
            project_id=OWNER,
            image_id=image.id,
            image=image_pb2.Image(**change),
            update_mask=FieldMask(paths=list(change)),
        )
        assert (await refusal(stubs.images.UpdateImage(request))).reason == "FIELD_NOT_UPDATABLE"
    same = image_pb2.CopyImageRequest(project_id=OWNER, image_id=image.id, name="copy", key=KEY)
    assert await refusal(stubs.images.CopyImage(same)) == Refusal("KEY_UNCHANGED", "IMG.0096")
    same.key = other.name
    copied = await wire.ended(stubs, await stubs.images.CopyImage(same))
    copy = await stubs.images.GetImage(
        image_pb2.GetImageRequest(project_id=OWNER, image_id=copied.image_ids[0])
    )
    assert copy.key_id == other.id

"""Images that are copied, whole or cut anew, by projects that may."""

from __future__ import annotations

import random
from typing import Any

from imsd.core.downloads import open_image_reader
from imsd.core.image_changes import ImageRef
from imsd.core.image_copies import NewCopy
from imsd.core.image_deletion import ImageDeletion
from imsd.core.jobs import JobView
from imsd.core.requests import RequestKey
from imsd.metadata import images as image_rows
from imsd.metadata import members as member_rows
from imsd.metadata.members import MemberChange
from imsd.metadata.records import (
    ImageRecord,
    ImageStatus,
    JobState,
    MemberStatus,
    Visibility,
)
from tests.unit.core.core_world import STORE, new_id, now
from tests.unit.core.import_world import MIB, PROJECT, ImportService

OTHER = "other"


def a_disk(seed: int, mebibytes: int = 3) -> bytes:
    return random.Random(seed).randbytes(mebibytes * MIB)


async def imported(service: ImportService, disk: bytes) -> ImageRecord:
    view = await service.import_file(disk, disk_format="raw")
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


async def copied(service: ImportService, image_id: str, by: str = PROJECT, **values: Any) -> JobView:
    return await service.end_of(await started(service, image_id, by, **values), by)


async def started(service: ImportService, image_id: str, by: str = PROJECT, **values: Any) -> str:
    new = NewCopy(**({"image_id": image_id, "name": "copy"} | values))
    return await service.copies.start(RequestKey(by, "", new_id()), new)


async def record_of(service: ImportService, view: JobView) -> ImageRecord:
    assert view.record.state is JobState.SUCCESS, view
    async with service.runtime.database.reading() as c:
        found = await image_rows.get_image(c, view.record.project_id, view.record.image_id)
    assert found is not None
    return found


async def share(service: ImportService, image_id: str, status: MemberStatus | None, by: str = OTHER) -> None:
    """Make the share of an image what the test needs, whatever it was."""
    async with service.runtime.database.transaction() as c:
        old = await member_rows.member_of(c, image_id, by)
        if old is not None:
            await member_rows.change_members(c, [MemberChange(image_id, by, old.status, None)], now())
        if status is not None:
            await member_rows.change_members(c, [MemberChange(image_id, by, None, status)], now())


async def content_of(service: ImportService, record: ImageRecord) -> bytes:
    runtime, content = service.runtime, b""
    async with open_image_reader(runtime, service.sweeper, record) as reader:
        for start in range(0, reader.size_bytes, MIB):
            piece = bytearray(min(MIB, reader.size_bytes - start))
            await runtime.pool.run(reader.read_into, start, memoryview(piece))
            content += piece
    return content


async def verified(service: ImportService, record: ImageRecord) -> None:
    job_id = await service.images.verify(RequestKey(record.project_id, "", new_id()), record)
    view = await service.end_of(job_id, record.project_id)
    assert view.record.result["damage_count"] == 0, view
    assert view.record.result["digest"] == record.digest


async def delete(service: ImportService, record: ImageRecord) -> None:
    deletion = ImageDeletion(service.runtime, service.sweeper)
    await deletion.delete(ImageRef(record.project_id, record.id), is_final=True)
    await service.runtime.background.settle()
    await service.sweeper.free(STORE)


async def changed(service: ImportService, image_id: str, **values: Any) -> None:
    async with service.runtime.database.transaction() as c:
        done = await image_rows.update_image(c, image_id, values, statuses=[ImageStatus.ACTIVE])
    assert done is not None


MARKED: dict[str, Any] = {"is_published": True, "visibility": Visibility.PUBLIC, "platform": "Ubuntu"}
UNMARKED: dict[str, Any] = {"is_published": False, "visibility": Visibility.PRIVATE}

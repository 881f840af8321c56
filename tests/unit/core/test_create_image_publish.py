from __future__ import annotations

import pytest

from imsd.contract import Conflict
from imsd.core.fetching import Fetching
from imsd.core.guest_inspection import Declared, decide
from imsd.core.image_making import ImageMaker, MadeImage
from imsd.core.job_board import JobBoard
from imsd.core.job_run import JobRun
from imsd.core.opened_upload import StoredDisk
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import Uploads
from imsd.core.workflows.create_image import CreateImage
from imsd.guest.inspector import GuestInspector
from imsd.guest.report import not_inspected
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata import uploads as upload_rows
from imsd.metadata.database import Database
from imsd.metadata.records import ImageStatus, JobState, UploadState
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of, sources_of
from tests.unit.metadata.samples import a_job, an_image, an_upload, claimed

MANIFEST = "0" * 32


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_job_whose_image_is_gone_does_not_succeed(database: Database, is_gone: bool) -> None:
    image, upload = an_image(status=ImageStatus.SAVING), an_upload(state=UploadState.COMMITTED)
    job = a_job(image_id=image.id, upload_id=upload.id)
    disk = StoredDisk(
        manifest_id=MANIFEST,
        packs=(),
        format_name="raw",
        findings=(),
        virtual_size_bytes=512,
        digest="b3t:" + "0" * 64,
        data_size=0,
        stored_size=0,
        new_size=0,
    )
    async with database.transaction() as c:
        await job_rows.insert_job(c, job)
        await upload_rows.insert_upload(c, upload)
        if not is_gone:
            await image_rows.insert_image(c, image)
        record = await claimed(c, job)
    async with open_runtime(database, pool_of(main=MemoryStore())) as runtime:
        run, sweeper = JobRun(runtime, JobBoard(), record), Sweeper(runtime)
        await runtime.index.begin_manifest(run.holder, MANIFEST, STORE)
        maker = ImageMaker(GuestInspector())
        workflow = CreateImage(Uploads(runtime, sweeper), sweeper, Fetching(sources_of(runtime)), maker)
        system = decide(Declared("", "", ""), not_inspected("nobody looks"))
        publish = workflow._publish(run, MadeImage(image, disk, system))
        if is_gone:
            with pytest.raises(Conflict):
                await publish
        else:
            await publish
    async with database.reading() as c:
        now = await job_rows.get_job(c, "lab", job.id)
        kept = await upload_rows.get_upload(c, "lab", upload.id)
    assert now is not None
    assert now.state is (JobState.RUNNING if is_gone else JobState.SUCCESS)
    assert (kept is not None) is is_gone

"""Verify an image: re-read every stored chunk and say what is wrong.

What lies in a damaged pack is found no more by imports: else a good copy of the disk would become an image
of the very bytes that are damaged.
"""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.verify import verify
from imsd.contract import ImsError, NotFound
from imsd.core.downloads import open_image_reader
from imsd.core.job_run import JobRun, Workflow
from imsd.core.sweeper import Sweeper
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageStatus


class VerifyImage(Workflow):
    """Its result is a report; damage is no failure of the job."""

    def __init__(self, sweeper: Sweeper) -> None:
        self._sweeper = sweeper

    async def run(self, run: JobRun) -> None:
        runtime, record = run.runtime, run.record
        async with runtime.database.reading() as c:
            image = await image_rows.get_image(c, record.project_id, record.image_id)
        if image is None or image.status is not ImageStatus.ACTIVE:
            raise NotFound("the image was deleted before it could be verified")
        async with open_image_reader(runtime, self._sweeper, image, digests=True) as reader:
            run.enter("verify", image.data_size, (0.0, 100.0))
            report = await verify(reader, runtime.pool, run.advance)
        result = asdict(report)
        await runtime.index.distrust(result.pop("damaged_packs"))
        async with runtime.database.transaction() as c:
            await run.succeed(c, result)

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        return None

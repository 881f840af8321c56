"""What jobs let flow, counted in the transaction that ends them."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.metadata import uploads as upload_rows

from . import usage
from .job_run import JobRun


async def count_import(c: AsyncConnection, run: JobRun) -> None:
    """The file of the job's upload, which is yet to go, became an image, or those of a package."""
    upload = await upload_rows.get_upload(c, run.record.project_id, run.record.upload_id)
    if upload:
        await usage.count(c, run.runtime, upload.project_id, usage.IMPORT_BYTES, upload.size_bytes)

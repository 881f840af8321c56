"""Uploads in parts that nobody completes, because their daemon died: they take room that no list shows."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Final

from imsd.contract import ImsError

from . import objects
from .connection import Connection
from .ingest import RunningUploads

log = logging.getLogger(__name__)

# Between two looks, and of one of them.
PAUSE_SECONDS: Final = 3600.0
MAX_PAGES: Final = 1000


async def clean_up_for_ever(connection: Connection, running: RunningUploads) -> None:
    """At once, and then every hour; what fails is tried again by the next look."""
    while True:
        try:
            removed = await remove_stale_uploads(connection, running)
            if removed:
                log.info("removed uploads that were never completed", extra={"uploads": removed})
        except ImsError as error:
            log.warning(
                "uploads that were never completed could not be looked for", extra={"why": error.message}
            )
        await asyncio.sleep(PAUSE_SECONDS)


async def remove_stale_uploads(connection: Connection, running: RunningUploads) -> int:
    """How many were removed. Raises what the service says."""
    options = connection.options
    oldest = datetime.now(UTC) - timedelta(hours=options.stale_upload_hours)
    prefix = options.key("")
    removed, after = 0, None
    for _ in range(MAX_PAGES):
        uploads, after = await objects.list_uploads(connection, prefix, after)
        for upload in uploads:
            # Not every service heeds the prefix.
            is_ours = upload.key.startswith(prefix) and upload.id not in running.ids
            if is_ours and upload.started_at < oldest:
                await objects.abort_upload(connection, upload.key, upload.id)
                removed += 1
        if after is None:
            break
    return removed

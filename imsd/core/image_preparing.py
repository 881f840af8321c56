"""Images that are made without bytes, to be filled later (contract §4.1)."""

from __future__ import annotations

from dataclasses import replace

from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageRecord

from . import quotas, requests
from .image_access import seen_image
from .new_image import NewImage, checked_attributes, queued_image
from .quota_rules import IMAGES
from .requests import RequestKey
from .runtime import Runtime


async def prepare_image(runtime: Runtime, key: RequestKey, new: NewImage) -> ImageRecord:
    """Make an image that stays QUEUED until somebody fills or deletes it.

    The first one when ``key`` was used before. Raises InvalidRequest, LimitExceeded (QUOTA_EXCEEDED), and
    NotFound when the first one is gone.
    """
    new = checked_attributes(new, runtime.limits)
    async with runtime.database.transaction() as c:
        if earlier := await requests.recall(c, key):
            return await seen_image(c, key.project_id, earlier)
        await quotas.reserve(c, runtime, key.project_id, IMAGES)
        store = runtime.stores.default_name
        record = replace(queued_image(runtime, key.project_id, new, store, ""), is_prepared=True)
        await image_rows.insert_image(c, record)
        await requests.remember(c, runtime, key, record.id)
    return record

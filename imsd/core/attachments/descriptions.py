"""What the block server is told of an attachment."""

from __future__ import annotations

import base64

from imsd.contract import FailedPrecondition
from imsd.core.keys.data_keys import DataKeys
from imsd.metadata.attachments import AttachmentRecord

from .block_server import Answer


async def description_of(record: AttachmentRecord, data_keys: DataKeys) -> Answer:
    """The fields of its `attach`; of an encrypted image with its data key, unwrapped.

    Raises as `DataKeys.unwrapped`, and FailedPrecondition of what cannot be proved.
    """
    if not record.digest:
        raise FailedPrecondition(
            f"nobody knows the digest of {record.image_name!r}, which an earlier release attached, and whose "
            "image is gone",
            field="attachment_id",
            hint="detach it",
        )
    key = {}
    if record.binding:
        data_key = await data_keys.unwrapped(record.binding)
        key = {"binding": record.binding, "data_key": base64.b64encode(data_key).decode()}
    return key | {
        "attachment_id": record.id,
        "export_name": record.export_name,
        "store": record.store,
        "manifest_id": record.manifest_id,
        "size_bytes": record.size_bytes,
        "digest": record.digest,
    }

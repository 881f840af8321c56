"""What the catalogue says of an encrypted image, kept beside its manifest.

With it and the key service, an image can be read again when the database is lost. It is written anew, one
generation after the other, when the image changes or its data key is wrapped anew; it goes with its manifest.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import AlreadyExists, BlobId, ImsError, NotFound
from imsd.core.downloads import held_image
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.metadata import images as image_rows
from imsd.metadata import keys as key_rows
from imsd.metadata.keys import DataKeyRecord, KeyRecord
from imsd.metadata.records import ImageRecord

log = structlog.get_logger(__name__)

VERSION: Final = 1

# Images that one query of a round gives.
BATCH: Final = 100

# Transactions that began before a round may commit after it looked.
OVERLAP: Final = timedelta(minutes=1)

# Of an image, what its row says and its bytes do not.
FIELDS: Final = (
    *("id", "project_id", "region", "origin_image_id", "name", "description", "kind", "disk_format"),
    *("virtual_size", "digest", "min_disk_gb", "min_ram_mb", "max_ram_mb", "os_version", "os_type"),
    *("architecture", "boot_mode", "server_kind", "family", "license_type", "is_protected", "tags"),
    *("properties", "server_support", "enterprise_project_id", "manifest_id", "version"),
)


class Descriptors:
    def __init__(self, runtime: Runtime, sweeper: Sweeper) -> None:
        self._runtime = runtime
        self._sweeper = sweeper
        self._since: datetime | None = None

    async def keep(self) -> None:
        """Write those of images that changed since the last round; in the first one, all that are missing."""
        began, after, is_whole = self._runtime.clock() - OVERLAP, "", True
        while True:
            async with self._runtime.database.reading() as c:
                found = await key_rows.changed_data_keys(c, self._since, BATCH, after)
                described = [await _described(c, each) for each in found]
            if not found:
                break
            for record, (key, image) in zip(found, described, strict=True):
                if key and image:
                    is_whole &= await self._keep(image, record, key)
            after = found[-1].image_id
        if is_whole:
            self._since = began

    async def _keep(self, image: ImageRecord, data_key: DataKeyRecord, key: KeyRecord) -> bool:
        """False: it is to be tried again."""
        try:
            async with held_image(self._runtime, self._sweeper, image) as held:
                await self._write(held, data_key, key)
        except NotFound:  # it was deleted meanwhile
            return True
        except ImsError as error:
            log.warning("the descriptor of an image is put off", image_id=image.id, reason=error.reason)
            return False
        return True

    async def _write(self, image: ImageRecord, data_key: DataKeyRecord, key: KeyRecord) -> None:
        store = self._runtime.stores.get(image.store)
        folder = descriptor_prefix(image.manifest_id)
        blob = BlobId(f"{folder}{image.version:09d}-{data_key.key_version:06d}")
        there = [each.id async for each in store.list(folder)]
        if blob not in there:
            try:
                async with store.begin(blob) as ingest:
                    await ingest.write([content_of(image, data_key, key)])
                    await ingest.commit()
            except AlreadyExists:  # by another daemon
                pass
        for older in there:
            if older < blob:
                await store.delete(older)


async def _described(
    c: AsyncConnection, record: DataKeyRecord
) -> tuple[KeyRecord | None, ImageRecord | None]:
    key = await key_rows.get_key(c, record.key_id)
    return key, await image_rows.get_image(c, key.project_id, record.image_id) if key else None


def descriptor_prefix(manifest_id: str) -> str:
    """What the descriptors of an image begin with: blobs of its manifest, which are swept with it."""
    return f"manifests/{manifest_id}/descriptor-"


def content_of(image: ImageRecord, data_key: DataKeyRecord, key: KeyRecord) -> bytes:
    content: dict[str, Any] = {
        "version": VERSION,
        "image": {name: getattr(image, name) for name in FIELDS} | {"created_at": image.created_at},
        "data_key": {
            "key_id": key.id,
            "key_name": key.name,
            "key_service": key.key_service,
            "key_version": data_key.key_version,
            "wrapped": base64.b64encode(data_key.wrapped).decode(),
        },
    }
    return json.dumps(content, default=_plain, sort_keys=True).encode()


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)

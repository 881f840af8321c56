"""Copying an image inside the region: the request, checked, becomes a job and an image without a disk yet.

Sources of the rules: the seed's Table 5-4, contract §3.7 and §9.1. The *size* of an image is that of its
data, as for an export: see CONSTRAINTS.md, "What the size of an image is".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imsd.contract import FailedPrecondition, LimitExceeded
from imsd.metadata import images as image_rows
from imsd.metadata import jobs as job_rows
from imsd.metadata import keys as key_rows
from imsd.metadata.keys import DataKeyRecord
from imsd.metadata.records import (
    ImageKind,
    ImageRecord,
    ImageStatus,
    JobKind,
    JobRecord,
    JobState,
)

from . import attribute_checks, checks, quotas, requests
from .dispatcher import Dispatcher
from .image_access import usable_image
from .keys.encryption import require_encryptable, require_readable
from .keys.project_keys import ProjectKeys
from .lineage import lineage_of
from .quota_rules import IMAGES
from .requests import RequestKey
from .runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCopy:
    """What a caller wants of a copy; all else is as the other image has it, an empty ``store`` too.

    ``key``: id or name of the key under which the copy is encrypted; empty: it is not, whatever the other is.
    """

    image_id: str
    name: str
    description: str = ""
    enterprise_project_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    store: str = ""
    key: str = ""


class ImageCopies:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._keys = ProjectKeys(runtime)

    async def start(self, key: RequestKey, new: NewCopy) -> str:
        """Start a COPY_IMAGE job and return its id; the first one's when ``key`` was used before.

        Raises InvalidRequest, NotFound, FailedPrecondition (also KEY_UNCHANGED), LimitExceeded, and what keys
        raise: `ProjectKeys.for_encrypting`, `DataKeys.make` and `DataKeys.unwrapped`.
        """
        new = _checked(new, self._runtime.limits.max_tags_per_image)
        async with self._runtime.database.reading() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            source = await usable_image(c, key.project_id, new.image_id)
        require_copyable(source, self._runtime.limits.max_copy_bytes)
        await require_readable(self._runtime, source)
        data_key = await self._data_key(key.project_id, new, source) if new.key else None
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            source = await usable_image(c, key.project_id, new.image_id)
            require_copyable(source, self._runtime.limits.max_copy_bytes)
            await quotas.reserve(c, self._runtime, key.project_id, IMAGES)
            store = self._runtime.stores.choose(new.store) if new.store else source.store
            copy = queued_copy(self._runtime, key.project_id, replace(new, store=store), source)
            if data_key:
                copy = replace(copy, id=data_key.image_id, key_id=data_key.key_id)
                await key_rows.insert_data_key(c, data_key)
            job = _job(copy)
            await job_rows.insert_job(c, job)
            await image_rows.insert_image(c, copy)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id

    async def _data_key(self, project_id: str, new: NewCopy, source: ImageRecord) -> DataKeyRecord:
        """Of the copy. Another key is wanted than that of the other image (contract §3.7, IMG.0096)."""
        require_encryptable(is_fast=False, kind=source.kind, disk_format="", server_kind=source.server_kind)
        found = await self._keys.for_encrypting(project_id, new.key)
        if found.id == source.key_id:
            raise FailedPrecondition(
                f"image {source.name!r} is encrypted under the key {found.name!r} already",
                reason="KEY_UNCHANGED",
                field="key",
                hint="name another key, or none for a copy that is not encrypted",
            )
        return await self._runtime.data_keys.make(found, self._runtime.new_id())


def require_copyable(source: ImageRecord, max_bytes: int) -> None:
    """Raises FailedPrecondition (IMAGE_KIND_UNSUITED), LimitExceeded (COPY_TOO_LARGE)."""
    require_disk(source)
    if source.data_size > max_bytes:
        raise LimitExceeded(
            f"image {source.name!r} holds {source.data_size} bytes, and at most {max_bytes} are copied",
            reason="COPY_TOO_LARGE",
            field="image_id",
            hint="use the image as it is, or ask the operator to raise limits.max_copy_bytes",
        )


def require_disk(source: ImageRecord) -> None:
    """Raises FailedPrecondition (IMAGE_KIND_UNSUITED)."""
    if source.kind is ImageKind.ISO:
        raise FailedPrecondition(
            f"image {source.name!r} is an installation disc, and those are not copied",
            reason="IMAGE_KIND_UNSUITED",
            field="image_id",
            hint="import the file again, under the name you want",
        )


# What a copy says as the other image does. Whatever is not named here begins anew: the copy is a private
# image, neither protected, shared, published nor deprecated, and in no family.
COPIED = (
    "agents",
    "architecture",
    "boot_mode",
    "disk_format",
    "has_nic_multiqueue",
    "has_no_credential_injection",
    "is_guest_configured",
    "kind",
    "license_type",
    "max_ram_mb",
    "min_disk_gb",
    "min_ram_mb",
    "os_bits",
    "os_features",
    "os_type",
    "os_version",
    "platform",
    "product_code",
    "properties",
    "server_kind",
    "server_support",
    "shutdown_timeout_seconds",
)


def queued_copy(runtime: Runtime, project_id: str, new: NewCopy, source: ImageRecord) -> ImageRecord:
    """The copy before it has a disk."""
    now = runtime.clock()
    copied: dict[str, Any] = {name: getattr(source, name) for name in COPIED} | dict(lineage_of(source))
    return ImageRecord(
        id=runtime.new_id(),
        project_id=project_id,
        region=runtime.region,
        name=new.name,
        description=new.description,
        enterprise_project_id=new.enterprise_project_id,
        tags=new.tags,
        status=ImageStatus.QUEUED,
        store=new.store,
        job_id=runtime.new_id(),
        created_at=now,
        updated_at=now,
        **copied,
    )


def _job(copy: ImageRecord) -> JobRecord:
    return JobRecord(
        id=copy.job_id,
        project_id=copy.project_id,
        kind=JobKind.COPY_IMAGE,
        state=JobState.INIT,
        spec={"source_image_id": copy.origin_image_id, "store": copy.store},
        image_id=copy.id,
        created_at=copy.created_at,
    )


def _checked(new: NewCopy, max_tags: int) -> NewCopy:
    """``new`` as it will be kept. Raises InvalidRequest."""
    return replace(
        new,
        image_id=checks.uuid("image_id", new.image_id),
        name=checks.name(new.name),
        description=checks.description(new.description),
        enterprise_project_id=attribute_checks.enterprise_project(new.enterprise_project_id),
        tags=checks.tags(new.tags, max_tags),
    )

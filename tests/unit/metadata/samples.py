"""Records to begin with; every argument may be given otherwise."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Codec, Holder, HolderKind, IndexedChunk, Location
from imsd.metadata import jobs, uploads
from imsd.metadata.attachments import AttachmentRecord
from imsd.metadata.database import Database
from imsd.metadata.records import (
    ImageRecord,
    ImageStatus,
    JobKind,
    JobRecord,
    JobState,
    UploadRecord,
    UploadState,
)

START = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOST = str(uuid.uuid4())  # of attachments


def clock() -> datetime:
    return START


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def new_id() -> str:
    return str(uuid.uuid4())


def an_image(**values: Any) -> ImageRecord:
    given: dict[str, Any] = {
        "id": new_id(),
        "project_id": "lab",
        "region": "local",
        "name": "debian",
        "status": ImageStatus.ACTIVE,
        "store": "main",
        "job_id": new_id(),
        "created_at": START,
        "updated_at": START,
    }
    return ImageRecord(**(given | values))


def a_job(**values: Any) -> JobRecord:
    given: dict[str, Any] = {
        "id": new_id(),
        "project_id": "lab",
        "kind": JobKind.CREATE_IMAGE,
        "state": JobState.INIT,
        "spec": {"name": "debian"},
        "created_at": START,
    }
    return JobRecord(**(given | values))


def an_upload(**values: Any) -> UploadRecord:
    given: dict[str, Any] = {
        "id": new_id(),
        "project_id": "lab",
        "state": UploadState.OPEN,
        "store": "main",
        "created_at": START,
        "expires_at": at(3600),
    }
    return UploadRecord(**(given | values))


def an_attachment(**values: Any) -> AttachmentRecord:
    given: dict[str, Any] = {
        "id": new_id(),
        "project_id": "blue",
        "image_id": new_id(),
        "image_name": "disk",
        "export_name": "disk",
        "store": "main",
        "manifest_id": pack_id(1),
        "size_bytes": 1 << 20,
        "digest": "b3t:" + "5" * 64,
        "host_id": HOST,
        "host": "here",
        "created_at": at(0),
    }
    return AttachmentRecord(**(given | values))


async def claimed(c: AsyncConnection, record: JobRecord, owner: str = "me") -> JobRecord:
    """Claim ``record`` for ``owner``, whoever held it."""
    claim = await jobs.claim_job(c, record.id, owner, at(15), at(10**6))
    assert claim is not None
    return claim


async def job_holder(database: Database) -> Holder:
    """A running job."""
    record = a_job()
    async with database.transaction() as c:
        await jobs.insert_job(c, record)
        record = await claimed(c, record)
    return Holder(HolderKind.JOB, record.id, record.fence)


async def upload_holder(database: Database) -> Holder:
    """An upload that is being written."""
    record = an_upload()
    async with database.transaction() as c:
        await uploads.insert_upload(c, record)
        fence = await uploads.take_over(c, record.id)
    assert fence is not None
    return Holder(HolderKind.UPLOAD, record.id, fence)


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def chunks_of(pack_id: str, *numbers: int) -> list[IndexedChunk]:
    """The chunks whose digests are ``digest(number)``, one after the other in a pack."""
    return [
        IndexedChunk(digest(number), Location(pack_id, 1000 * place, 999, 4096, Codec.ZSTD, bytes(16)))
        for place, number in enumerate(numbers)
    ]


def pack_id(number: int) -> str:
    return f"{number:032x}"


async def count(database: Database, table: str) -> int:
    async with database.reading() as c:
        return int((await c.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())

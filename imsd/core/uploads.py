"""Uploads as a caller sees them: create, get, list, write, commit, delete; and their expiry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.staged_source import staging_prefix
from imsd.contract import (
    Conflict,
    FailedPrecondition,
    ImageRefused,
    ImsError,
    InvalidRequest,
    NotFound,
)
from imsd.metadata import chunk_index
from imsd.metadata import keys as key_rows
from imsd.metadata import uploads as upload_rows
from imsd.metadata.keys import DataKeyRecord
from imsd.metadata.records import UploadRecord, UploadState

from . import checks, limits, quotas, requests
from .fast_import import check_declared
from .file_limits import require_file_size
from .keys.encryption import require_encryptable
from .keys.project_keys import ProjectKeys
from .quota_rules import UPLOADS
from .requests import RequestKey
from .runtime import Runtime
from .service_limits import MAX_BYTES
from .sweeper import Sweeper
from .upload_progress import UploadProgress, taken_over
from .upload_session import UploadSession, seal_upload
from .upload_sink import CLOSING_SECONDS

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """``size_bytes`` 0: not known. ``disk_format`` empty: recognised from the bytes.

    ``is_fast``: for a fast import. ``store``: where its bytes are to lie, empty for the default store.
    ``key``: id or name of the key under which its image is to be encrypted, empty for none.
    """

    size_bytes: int = 0
    file_name: str = ""
    disk_format: str = ""
    expected_sha256: str = ""
    fingerprint: str = ""
    is_fast: bool = False
    store: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class PreparedUpload:
    """An upload without a row yet; ``data_key``: of its image, if that is to be encrypted."""

    record: UploadRecord
    data_key: DataKeyRecord | None = None


@dataclass(frozen=True, slots=True)
class GoneUpload:
    """What is still known of an upload that was made into an image, aborted or removed when it expired."""

    id: str
    project_id: str


class Uploads:
    def __init__(self, runtime: Runtime, sweeper: Sweeper) -> None:
        self._runtime = runtime
        self._sweeper = sweeper
        self._keys = ProjectKeys(runtime)
        self._sessions: dict[str, UploadSession] = {}

    async def create(self, key: RequestKey, new: NewUpload) -> UploadRecord | GoneUpload:
        """Open an upload; the first one, whatever became of it, when ``key`` was used before.

        Raises as `prepare`, LimitExceeded.
        """
        if new.key:
            async with self._runtime.database.reading() as c:
                if earlier := await self._earlier(c, key):
                    return earlier
        prepared = await self.prepare(key.project_id, new)
        async with self._runtime.database.transaction() as c:
            if earlier := await self._earlier(c, key):
                return earlier
            await self.insert(c, prepared)
            await requests.remember(c, self._runtime, key, prepared.record.id)
        return prepared.record

    async def _earlier(self, c: AsyncConnection, key: RequestKey) -> UploadRecord | GoneUpload | None:
        earlier = await requests.recall(c, key)
        if earlier is None:
            return None
        found = await upload_rows.get_upload(c, key.project_id, earlier)
        return found or GoneUpload(earlier, key.project_id)

    async def prepare(self, project_id: str, new: NewUpload, job_id: str = "") -> PreparedUpload:
        """The record of a new upload, and the data key of its image; see `record`.

        The id of an encrypted image is given now, and its data key made and wrapped: before its first byte.
        Raises as `record`, and what `ProjectKeys.for_encrypting` and `DataKeys.make` raise.
        """
        record = self.record(project_id, new, job_id)
        if not new.key:
            return PreparedUpload(record)
        require_encryptable(is_fast=new.is_fast, kind="", disk_format=new.disk_format)
        key = await self._keys.for_encrypting(project_id, new.key)
        data_key = await self._runtime.data_keys.make(key, self._runtime.new_id())
        return PreparedUpload(replace(record, image_id=data_key.image_id), data_key)

    def record(self, project_id: str, new: NewUpload, job_id: str = "") -> UploadRecord:
        """The record of a new upload; with ``job_id`` only that job writes it.

        Raises InvalidRequest, NotFound (STORE_NOT_FOUND), Unavailable (DRIVER_NOT_READY).
        """
        self._check(new)
        store = self._runtime.stores.choose(new.store)
        now = self._runtime.clock()
        return UploadRecord(
            id=self._runtime.new_id(),
            project_id=project_id,
            state=UploadState.OPEN,
            store=store,
            size_bytes=new.size_bytes,
            file_name=new.file_name,
            disk_format=new.disk_format,
            expected_sha256=new.expected_sha256,
            fingerprint=new.fingerprint,
            is_fast=new.is_fast,
            created_at=now,
            expires_at=now + self._runtime.limits.upload_expiry,
            job_id=job_id,
        )

    async def insert(self, c: AsyncConnection, prepared: PreparedUpload) -> None:
        """Raises LimitExceeded (QUOTA_EXCEEDED)."""
        await quotas.reserve(c, self._runtime, prepared.record.project_id, UPLOADS)
        await upload_rows.insert_upload(c, prepared.record)
        if prepared.data_key:
            await key_rows.insert_data_key(c, prepared.data_key)

    async def get(self, project_id: str, upload_id: str) -> UploadRecord:
        project_id, upload_id = checks.project_id(project_id), checks.uuid("upload_id", upload_id)
        async with self._runtime.database.reading() as c:
            return await self._find(c, project_id, upload_id)

    async def list(
        self, project_id: str, fingerprint: str, page_size: int, page_token: str
    ) -> tuple[Sequence[UploadRecord], str]:
        """A page of uploads, newest first, and the token of the next one."""
        limit = checks.page_size(page_size)
        query = (checks.project_id(project_id), _fingerprint(fingerprint))
        after = self._runtime.tokens.read(query, page_token)
        async with self._runtime.database.reading() as c:
            records = await upload_rows.list_uploads(c, *query, limit + 1, after)
        token = ""
        if len(records) > limit:
            last = records[limit - 1]
            token = self._runtime.tokens.make(query, (last.created_at, last.id))
        return records[:limit], token

    async def get_open(self, project_id: str, upload_id: str) -> UploadRecord:
        """An upload that still takes bytes. Raises NotFound, FailedPrecondition (also UPLOAD_EXPIRED)."""
        record = await self.get(project_id, upload_id)
        self._require_writable(record)
        if record.state is not UploadState.OPEN:
            raise _complete()
        return record

    @asynccontextmanager
    async def writing(self, project_id: str, upload_id: str, offset: int) -> AsyncIterator[UploadSession]:
        """Become the one writer of an upload, from its committed offset.

        Raises NotFound, FailedPrecondition, Conflict (UPLOAD_OFFSET_MISMATCH).
        """
        record = await self._take_over(project_id, upload_id, offset)
        if record is None:
            raise _complete()
        session = UploadSession(self._runtime, await UploadProgress.load(self._runtime, record))
        try:
            await self._register(upload_id, session)
            async with session:
                yield session
        except ImageRefused:
            # Nothing will ever come of these bytes. The call's own clean-up would be cancelled with it.
            self._runtime.background.spawn(self._drop(record, record.fence), "removal of a refused upload")
            raise
        finally:
            session.has_closed()
            if self._sessions.get(upload_id) is session:
                del self._sessions[upload_id]

    async def commit(self, project_id: str, upload_id: str, size_bytes: int, digest: str) -> UploadRecord:
        """All bytes were sent: check size and digest, and make the upload COMMITTED."""
        checks.matching("digest", digest, limits.TREE_DIGEST, "a digest is b3t: and 64 hex digits")
        record = await self.get(project_id, upload_id)
        if record.state is UploadState.OPEN:
            taken = await self._take_over(record.project_id, upload_id)
            if taken:
                await self._evict(upload_id)
                check_size(taken, size_bytes)
                return await self._seal(taken, digest)
            record = await self.get(record.project_id, upload_id)  # committed by another call meanwhile
        if size_bytes != record.size_bytes or (digest and digest != record.digest):
            raise FailedPrecondition(
                "the upload was committed with another size or digest", hint="look at it with GetUpload"
            )
        return record

    async def delete(self, project_id: str, upload_id: str) -> None:
        """Abort an upload and free its bytes. Raises FailedPrecondition when a job consumes it."""
        record = await self.get(project_id, upload_id)
        if not record.job_id:
            await self._evict(upload_id)
        if not await self._drop(record):
            raise FailedPrecondition(
                "a job makes an image of this upload", hint=f"cancel job {record.job_id} instead"
            )

    async def expire(self) -> None:
        """Delete uploads that nobody wrote to for too long."""
        async with self._runtime.database.reading() as c:
            expired = await upload_rows.expired_uploads(c, self._runtime.clock(), 1000)
        for record in expired:
            log.info("upload expired", upload_id=record.id)
            try:
                await self._evict(record.id)
                await self._drop(record)
            except ImsError as error:  # its store may be away; the others go on
                log.warning("expired upload stays", upload_id=record.id, reason=error.reason)

    async def close(self) -> None:
        """End every session: the daemon stops; the clients go on later."""
        for session in list(self._sessions.values()):
            await session.evict(CLOSING_SECONDS)

    async def discard_bytes(self, store_name: str, upload_id: str) -> None:
        """Free the staged bytes of an upload whose row is gone; idempotent."""
        store = self._runtime.stores.get(store_name)
        async for blob in store.list(staging_prefix(upload_id)):
            await store.delete(blob.id)

    async def _drop(self, record: UploadRecord, fence: int | None = None) -> bool:
        """Remove an upload, with ``fence`` only as its writer; False when a job consumes it."""
        async with self._runtime.database.transaction() as c:
            current = await upload_rows.get_upload(c, record.project_id, record.id)
            if current is None or fence not in (None, current.fence):
                return True
            if current.job_id:
                return False
            await chunk_index.release_holder(c, Holder(HolderKind.UPLOAD, record.id))
            await upload_rows.delete_upload_row(c, record.id)
        await self.discard_bytes(record.store, record.id)
        self._sweeper.wake(record.store)
        return True

    async def _seal(self, record: UploadRecord, digest: str) -> UploadRecord:
        try:
            return await seal_upload(self._runtime, record, digest)
        except ImsError as error:
            if isinstance(error, ImageRefused) or error.reason in ("DIGEST_MISMATCH", "IMAGE_EMPTY"):
                await self._drop(record, record.fence)
            raise

    async def _take_over(
        self, project_id: str, upload_id: str, offset: int | None = None
    ) -> UploadRecord | None:
        """Fence off every other writer: from now on nobody else changes the row. None when it is complete.

        A writer that would not go on at the committed offset takes nothing over: it raises Conflict
        (UPLOAD_OFFSET_MISMATCH), and the other one goes on.
        """
        self._require_writable(await self.get(project_id, upload_id))
        async with self._runtime.database.transaction() as c:
            record = await self._find(c, checks.project_id(project_id), upload_id)
            if record.state is UploadState.OPEN and offset not in (None, record.committed_offset):
                raise Conflict(
                    f"the upload goes on at byte {record.committed_offset}, not at {offset}",
                    reason="UPLOAD_OFFSET_MISMATCH",
                    hint="send the bytes from the committed offset on",
                )
            fence = await upload_rows.take_over(c, upload_id)
            record = await self._find(c, checks.project_id(project_id), upload_id)
        return None if fence is None else record

    async def _register(self, upload_id: str, session: UploadSession) -> None:
        """Take the place of an older session and wait until it has let go.

        Raises Conflict (UPLOAD_TAKEN_OVER) when a newer one was quicker.
        """
        other = self._sessions.get(upload_id)
        if other and other.fence > session.fence:
            raise taken_over()
        self._sessions[upload_id] = session
        if other:
            await other.evict()

    async def _evict(self, upload_id: str) -> None:
        if session := self._sessions.get(upload_id):
            await session.evict()

    def _require_writable(self, record: UploadRecord) -> None:
        """Raises FailedPrecondition."""
        if record.state is UploadState.OPEN and record.job_id:
            raise FailedPrecondition(
                "a job fetches the bytes of this upload", hint=f"watch job {record.job_id}"
            )
        if record.expires_at <= self._runtime.clock():
            raise FailedPrecondition(
                "nobody wrote to the upload for too long: it is about to be removed",
                reason="UPLOAD_EXPIRED",
                hint="start a new upload",
            )

    async def _find(self, c: AsyncConnection, project_id: str, upload_id: str) -> UploadRecord:
        record = await upload_rows.get_upload(c, project_id, upload_id)
        if record is None:
            raise NotFound(
                f"there is no upload {upload_id} in project {project_id}",
                hint="it may have been aborted, expired or made into an image",
            )
        return record

    def _check(self, new: NewUpload) -> None:
        checks.number("size_bytes", new.size_bytes, 0, MAX_BYTES)
        require_file_size(new.size_bytes, self._runtime.limits, is_fast=new.is_fast)
        if new.is_fast:
            check_declared(new.disk_format)
        checks.text("file_name", new.file_name, limits.MAX_FILE_NAME)
        checks.matching("expected_sha256", new.expected_sha256, limits.SHA256, "a SHA-256 is 64 hex digits")
        _fingerprint(new.fingerprint)


def _fingerprint(value: str) -> str:
    return checks.matching(
        "fingerprint", value, limits.FINGERPRINT, "a fingerprint has up to 128 printable characters"
    )


def check_size(record: UploadRecord, size_bytes: int) -> None:
    """Whether the upload has all its ``size_bytes``. Raises InvalidRequest, FailedPrecondition."""
    declared = record.size_bytes or size_bytes
    if size_bytes <= 0 and not record.size_bytes:
        raise InvalidRequest(
            "the upload is empty",
            reason="IMAGE_EMPTY",
            field="size_bytes",
            hint="send a file that holds a disk",
        )
    if size_bytes != declared:
        raise InvalidRequest(
            f"the upload was declared as {record.size_bytes} bytes, but is committed as {size_bytes}",
            reason="UPLOAD_INCOMPLETE" if size_bytes < declared else "UPLOAD_TOO_LONG",
            field="size_bytes",
            hint="commit the size of the file that was sent",
        )
    if record.committed_offset != size_bytes:
        raise FailedPrecondition(
            f"{record.committed_offset} of {size_bytes} bytes have arrived",
            reason="UPLOAD_INCOMPLETE" if record.committed_offset < size_bytes else "UPLOAD_TOO_LONG",
            hint="send the rest from the committed offset on, end with flush, then commit",
        )


def _complete() -> FailedPrecondition:
    return FailedPrecondition(
        "the upload is complete: nothing more can be written", hint="make an image of it"
    )

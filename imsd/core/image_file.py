"""The file that a job makes an image of: an upload that is there, or one into which the job fetches."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition, NotFound
from imsd.metadata import keys as key_rows
from imsd.metadata import uploads as upload_rows
from imsd.metadata.keys import KeyRecord
from imsd.metadata.records import ImageRecord, UploadRecord, UploadState

from . import checks
from .fast_import import check_same_way
from .file_limits import require_file_size
from .keys.key_names import DEFAULT_KEY, id_or_name, no_key
from .keys.project_keys import require_enabled
from .runtime import Runtime
from .sources import Source, Sources
from .uploads import NewUpload, PreparedUpload, Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """Which file: that of ``upload_id`` or, if there is one, of ``source``, which has ``expected_sha256``.

    ``disk_format``: what it must be, empty if that is to be found out. ``store``: where the bytes are to lie,
    empty for that of the upload, or the default one. ``key``: id or name of the key under which the image is
    to be encrypted; of an upload that is there, the one it was opened with, or empty.
    """

    upload_id: str = ""
    source: Source | None = None
    expected_sha256: str = ""
    disk_format: str = ""
    is_fast: bool = False
    store: str = ""
    key: str = ""


def check_file(file: ImageFile) -> None:
    """Raises InvalidRequest."""
    if file.source is None:
        checks.uuid("upload_id", file.upload_id)
        if file.expected_sha256:
            checks.refuse("expected_sha256", "of an upload, CreateUpload takes the SHA-256")


def spec_of(image: ImageRecord, file: ImageFile, upload: UploadRecord, *, kind: str) -> dict[str, object]:
    """What the job that makes ``image`` of ``file`` has to know. ``kind``: what was asked for, or empty."""
    return {
        "disk_format": file.disk_format or upload.disk_format,
        "kind": kind,
        "store": upload.store,
        "source": file.source.to_spec() if file.source else None,
    }


class ImageFiles:
    def __init__(self, runtime: Runtime, uploads: Uploads, sources: Sources) -> None:
        self._runtime = runtime
        self._uploads = uploads
        self._sources = sources

    async def own_upload(self, project_id: str, file: ImageFile) -> PreparedUpload | None:
        """The upload into which a job will fetch; it belongs to a job that is yet to be made, as is its row.

        None: the file is in an upload that is there. Raises what `Sources.feed` and `Uploads.prepare` raise,
        LimitExceeded.
        """
        if file.source is None:
            return None
        feed = self._sources.feed(project_id, file.source)
        require_file_size(await feed.known_size(), self._runtime.limits, is_fast=file.is_fast)
        wanted = NewUpload(
            file_name=feed.name,
            disk_format=file.disk_format,
            expected_sha256=file.expected_sha256,
            is_fast=file.is_fast,
            store=file.store,
            key=file.key,
        )
        return await self._uploads.prepare(project_id, wanted, self._runtime.new_id())

    async def check(self, c: AsyncConnection, project_id: str, file: ImageFile) -> str:
        """Whether a job may be made of what ``file`` names, as soon as an upload has all its bytes.

        Returns the format that is declared, empty if none is. Raises what `Sources.feed` raises, NotFound,
        FailedPrecondition.
        """
        if file.source is not None:
            self._sources.feed(project_id, file.source)
            self._runtime.stores.choose(file.store)
            if file.key:
                await self._key(c, project_id, file)
            return file.disk_format
        upload = await self._free(c, project_id, file)
        return file.disk_format or upload.disk_format

    async def committed(self, c: AsyncConnection, project_id: str, file: ImageFile) -> PreparedUpload:
        """The upload that is there, whole, and no other job's. Raises NotFound, FailedPrecondition."""
        upload = await self._free(c, project_id, file)
        if upload.state is not UploadState.COMMITTED:
            raise FailedPrecondition(
                "the upload is not complete",
                hint=f"send the bytes from offset {upload.committed_offset} on and commit it",
            )
        return PreparedUpload(upload, await key_rows.get_data_key(c, upload.image_id))

    async def _free(self, c: AsyncConnection, project_id: str, file: ImageFile) -> UploadRecord:
        """The upload that is there, and no other job's."""
        upload = await upload_rows.get_upload(c, project_id, file.upload_id)
        if upload is None:
            raise NotFound(
                f"there is no upload {file.upload_id} in this project",
                hint="it may have been aborted, expired or made into an image",
            )
        if upload.job_id:
            raise FailedPrecondition(
                "another job makes an image of this upload", hint=f"watch job {upload.job_id}"
            )
        check_same_way(is_fast=file.is_fast, upload_is_fast=upload.is_fast)
        if file.store and self._runtime.stores.choose(file.store) != upload.store:
            raise FailedPrecondition(
                f"the upload lies in the store {upload.store!r}, and the image is to lie in {file.store!r}",
                field="store",
                hint="name the store when the upload is made, or move the image afterwards",
            )
        if file.key:
            await self._require_same_key(c, project_id, file, upload)
        return upload

    async def _require_same_key(
        self, c: AsyncConnection, project_id: str, file: ImageFile, upload: UploadRecord
    ) -> None:
        """Raises InvalidRequest, NotFound (KEY_NOT_FOUND), FailedPrecondition."""
        key = await self._key(c, project_id, file)
        data_key = await key_rows.get_data_key(c, upload.image_id)
        if data_key is None or key is None or data_key.key_id != key.id:
            raise FailedPrecondition(
                "the upload was opened "
                + ("with another key" if data_key else "without a key, and lies in the store as it is"),
                field="key",
                hint="name the key when the upload is made: send the file again",
            )

    async def _key(self, c: AsyncConnection, project_id: str, file: ImageFile) -> KeyRecord | None:
        """The key that is asked for; None: the default key, which is yet to be made."""
        named = id_or_name(file.key, "key")
        key = await key_rows.find_key(c, checks.project_id(project_id), named)
        if key is None and named != DEFAULT_KEY:
            raise no_key(project_id, named, "key")
        if key is not None:
            require_enabled(key, "key")
        return key

    async def give(self, c: AsyncConnection, upload: PreparedUpload, job_id: str) -> None:
        """The upload is the job's from now on. Raises FailedPrecondition."""
        if upload.record.job_id == job_id:  # its own
            await self._uploads.insert(c, upload)
        elif not await upload_rows.attach_upload(c, upload.record.id, job_id):
            raise FailedPrecondition(
                "another job makes an image of this upload", hint="list the jobs of the project"
            )

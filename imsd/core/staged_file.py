"""The staged bytes of a committed upload as a file: what it is, and whether it is the one that was sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from imsd.chunks.sealed_parts import SealedParts
from imsd.chunks.staged_source import StagedPart, StagedSource
from imsd.contract import DataLoss, FailedPrecondition, InvalidRequest
from imsd.formats.detect import PACKAGES, detect, find_wrapper, require_declared
from imsd.formats.source import ByteSource
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import PartKind, PartRecord, UploadRecord, UploadState

from .file_digest import PartDigest, digest_of
from .job_run import JobRun
from .keys.encryption import cipher_of_upload

# Of the percent of a job; more when a digest takes the bytes one after the other.
TREE_SPAN, ORDERED_SPAN = (0.0, 5.0), (0.0, 20.0)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of which images are made.

    ``upload``: whose bytes it has, or a part of them. ``file``: those bytes; None when they became chunks
    while they came. ``wrapper``: what it is compressed with, or was. ``is_proved``: it was checked before.
    """

    upload: UploadRecord
    name: str
    file: ByteSource | None = None
    wrapper: str = ""
    is_package: bool = False
    is_proved: bool = False


async def committed_upload(run: JobRun, upload_id: str) -> UploadRecord:
    """Raises FailedPrecondition."""
    async with run.runtime.database.reading() as c:
        upload = await upload_rows.get_upload(c, run.record.project_id, upload_id)
    if upload is None or upload.state is not UploadState.COMMITTED:
        raise FailedPrecondition("the upload of this job is gone")
    return upload


async def upload_parts(run: JobRun, upload: UploadRecord) -> list[PartRecord]:
    async with run.runtime.database.reading() as c:
        return await upload_rows.upload_parts(c, upload.id)


async def find_file(run: JobRun, upload_id: str) -> FoundFile:
    """The file of a committed upload.

    Raises FailedPrecondition, ImageRefused (IMAGE_EMPTY, FORMAT_*), DataLoss, Unavailable, and what
    unwrapping a data key raises.
    """
    upload = await committed_upload(run, upload_id)
    if upload.is_direct:
        return FoundFile(upload, upload.file_name)
    parts = [
        StagedPart(part.number, part.start, part.length, part.kind is PartKind.ZERO)
        for part in await upload_parts(run, upload)
    ]
    cipher = await cipher_of_upload(run.runtime, upload)
    sealed = SealedParts(cipher, upload.id) if cipher else None
    file = StagedSource(run.runtime.stores.get(upload.store), upload.id, parts, sealed)
    wrapper, is_package = await run.runtime.pool.run(_look, file, str(run.record.spec["disk_format"]))
    return FoundFile(upload, upload.file_name, file, wrapper, is_package)


def _look(file: ByteSource, declared: str) -> tuple[str, bool]:
    """What a file was compressed with, or empty; whether it is a package."""
    if wrapper := find_wrapper(file, declared):
        return wrapper, False
    found = detect(file)
    if found not in PACKAGES:
        return "", False
    require_declared(declared, found)
    return "", True


async def check_file(
    run: JobRun, file: ByteSource, upload: UploadRecord, parts: Sequence[PartDigest] = ()
) -> None:
    """Whether the bytes of an upload are what arrived, and have the SHA-256 that their sender gave, if any.

    Chunks carry their digests, staged parts do not: a byte that changed in between would become a part of
    the image. ``parts`` take the bytes, too. Raises DataLoss, InvalidRequest (DIGEST_MISMATCH).
    """
    sha256 = PartDigest(0, file.size_bytes, hashlib.sha256())
    ordered = [*parts, sha256] if upload.expected_sha256 else parts
    run.enter("checksum", file.size_bytes, ORDERED_SPAN if ordered else TREE_SPAN)
    if await digest_of(run.runtime.pool, file, run.advance, ordered) != upload.digest:
        raise DataLoss(
            "the stored bytes of the upload are not the ones that arrived",
            hint="check the disk of the store, then upload the file again",
        )
    if upload.expected_sha256 and (actual := sha256.hasher.hexdigest()) != upload.expected_sha256:
        raise InvalidRequest(
            f"the SHA-256 of the file is {actual}, not {upload.expected_sha256}",
            reason="DIGEST_MISMATCH",
            field="expected_sha256",
            hint="the file is not the one the checksum was made of: fetch it again",
        )

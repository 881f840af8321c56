"""The staged bytes of a committed upload as a file, and whether they are the ones that were sent."""

from __future__ import annotations

import hashlib

from imsd.chunks.staged_source import StagedPart, StagedSource
from imsd.contract import DataLoss, InvalidRequest
from imsd.formats.source import ByteSource
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import PartKind, PartRecord, UploadRecord

from .file_digest import digest_of
from .job_run import JobRun

CHECK_SPAN = (0.0, 5.0)
SHA256_SPAN = (1.0, 20.0)

# Read at once for the SHA-256 of an uploaded file.
HASH_WINDOW = 4 << 20


async def upload_parts(run: JobRun, upload: UploadRecord) -> list[PartRecord]:
    async with run.runtime.database.reading() as c:
        return await upload_rows.upload_parts(c, upload.id)


async def staged_file(run: JobRun, upload: UploadRecord) -> StagedSource:
    """The file of an upload that was staged. Raises FailedPrecondition (DRIVER_NOT_READY)."""
    parts = [
        StagedPart(part.number, part.start, part.length, part.kind is PartKind.ZERO)
        for part in await upload_parts(run, upload)
    ]
    return StagedSource(run.runtime.stores.get(upload.store), upload.id, parts)


async def check_staged(run: JobRun, file: ByteSource, upload: UploadRecord) -> None:
    """Compare the staged bytes with the digest they had when they arrived.

    Chunks carry their digests, staged parts do not: a byte that changed in between would become a part of
    the image. Raises DataLoss.
    """
    run.enter("checksum", file.size_bytes, CHECK_SPAN)
    if await digest_of(run.runtime.pool, file, run.advance) != upload.digest:
        raise DataLoss(
            "the staged bytes of the upload are not the ones that arrived",
            hint="check the disk of the store, then upload the file again",
        )


async def check_sha256(run: JobRun, file: ByteSource, expected: str) -> None:
    """Compare a file with the SHA-256 its sender gave, if any. Raises InvalidRequest (DIGEST_MISMATCH)."""
    if not expected:
        return
    run.enter("checksum", file.size_bytes, SHA256_SPAN)
    actual = await hash_file(run, file, hashlib.sha256())
    if actual != expected:
        raise InvalidRequest(
            f"the SHA-256 of the file is {actual}, not {expected}",
            reason="DIGEST_MISMATCH",
            field="expected_sha256",
            hint="the file is not the one the checksum was made of: fetch it again",
        )


async def hash_file(run: JobRun, file: ByteSource, digest: hashlib._Hash, done_before: int = 0) -> str:
    """The hex digits of the digest of a file; ``done_before``: bytes of the job's phase."""
    done = 0
    while done < file.size_bytes:
        length = min(HASH_WINDOW, file.size_bytes - done)
        await run.runtime.pool.run(_update, digest, file, done, length)
        done += length
        run.advance(done_before + done)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, file: ByteSource, offset: int, length: int) -> None:
    # Read first: a source that lacks bytes raises here, and the call is repeated whole.
    content = file.read(offset, length)
    digest.update(content)

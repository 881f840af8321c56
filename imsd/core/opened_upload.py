"""A committed upload, opened as the disk it holds, and stored as a manifest of chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry_rows import EntryRows
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.ingest_state import IngestResult
from imsd.chunks.manifest_writer import ManifestWriter, WrittenManifest
from imsd.chunks.pack_writer import IngestTarget
from imsd.chunks.record_ingest import RecordIngest
from imsd.chunks.segment import decode_segment
from imsd.chunks.staged_source import staging_blob
from imsd.contract import ByteRange
from imsd.formats.detect import open_image, require_declared
from imsd.formats.reader import Finding, OpenedImage
from imsd.formats.registry import RECORD_DECODERS, is_streamable
from imsd.formats.source import BlockSource, ByteSource
from imsd.formats.stream_decoder import MAX_UNIT_BYTES, Step, StreamDecoder
from imsd.metadata.records import PartRecord, UploadRecord

from .chunked_sink import SealedDisk
from .data_bound import BoundedDisk
from .decoded_sink import give_records
from .fast_import import require_suited
from .job_run import JobRun
from .keys.encryption import ingest_target
from .staged_file import FoundFile, check_file, upload_parts
from .upload_progress import opened_state

STORE_SPAN = (20.0, 98.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDisk:
    """A disk whose manifest is durable, though not yet live; sizes in bytes."""

    manifest_id: str
    packs: Collection[str]
    format_name: str
    findings: Sequence[Finding]
    virtual_size_bytes: int
    digest: str
    data_size: int
    stored_size: int
    new_size: int


class OpenedUpload(ABC):
    """``file``: the bytes as they were uploaded; ``image``: the disk in them."""

    file: ByteSource
    image: OpenedImage

    @property
    def virtual_size_bytes(self) -> int:
        return self.image.blocks.size_bytes

    @abstractmethod
    async def store(self, run: JobRun) -> StoredDisk:
        """Store the disk; what is stored already is found by its digest."""

    def _stored(self, manifest: WrittenManifest, digest: str, new_size: int) -> StoredDisk:
        return StoredDisk(
            manifest_id=manifest.manifest_id,
            packs=manifest.packs,
            format_name=self.image.format_name,
            findings=self.image.findings,
            virtual_size_bytes=self.virtual_size_bytes,
            digest=digest,
            data_size=manifest.data_size,
            stored_size=manifest.stored_size,
            new_size=new_size,
        )


def open_upload(run: JobRun, found: FoundFile, declared: str) -> AbstractAsyncContextManager[OpenedUpload]:
    """Open a committed upload, checked. Raises ImageRefused, InvalidRequest, DataLoss, Unavailable."""
    if found.file is None:
        return _open_direct(run, found.upload, declared)
    return _open_staged(run, found, found.file, declared)


class StagedUpload(OpenedUpload):
    """The file lies in parts; its format's reader makes the disk of them."""

    def __init__(self, file: ByteSource, image: OpenedImage, target: IngestTarget) -> None:
        self.file = file
        self.image = image
        self._target = target

    async def store(self, run: JobRun) -> StoredDisk:
        run.enter("store", self.virtual_size_bytes, STORE_SPAN)
        pool = run.runtime.pool
        async with (
            ManifestWriter(self._target) as manifest,
            DiskIngest(pool, self._target, manifest) as ingest,
        ):
            await ingest.copy_from(BoundedDisk(self.image.blocks, self.file.size_bytes), run.advance)
            result = await ingest.finish(self.virtual_size_bytes)
            written = await manifest.commit(result.size_bytes, result.digest)
        return self._stored(written, result.digest, result.new_size)


class RecordedUpload(OpenedUpload):
    """The file lies in parts, and its records are kept as they are: a fast import."""

    def __init__(self, file: ByteSource, image: OpenedImage, target: IngestTarget) -> None:
        self.file = file
        self.image = image
        self._target = target

    async def store(self, run: JobRun) -> StoredDisk:
        run.enter("store", self.file.size_bytes, STORE_SPAN)
        pool = run.runtime.pool
        decoder = RECORD_DECODERS[self.image.format_name].begin(run.runtime.limits.max_virtual_size_bytes)
        async with (
            ManifestWriter(self._target) as manifest,
            RecordIngest(pool, self._target, manifest) as ingest,
        ):
            async with aclosing(_decoded(pool, self.file, decoder)) as steps:
                async for step in steps:
                    await give_records(ingest, step)
                    run.advance(decoder.position)
            disk = decoder.finish(self.file.size_bytes)
            result = await ingest.finish(disk.size_bytes)
            written = await manifest.commit(result.size_bytes, result.digest)
        return self._stored(written, result.digest, result.new_size)


class DirectUpload(OpenedUpload):
    """The chunks are stored already, and so is the manifest by now."""

    def __init__(
        self, file: ByteSource, image: OpenedImage, written: WrittenManifest, result: IngestResult
    ) -> None:
        self.file = file
        self.image = image
        self._written = written
        self._result = result

    async def store(self, run: JobRun) -> StoredDisk:
        return self._stored(self._written, self._result.digest, self._result.new_size)


class DiskBytes(ByteSource):
    """A disk as the bytes of a raw file of ``size_bytes``, which may end inside the last sector."""

    def __init__(self, blocks: BlockSource, size_bytes: int) -> None:
        self._blocks = blocks
        self.size_bytes = size_bytes

    def _read(self, offset: int, length: int) -> bytes:
        content = bytearray(length)
        self._blocks.read_into(offset, memoryview(content))
        return bytes(content)


@asynccontextmanager
async def _open_staged(
    run: JobRun, found: FoundFile, file: ByteSource, declared: str
) -> AsyncIterator[OpenedUpload]:
    if not found.is_proved:
        await check_file(run, file, found.upload)
    image = await _open_image(run, file, declared)
    target = await _target(run, found.upload)
    if found.upload.is_fast:
        require_suited(image.format_name)
        yield RecordedUpload(file, image, target)
    else:
        yield StagedUpload(file, image, target)


@asynccontextmanager
async def _open_direct(run: JobRun, upload: UploadRecord, declared: str) -> AsyncIterator[OpenedUpload]:
    target = await _target(run, upload)
    store, cipher = target.store, target.cipher
    sealed = SealedDisk.from_bytes(opened_state(upload, cipher))
    async with ManifestWriter(target) as manifest:
        async for rows in _segments(target, upload, await upload_parts(run, upload)):
            await manifest.add_rows(rows)
        written = await manifest.commit(sealed.result.size_bytes, sealed.result.digest)
    async with open_chunk_reader(store, written.manifest_id, run.runtime.pool, cipher=cipher) as reader:
        if sealed.format_name:  # decoded while it arrived, and judged then
            require_declared(declared, sealed.format_name)
            image = OpenedImage(sealed.format_name, reader, sealed.findings)
            yield DirectUpload(DiskBytes(reader, reader.size_bytes), image, written, sealed.result)
            return
        file = DiskBytes(reader, upload.size_bytes)
        if upload.expected_sha256:
            await check_file(run, file, upload)
        image = await _open_image(run, file, declared)
        if upload.is_fast:
            require_suited(image.format_name)
        if is_streamable(image.format_name):
            yield DirectUpload(file, image, written, sealed.result)
        else:  # the end of the file tells that its disk is another, a fixed VHD: its chunks are known
            yield StagedUpload(file, image, target)


async def _decoded(pool: DecodePool, file: ByteSource, decoder: StreamDecoder) -> AsyncGenerator[Step, None]:
    """What the units of a file give, front to back."""
    pending = bytearray()
    while decoder.position < file.size_bytes:
        start = decoder.position + len(pending)
        pending += await pool.run(file.read, start, min(MAX_UNIT_BYTES, file.size_bytes - start))
        while pending:
            with memoryview(pending) as view:
                step = await pool.run(decoder.step, view)
            if not step.consumed:
                break
            del pending[: step.consumed]
            yield step
        if pending and start == file.size_bytes:
            return  # what is left is no unit: `finish` says so


async def _segments(
    target: IngestTarget, upload: UploadRecord, parts: Sequence[PartRecord]
) -> AsyncIterator[EntryRows]:
    for part in parts:
        blob = await target.store.stat(staging_blob(upload.id, part.number))
        content = await target.store.read(blob.id, [ByteRange(0, blob.size_bytes)])
        yield decode_segment(content[0], target.cipher, blob.id)


async def _open_image(run: JobRun, file: ByteSource, declared: str) -> OpenedImage:
    limit = run.runtime.limits.max_virtual_size_bytes
    return await run.runtime.pool.run(open_image, file, declared or None, limit)


async def _target(run: JobRun, upload: UploadRecord) -> IngestTarget:
    """For the image of the job, which is another than that of the upload, if this is a package."""
    cipher = await run.runtime.data_keys.cipher(run.record.image_id) if upload.image_id else None
    return ingest_target(run.runtime, upload.store, upload.project_id, run.holder, cipher)

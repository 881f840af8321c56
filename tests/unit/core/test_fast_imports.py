"""Fast imports: kept as they come, proved all the same, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.index import Codec
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import BlobId, ByteRange, ImsError, InvalidRequest
from imsd.core.image_copies import NewCopy
from imsd.core.image_exports import NewExport
from imsd.core.jobs import JobView
from imsd.core.requests import RequestKey
from imsd.core.sources import Source, SourceKind
from imsd.core.uploads import NewUpload
from imsd.grpc_server.error_mapping import IMG_CODES
from imsd.metadata.database import Database
from imsd.metadata.records import ImageRecord, JobState
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, buckets_of, new_id
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed
from tests.unit.formats.crafted_vhd import fixed
from tests.unit.formats.crafted_zvhd import BLOCK, Fields, frame, padded, record, zvhd2, zvhd2_of, zvhd_of

OS = "Debian GNU/Linux 12.0.0 64bit"
SIZE = 5 * BLOCK + 1536
# As the vendor writes them: one frame, no checksum.
BARE = zstandard.ZstdCompressor(level=1, write_content_size=True)


def half(seed: int, length: int) -> bytes:
    """Bytes that shrink by half."""
    dice = random.Random(seed)
    return b"".join(dice.randbytes(2048) + bytes(2048) for _ in range(length // 4096 + 1))[:length]


BLOCKS = {
    0: half(1, BLOCK),
    1: random.Random(2).randbytes(BLOCK),
    3: half(3, 5000),
    4: half(4, BLOCK),
    5: b"end" * 512,
}


def disk() -> bytes:
    content = bytearray(SIZE)
    for block, plain in BLOCKS.items():
        content[block * BLOCK : block * BLOCK + len(plain)] = plain
    return bytes(content)


def vendors_zvhd2() -> bytes:
    records = [(block, record(block, BARE.compress(padded(plain)))) for block, plain in BLOCKS.items()]
    return zvhd2(records, Fields(size=SIZE))


FILES: dict[str, Callable[[], bytes]] = {
    "raw": disk,
    "zvhd2": vendors_zvhd2,
    "zvhd2 with checksums": lambda: zvhd2_of(BLOCKS, Fields(size=SIZE)),
    "zvhd2 with zlib": lambda: zvhd2_of(BLOCKS, Fields(size=SIZE, compression=0)),
    "zvhd2 with an index of all": lambda: zvhd2_of(BLOCKS, Fields(size=SIZE, covers_zero_blocks=1)),
}


@pytest.fixture
def bucket() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def world(database: Database, bucket: MemoryStore, tmp_path: Path) -> ImportWorld:
    return ImportWorld(database, (tmp_path,), buckets_of(main=bucket))


@pytest.fixture
async def service(world: ImportWorld) -> AsyncIterator[ImportService]:
    async with world.serving() as service:
        yield service


async def start(service: ImportService, file: bytes, sha256: str = "", **wanted: Any) -> str:
    upload = await service.send(file, is_fast=True, expected_sha256=sha256)
    return await service.start(**({"upload_id": upload, "is_fast": True, "os_version": OS} | wanted))


async def fast(service: ImportService, file: bytes, sha256: str = "", **wanted: Any) -> ImageRecord:
    return await made(service, await service.end_of(await start(service, file, sha256, **wanted)))


async def made(service: ImportService, view: JobView) -> ImageRecord:
    assert view.record.state is JobState.SUCCESS, view
    return await service.image(view.record.image_id)


async def content_of(service: ImportService, image: ImageRecord) -> bytes:
    runtime = service.runtime
    async with open_chunk_reader(
        runtime.stores.get(STORE), image.manifest_id, runtime.pool, digests=True
    ) as reader:
        content = bytearray(reader.size_bytes)
        for at in range(0, len(content), MIB):
            await runtime.pool.run(reader.read_into, at, memoryview(content)[at : at + MIB])
        return bytes(content)


async def codecs(service: ImportService, image: ImageRecord) -> list[tuple[int, Codec]]:
    runtime = service.runtime
    async with open_chunk_reader(runtime.stores.get(STORE), image.manifest_id, runtime.pool) as reader:
        chunks = await runtime.pool.run(reader.manifest.chunks, 0, reader.size_bytes)
        return [(chunk.length, Codec(chunk.codec)) for chunk in chunks]


async def packs(service: ImportService) -> bytes:
    store = service.runtime.stores.get(STORE)
    blobs = [blob async for blob in store.list("packs/")]
    return b"".join([(await store.read(blob.id, [ByteRange(0, blob.size_bytes)]))[0] for blob in blobs])


def tree_digest(content: bytes) -> str:
    hasher = TreeHasher()
    hasher.update(content)
    return hasher.digest()


async def test_other_constraints_a_32_bit_os_that_is_declared_asks_for_4_gb_at_most(
    service: ImportService,
) -> None:
    """What is imported otherwise is looked into, and may be another system than was thought."""
    declared: dict[str, Any] = {"os_version": "Other_Linux (32_bit)", "min_ram_mb": 4097}
    with pytest.raises(InvalidRequest) as refused:
        await start(service, disk(), **declared)
    assert refused.value.field == "min_ram_mb"
    await fast(service, disk(), **declared | {"min_ram_mb": 4096})
    await made(service, await service.import_file(disk(), **declared))


@pytest.mark.parametrize("has_sha256", [False, True])
@pytest.mark.parametrize("name", FILES)
async def test_the_image_is_the_disk_with_the_digest_of_any_other_way(
    service: ImportService, name: str, has_sha256: bool
) -> None:
    file = FILES[name]()
    sha256 = hashlib.sha256(file).hexdigest() if has_sha256 else ""
    image = await fast(service, file, sha256)
    assert (image.digest, image.virtual_size) == (tree_digest(disk()), SIZE)
    assert (image.is_fast_imported, image.disk_format) == (True, name.split()[0])
    assert await content_of(service, image) == disk()
    ordinary = await made(service, await service.import_file(file))
    assert ordinary.digest == image.digest
    assert not ordinary.is_fast_imported


async def test_nobody_looks_inside_and_what_was_declared_counts(service: ImportService) -> None:
    image = await fast(service, disk(), architecture="arm", boot_mode="uefi")
    assert service.inspector.asked == 0
    assert (image.os_version, image.architecture, image.boot_mode) == (OS, "arm", "uefi")
    assert (image.platform, image.os_type, image.os_bits) == ("Debian", "linux", 64)
    assert image.guest == {}


async def test_records_of_zvhd2_are_kept_byte_for_byte_and_leave_as_they_came(
    service: ImportService, bucket: MemoryStore
) -> None:
    image = await fast(service, vendors_zvhd2())
    stored = await packs(service)
    for block in (0, 3, 4):
        assert BARE.compress(padded(BLOCKS[block])) in stored
    assert [codec for _, codec in await codecs(service, image)] == [
        Codec.RECORD,
        Codec.RAW,  # it would grow
        Codec.RECORD,
        Codec.RECORD,
        Codec.RECORD,
    ]
    new = NewExport(image_id=image.id, target="main:out", is_fast=True)
    job_id = await service.exports.start(RequestKey(PROJECT, "", new_id()), new)
    assert (await service.end_of(job_id)).record.state is JobState.SUCCESS
    found = await bucket.stat(BlobId("out"))
    exported = (await bucket.read(found.id, [ByteRange(0, found.size_bytes)]))[0]
    for block in (0, 3, 4):
        assert BARE.compress(padded(BLOCKS[block])) in exported
    back = await fast(service, exported)
    assert (back.digest, back.new_size) == (image.digest, 0)


async def test_raw_is_kept_compressed_without_its_zeros(service: ImportService) -> None:
    image = await fast(service, half(1, MIB) + bytes(8 * MIB) + random.Random(1).randbytes(MIB))
    assert {codec for _, codec in await codecs(service, image)} == {Codec.ZSTD, Codec.RAW}
    assert image.data_size <= 2 * MIB
    assert image.stored_size < 1.8 * MIB


@pytest.mark.parametrize("name", ["raw", "zvhd2"])
async def test_the_same_file_again_is_found_and_takes_no_room(service: ImportService, name: str) -> None:
    first = await fast(service, FILES[name]())
    again = await fast(service, FILES[name]())
    assert (again.digest, again.new_size) == (first.digest, 0)
    assert first.new_size > 0


async def test_another_project_finds_nothing(service: ImportService) -> None:
    first = await fast(service, vendors_zvhd2())
    record = await service.uploads.create(RequestKey("other", "", new_id()), NewUpload(is_fast=True))
    async with service.uploads.writing("other", record.id, 0) as session:
        file = vendors_zvhd2()
        for at in range(0, len(file), MIB):
            await session.write(file[at : at + MIB])
        await session.flush()
    upload = await service.uploads.get("other", record.id)
    assert upload.staged_bytes >= first.new_size


async def test_a_copy_is_cut_by_content_and_is_the_same_disk(service: ImportService) -> None:
    image = await fast(service, vendors_zvhd2())
    key = RequestKey(PROJECT, "", new_id())
    job_id = await service.copies.start(key, NewCopy(image_id=image.id, name="copy"))
    copy = await made(service, await service.end_of(job_id))
    assert (copy.digest, copy.is_fast_imported) == (image.digest, False)
    assert Codec.RECORD not in {codec for _, codec in await codecs(service, copy)}
    assert await content_of(service, copy) == disk()


async def test_verify_reads_every_record(service: ImportService) -> None:
    image = await fast(service, vendors_zvhd2())
    job_id = await service.images.verify(RequestKey(PROJECT, "", new_id()), image)
    report = (await service.end_of(job_id)).record.result
    assert (report["damage_count"], report["digest"]) == (0, image.digest)
    assert report["chunks_checked"] == len(BLOCKS)


@pytest.mark.parametrize("name", ["raw", "zvhd2"])
async def test_every_source_will_do(
    service: ImportService, bucket: MemoryStore, tmp_path: Path, name: str
) -> None:
    file = FILES[name]()
    (tmp_path / "disk").write_bytes(file)
    async with bucket.begin(BlobId("disk")) as ingest:
        await ingest.write([file])
        await ingest.commit()
    for source in (
        Source(SourceKind.LOCAL_PATH, str(tmp_path / "disk")),
        Source(SourceKind.OBJECT, "main:disk"),
    ):
        job_id = await service.start(source=source, is_fast=True, os_version=OS)
        image = await made(service, await service.end_of(job_id))
        assert (image.digest, image.is_fast_imported) == (tree_digest(disk()), True)


@pytest.mark.parametrize("name", ["raw", "zvhd2"])
@pytest.mark.parametrize("part", [1 << 20, 3 << 20])
async def test_an_upload_goes_on_where_it_was(world: ImportWorld, name: str, part: int) -> None:
    file = FILES[name]()
    async with world.serving(upload_part_bytes=part) as service:
        key = RequestKey(PROJECT, "", new_id())
        upload = await service.uploads.create(key, NewUpload(is_fast=True))
        offset = 0
        while offset < len(file):
            async with service.uploads.writing(PROJECT, upload.id, offset) as session:
                for at in range(offset, min(offset + 3 * MIB, len(file)), MIB // 2):
                    await session.write(file[at : at + MIB // 2])
                await session.flush()
            offset = (await service.uploads.get(PROJECT, upload.id)).committed_offset
    async with world.serving() as service:
        await service.uploads.commit(PROJECT, upload.id, len(file), tree_digest(file))
        job_id = await service.start(upload_id=upload.id, is_fast=True, os_version=OS)
        image = await made(service, await service.end_of(job_id))
        assert image.digest == tree_digest(disk())
        assert await content_of(service, image) == disk()


def with_flipped_bit(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


HOSTILE = {
    "a payload that is damaged": with_flipped_bit(FILES["zvhd2 with checksums"](), 4096 + 3000),
    "a frame of another size": zvhd2([(0, record(0, BARE.compress(bytes(BLOCK - 1))))], Fields(size=BLOCK)),
    "a frame that claims gigabytes": zvhd2(
        [(0, record(0, b"\x28\xb5\x2f\xfd\xe0" + (1 << 33).to_bytes(8, "little") + b"\1\0\0"))],
        Fields(size=BLOCK),
    ),
    "a frame that needs a dictionary": zvhd2(
        [(0, record(0, b"\x28\xb5\x2f\xfd\x23\x07\x00" + frame(b"x")[5:]))], Fields(size=BLOCK)
    ),
    "a block twice": zvhd2([(0, record(0, frame(b"x"))), (0, record(0, frame(b"y")))], Fields(size=BLOCK)),
    "an index that lies": with_flipped_bit(vendors_zvhd2(), len(vendors_zvhd2()) - 4096 - 4096 - 524_288),
    "a file that is cut": vendors_zvhd2()[:-4096],
    "a footer of another disk": vendors_zvhd2()[:-4096] + Fields(size=BLOCK).page(),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("is_staged", [False, True])
async def test_a_file_that_lies_becomes_no_image_and_leaves_nothing(
    service: ImportService, name: str, is_staged: bool
) -> None:
    file = HOSTILE[name]
    sha256 = hashlib.sha256(file).hexdigest() if is_staged else ""
    try:
        job_id = await start(service, file, sha256)
    except ImsError as error:
        reason = error.reason
    else:
        reason = failed(await service.end_of(job_id))
    assert reason in ("IMAGE_MALFORMED", "IMAGE_TRUNCATED"), reason
    assert await service.left() == {}


OTHERS = {
    "qcow2": b"QFI\xfb\x00\x00\x00\x03" + bytes(MIB),
    "zvhd": zvhd_of({0: b"x"}),
    "iso": bytes(32768) + b"\x01CD001\x01" + bytes(MIB),
    "gzip": gzip.compress(disk()),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_any_other_file_is_refused_by_its_first_bytes(service: ImportService, name: str) -> None:
    with pytest.raises(ImsError) as refused:
        await service.send(OTHERS[name], is_fast=True)
    assert refused.value.reason == "FAST_IMPORT_UNSUITED"
    assert IMG_CODES[refused.value.reason] == "IMG.0158"
    assert refused.value.hint
    assert await service.left() == {}


async def test_a_signature_at_the_end_is_not_overlooked(service: ImportService) -> None:
    view = await service.end_of(await start(service, fixed(half(1, 2 * MIB))))
    assert failed(view) == "FAST_IMPORT_UNSUITED"
    assert await service.left() == {}


@pytest.mark.parametrize(
    ("wanted", "reason", "code"),
    [
        ({"os_version": ""}, "OS_VERSION_REQUIRED", "IMG.0159"),
        ({"os_version": "", "kind": "system_disk"}, "OS_VERSION_REQUIRED", "IMG.0159"),
        ({"kind": "iso"}, "FAST_IMPORT_UNSUITED", "IMG.0158"),
        ({"disk_format": "qcow2"}, "FAST_IMPORT_UNSUITED", "IMG.0158"),
        ({"is_fast": False}, "FAILED_PRECONDITION", ""),
    ],
)
async def test_a_request_that_does_not_fit_is_refused(
    service: ImportService, wanted: dict[str, Any], reason: str, code: str
) -> None:
    upload = await service.send(disk(), is_fast=True)
    with pytest.raises(ImsError) as refused:
        await service.start(**({"upload_id": upload, "is_fast": True, "os_version": OS} | wanted))
    assert (refused.value.reason, IMG_CODES.get(refused.value.reason, "")) == (reason, code)
    assert refused.value.hint


async def test_an_upload_of_the_ordinary_way_is_not_imported_fast(service: ImportService) -> None:
    upload = await service.send(disk())
    with pytest.raises(ImsError, match="opened for ordinary import"):
        await service.start(upload_id=upload, is_fast=True, os_version=OS)


async def test_a_data_disk_needs_no_os_version(service: ImportService) -> None:
    image = await fast(service, disk(), os_version="", kind="data_disk")
    assert (image.is_fast_imported, image.min_disk_gb) == (True, 40)


async def test_table_5_2_image_size(world: ImportWorld, bucket: MemoryStore) -> None:
    async with world.serving(max_import_bytes=MIB, max_fast_import_bytes=2 * MIB) as service:
        for is_fast, most in ((False, MIB), (True, 2 * MIB)):
            key = RequestKey(PROJECT, "", new_id())
            with pytest.raises(ImsError) as refused:
                await service.uploads.create(key, NewUpload(size_bytes=most + 1, is_fast=is_fast))
            assert refused.value.reason == "IMAGE_FILE_TOO_LARGE"
            assert IMG_CODES["IMAGE_FILE_TOO_LARGE"] == "IMG.0059"
            assert ("import it fast" in refused.value.hint) is not is_fast
            with pytest.raises(ImsError) as refused:  # whose size is not known before
                await service.send(half(1, most + 1), is_fast=is_fast)
            assert refused.value.reason == "IMAGE_FILE_TOO_LARGE"
            async with bucket.begin(BlobId(f"disk-{is_fast}")) as ingest:
                await ingest.write([half(1, most + 512)])
                await ingest.commit()
            source = Source(SourceKind.OBJECT, f"main:disk-{is_fast}")
            with pytest.raises(ImsError) as refused:
                await service.start(source=source, is_fast=is_fast, os_version=OS)
            assert refused.value.reason == "IMAGE_FILE_TOO_LARGE"
        image = await fast(service, half(1, 2 * MIB))
        assert image.virtual_size == 2 * MIB


async def test_a_run_that_was_broken_off_goes_on(world: ImportWorld) -> None:
    async with world.serving() as service:
        service.dispatcher.dispatch = lambda record: None  # type: ignore[method-assign]  # as if it died at once
        file = vendors_zvhd2()
        job_id = await start(service, file, hashlib.sha256(file).hexdigest())
    async with world.serving() as service:
        image = await made(service, await service.end_of(job_id))
        assert image.digest == tree_digest(disk())

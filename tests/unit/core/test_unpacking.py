"""Files that were compressed whole: unpacked by their jobs, through stops, and without remains."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import zstandard

from imsd.chunks.disk_digest import digest_blocks
from imsd.contract import ImageRefused
from imsd.core.sources import Source, SourceKind
from imsd.formats.raw import RawBlocks
from imsd.formats.registry import open_writer
from imsd.formats.source import MemorySource
from imsd.metadata import uploads as upload_rows
from imsd.metadata.database import Database
from imsd.metadata.records import JobState
from tests.unit.core.core_world import STORE
from tests.unit.core.import_world import MIB, PROJECT, ImportService, ImportWorld, failed
from tests.unit.formats.disk_files import write_file

PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
}
DISK = random.Random(1).randbytes(3 * MIB) + bytes(9 * MIB) + random.Random(2).randbytes(MIB) + bytes(512)
DIGEST = digest_blocks(RawBlocks(MemorySource(DISK)))


@pytest.fixture
def world(database: Database, tmp_path: Path) -> ImportWorld:
    return ImportWorld(database, (tmp_path,))


def as_format(name: str, folder: Path) -> bytes:
    writer = open_writer(name, RawBlocks(MemorySource(DISK)))
    return write_file(writer, folder / f"disk.{name}").read_bytes()


async def kinds_of_uploads(service: ImportService) -> list[bool | None]:
    """Of each upload there is, whether it becomes chunks at once."""
    async with service.runtime.database.reading() as c:
        return [upload.is_direct for upload in await upload_rows.list_uploads(c, PROJECT, "", 10, None)]


@pytest.mark.parametrize("wrapper", PACK)
async def test_a_disk_comes_out_of_every_wrapper(world: ImportWorld, wrapper: str) -> None:
    async with world.serving() as service:
        done = await service.import_file(PACK[wrapper](DISK))
        assert done.record.state is JobState.SUCCESS, done
        image = await service.image(done.record.image_id)
        assert (image.disk_format, image.digest) == ("raw", DIGEST)
        assert [finding["code"] for finding in image.findings] == ["UNPACKED_FROM"]
        assert wrapper in image.findings[0]["message"]
        assert not await kinds_of_uploads(service)


@pytest.mark.parametrize("name", ["qcow2", "vdi", "vhd", "zvhd", "zvhd2"])
async def test_a_disk_of_any_format_may_be_inside(world: ImportWorld, tmp_path: Path, name: str) -> None:
    async with world.serving() as service:
        packed = gzip.compress(as_format(name, tmp_path))
        done = await service.import_file(packed, disk_format=name)
        assert done.record.state is JobState.SUCCESS, done
        image = await service.image(done.record.image_id)
        assert (image.disk_format, image.virtual_size >= len(DISK)) == (name, True)
        if name != "vhd":  # which has whole MiB
            assert image.digest == DIGEST


@pytest.mark.parametrize(("name", "is_direct"), [("raw", True), ("zvhd", True), ("qcow2", False)])
async def test_only_what_must_be_is_staged_unpacked(
    world: ImportWorld, tmp_path: Path, name: str, is_direct: bool
) -> None:
    async with world.serving(upload_part_bytes=256 << 10) as service:
        upload = await service.send(gzip.compress(as_format(name, tmp_path), 1))
        job = await service.start(upload_id=upload)
        await service.until(job, lambda view: view.record.phase in ("store", "commit", "guest", "inspect"))
        assert sorted(map(bool, await kinds_of_uploads(service))) in ([False, is_direct], [])
        assert (await service.end_of(job)).record.state is JobState.SUCCESS


@pytest.mark.parametrize("name", ["raw", "qcow2", "zvhd"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
async def test_a_job_goes_on_with_what_it_had_unpacked(
    world: ImportWorld, tmp_path: Path, name: str, share: float
) -> None:
    packed = gzip.compress(as_format(name, tmp_path), 1)
    async with world.serving(upload_part_bytes=256 << 10) as service:
        job = await service.start(upload_id=await service.send(packed))

        def is_reached(view: object) -> bool:
            record = view.record  # type: ignore[attr-defined]
            return record.phase not in ("queued", "checksum", "inspect") and (
                record.phase != "unpack" or record.bytes_done >= share * len(packed)
            )

        await service.until(job, is_reached)
    async with world.serving() as service:
        done = await service.end_of(job)
        assert done.record.state is JobState.SUCCESS, done
        assert (await service.image(done.record.image_id)).digest == DIGEST
        assert "upload" not in await service.left()


async def test_a_job_needs_its_own_store_and_not_the_default_one(
    world: ImportWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.serving() as service:
        upload = await service.send(gzip.compress(DISK))
        monkeypatch.setattr(service.runtime.stores, "default_name", "away")
        done = await service.end_of(await service.start(upload_id=upload))
        assert done.record.state is JobState.SUCCESS, done
        assert (await service.image(done.record.image_id)).store == STORE


@pytest.mark.parametrize("name", ["raw", "qcow2"])
async def test_a_job_that_is_cancelled_while_it_unpacks_leaves_nothing(
    world: ImportWorld, tmp_path: Path, name: str
) -> None:
    async with world.serving(upload_part_bytes=256 << 10) as service:
        job = await service.start(upload_id=await service.send(gzip.compress(as_format(name, tmp_path), 1)))
        await service.until(job, lambda view: view.record.phase == "unpack" and view.record.bytes_done > 0)
        await service.jobs.cancel(PROJECT, job)
        assert (await service.end_of(job)).record.state is JobState.CANCELLED
        assert await service.left() == {}


async def test_what_was_left_by_a_cancelled_job_goes_at_the_next_start(
    world: ImportWorld, database: Database
) -> None:
    async with world.serving(upload_part_bytes=256 << 10) as service:
        job = await service.start(upload_id=await service.send(gzip.compress(DISK, 1)))
        await service.until(job, lambda view: view.record.phase == "unpack" and view.record.bytes_done > 0)
        await service.dispatcher.stop(0)
        await service.jobs.cancel(PROJECT, job)
        assert (await service.jobs.get(PROJECT, job)).record.state is JobState.CANCELLING
    async with world.serving() as service:
        assert (await service.end_of(job)).record.state is JobState.CANCELLED
        assert await service.left() == {}


NEVER_AN_IMAGE = {
    "cut": (gzip.compress(DISK)[:-9], "IMAGE_TRUNCATED"),
    "damaged": (gzip.compress(DISK)[:-8] + bytes(8), "IMAGE_MALFORMED"),
    "empty": (gzip.compress(b""), "IMAGE_EMPTY"),
    "xz in gzip": (gzip.compress(lzma.compress(DISK)), "FORMAT_UNSUPPORTED"),
    "bzip2 in bzip2": (bz2.compress(bz2.compress(DISK)), "FORMAT_UNSUPPORTED"),
    "qcow2 of version 9": (gzip.compress(b"QFI\xfb\0\0\0\x09" + DISK), "FORMAT_UNSUPPORTED"),
}


@pytest.mark.parametrize(("file", "reason"), NEVER_AN_IMAGE.values(), ids=NEVER_AN_IMAGE)
async def test_a_file_that_will_never_be_an_image_goes_with_its_job(
    world: ImportWorld, file: bytes, reason: str
) -> None:
    async with world.serving() as service:
        done = await service.import_file(file)
        assert failed(done) == reason
        assert await service.left() == {}


async def test_the_declared_format_is_of_what_is_inside(world: ImportWorld, tmp_path: Path) -> None:
    async with world.serving() as service:
        done = await service.import_file(gzip.compress(as_format("qcow2", tmp_path)), disk_format="vdi")
        assert failed(done) == "FORMAT_MISMATCH"
        # A better request can still be made of the upload as it was sent.
        assert (await service.left()).keys() == {"upload", "upload_part", "blobs"}
        assert await kinds_of_uploads(service) == [False]


async def test_a_file_that_is_declared_raw_is_a_disk_as_it_is(world: ImportWorld) -> None:
    packed = gzip.compress(DISK)
    async with world.serving() as service:
        done = await service.import_file(packed, disk_format="raw")
        image = await service.image(done.record.image_id)
        assert image.virtual_size == -(-len(packed) // 512) * 512
        assert "RAW_LOOKS_COMPRESSED" in [finding["code"] for finding in image.findings]


@pytest.mark.parametrize("is_right", [True, False])
async def test_the_sha256_is_of_the_file_that_was_sent(world: ImportWorld, is_right: bool) -> None:
    packed = gzip.compress(DISK)
    expected = hashlib.sha256(packed if is_right else DISK).hexdigest()
    async with world.serving() as service:
        done = await service.import_file(packed, expected_sha256=expected)
        if is_right:
            assert done.record.state is JobState.SUCCESS
        else:
            assert failed(done) == "DIGEST_MISMATCH"
            assert await service.left() == {}


async def test_what_unpacks_to_more_than_an_upload_may_have_is_refused(world: ImportWorld) -> None:
    async with world.serving(max_upload_size_bytes=8 * MIB) as service:
        done = await service.import_file(gzip.compress(DISK))
        assert failed(done) == "IMAGE_TOO_LARGE"
        assert await service.left() == {}


async def test_what_is_staged_unpacked_counts_for_the_quota(world: ImportWorld, tmp_path: Path) -> None:
    packed = gzip.compress(as_format("qcow2", tmp_path))
    async with world.serving(staging_quota_bytes=len(packed) + MIB) as service:
        done = await service.import_file(packed)
        assert failed(done) == "QUOTA_EXCEEDED"
        assert await kinds_of_uploads(service) == [False]


async def test_a_file_that_is_a_wrapper_and_a_disc_is_refused_when_its_first_bytes_come(
    world: ImportWorld,
) -> None:
    disc = bytearray(40_000)
    disc[:3], disc[32_768:32_775] = b"\x1f\x8b\x08", b"\x01CD001\x01"
    async with world.serving() as service:
        with pytest.raises(ImageRefused) as refused:
            await service.send(bytes(disc))
        assert refused.value.reason == "FORMAT_AMBIGUOUS"


async def test_a_file_of_the_daemons_machine_is_unpacked_too(world: ImportWorld, tmp_path: Path) -> None:
    (tmp_path / "disk.raw.zst").write_bytes(zstandard.compress(DISK))
    async with world.serving() as service:
        source = Source(SourceKind.LOCAL_PATH, str(tmp_path / "disk.raw.zst"))
        done = await service.end_of(await service.start(source=source))
        assert done.record.state is JobState.SUCCESS, done
        assert (await service.image(done.record.image_id)).digest == DIGEST


async def test_progress_never_falls_and_is_of_the_packed_file(world: ImportWorld) -> None:
    packed = gzip.compress(DISK, 1)
    async with world.serving() as service:
        job = await service.start(upload_id=await service.send(packed))
        views = [view.record async for view in service.jobs.watch(PROJECT, job)]
        percents = [record.percent for record in views]
        assert percents == sorted(percents)
        assert {record.bytes_total for record in views if record.phase == "unpack"} <= {0, len(packed)}
        assert percents[-1] == 100.0

"""Files that were handed over, read where they lie: never staged, and gone on with if they are the same."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from imsd.chunks.disk_digest import digest_blocks
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import FailedPrecondition, ImageRefused, InvalidRequest, NotFound, Unavailable
from imsd.core import chunked_sink, in_place_sink
from imsd.core.chunked_sink import SealedDisk
from imsd.core.data_bound import BoundedDisk
from imsd.core.file_blocks import FileBlocks, FileRange
from imsd.core.handed_files import HandedFile
from imsd.core.in_place_sink import FileBytes, is_finished, is_in_place
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.upload_progress import UploadProgress
from imsd.core.upload_session import UploadSession
from imsd.core.uploads import NewUpload, Uploads
from imsd.formats.raw import RawBlocks
from imsd.formats.source import BlockSource, FileSource, MemorySource
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import PartKind, PartRecord, UploadRecord
from tests.unit.core import many_chunks
from tests.unit.core.core_world import new_id
from tests.unit.formats.disk_files import MIB, qemu_img

PROJECT = "default"
DISK = random.Random(3).randbytes(7 * MIB) + bytes(4 * MIB) + b"text " * 300_000
DISK += bytes(-len(DISK) % 512)
OTHER = random.Random(4).randbytes(6 * MIB)

FILES = {
    "qcow2": ["-O", "qcow2"],
    "qcow2, zlib": ["-O", "qcow2", "-c"],
    "vmdk, stream": ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    "vhdx": ["-O", "vhdx"],
    "vhd, fixed": ["-O", "vpc", "-o", "subformat=fixed,force_size=on"],
}


def a_file(folder: Path, disk: bytes = DISK, kind: str = "qcow2", name: str = "disk") -> Path:
    raw = folder / f"{name}.raw"
    raw.write_bytes(disk)
    qemu_img("convert", "-f", "raw", *FILES[kind], raw, folder / name)
    return folder / name


async def an_upload(uploads: Uploads, size_bytes: int, expected_sha256: str = "") -> str:
    new = NewUpload(size_bytes=size_bytes, expected_sha256=expected_sha256)
    return (await uploads.create(RequestKey(PROJECT, "", new_id()), new)).id


async def take(runtime: Runtime, session: UploadSession, file: HandedFile, most_steps: int) -> None:
    """What a call that names a handed file does, broken off after ``most_steps``."""
    async for step in file.steps(session.committed_offset, runtime.pool, MIB):
        if most_steps == 0:
            return
        most_steps -= 1
        if isinstance(step, FileRange):
            await session.copy(step)
        elif isinstance(step, int):
            await session.write_zeros(step)
        else:
            await session.write(step)
    await session.flush()


async def hand_over(
    runtime: Runtime, uploads: Uploads, upload: str, path: Path, most_steps: int = -1
) -> None:
    offset = (await uploads.get(PROJECT, upload)).committed_offset
    with HandedFile.examine(os.open(path, os.O_RDONLY)) as file:
        async with uploads.writing(PROJECT, upload, offset) as session:
            await take(runtime, session, file, most_steps)


async def parts_of(runtime: Runtime, upload: str) -> list[PartRecord]:
    async with runtime.database.reading() as c:
        return await upload_rows.upload_parts(c, upload)


async def commit(uploads: Uploads, upload: str, path: Path) -> UploadRecord:
    return await uploads.commit(PROJECT, upload, path.stat().st_size, "")  # noqa: ASYNC240


def digest_of_disk(disk: bytes) -> str:
    return digest_blocks(RawBlocks(MemorySource(disk)))


@pytest.mark.parametrize("kind", FILES)
async def test_a_file_of_any_format_is_stored_without_being_staged(
    runtime: Runtime, uploads: Uploads, tmp_path: Path, kind: str
) -> None:
    path = a_file(tmp_path, kind=kind)
    upload = await an_upload(uploads, path.stat().st_size)
    await hand_over(runtime, uploads, upload, path)
    assert {part.kind for part in await parts_of(runtime, upload)} == {PartKind.SEGMENT}
    sealed = await commit(uploads, upload, path)
    assert SealedDisk.from_bytes(sealed.tree_state).result.digest == digest_of_disk(DISK)
    hasher = TreeHasher()
    hasher.update(path.read_bytes())
    assert sealed.digest == hasher.digest()


async def test_the_same_file_is_gone_on_with(runtime: Runtime, uploads: Uploads, tmp_path: Path) -> None:
    path = a_file(tmp_path)
    upload = await an_upload(uploads, path.stat().st_size)
    await hand_over(runtime, uploads, upload, path, most_steps=20)
    broken = await uploads.get(PROJECT, upload)
    first_parts = await parts_of(runtime, upload)
    assert is_in_place(broken.tree_state)
    assert broken.committed_offset == 0
    assert first_parts
    await hand_over(runtime, uploads, upload, path)
    assert (await parts_of(runtime, upload))[: len(first_parts)] == first_parts
    sealed = await commit(uploads, upload, path)
    assert SealedDisk.from_bytes(sealed.tree_state).result.digest == digest_of_disk(DISK)


async def test_another_file_is_begun_anew(runtime: Runtime, uploads: Uploads, tmp_path: Path) -> None:
    path, other = a_file(tmp_path), a_file(tmp_path, OTHER, name="other")
    upload = await an_upload(uploads, 0)
    await hand_over(runtime, uploads, upload, path, most_steps=20)
    first_parts = await parts_of(runtime, upload)
    await hand_over(runtime, uploads, upload, other)
    assert not {part.number for part in first_parts} & {
        part.number for part in await parts_of(runtime, upload)
    }
    sealed = await commit(uploads, upload, other)
    assert SealedDisk.from_bytes(sealed.tree_state).result.digest == digest_of_disk(OTHER)


async def test_a_file_that_is_sent_after_all_is_staged(
    runtime: Runtime, uploads: Uploads, tmp_path: Path
) -> None:
    path = a_file(tmp_path)
    content = path.read_bytes()
    upload = await an_upload(uploads, len(content))
    await hand_over(runtime, uploads, upload, path, most_steps=20)
    async with uploads.writing(PROJECT, upload, 0) as session:
        for start in range(0, len(content), MIB):
            await session.write(content[start : start + MIB])
        await session.flush()
        assert session.committed_offset == len(content)
    kinds = {part.kind for part in await parts_of(runtime, upload)}
    assert PartKind.DATA in kinds
    assert PartKind.SEGMENT not in kinds
    assert (await commit(uploads, upload, path)).is_direct is False


async def test_a_file_that_is_changed_meanwhile_is_not_believed(
    runtime: Runtime, uploads: Uploads, tmp_path: Path
) -> None:
    path = a_file(tmp_path)
    upload = await an_upload(uploads, path.stat().st_size)
    await hand_over(runtime, uploads, upload, path, most_steps=20)
    with path.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"changed")
    os.utime(path, ns=(1, 1))
    await hand_over(runtime, uploads, upload, path)
    sealed = await commit(uploads, upload, path)
    assert SealedDisk.from_bytes(sealed.tree_state).result.digest != digest_of_disk(DISK)


async def test_a_file_that_is_changed_while_it_is_read_is_refused(
    runtime: Runtime, uploads: Uploads, tmp_path: Path
) -> None:
    path = a_file(tmp_path)
    upload = await an_upload(uploads, path.stat().st_size)
    with HandedFile.examine(os.open(path, os.O_RDONLY)) as file:
        async with uploads.writing(PROJECT, upload, 0) as session:
            await take(runtime, session, file, 5)
            os.utime(path, ns=(1, 1))
            with pytest.raises(FailedPrecondition):
                await take(runtime, session, file, -1)


async def test_a_hostile_file_is_refused_and_gone(runtime: Runtime, uploads: Uploads, tmp_path: Path) -> None:
    path = tmp_path / "hostile"
    qemu_img("create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", path, "1M")
    with path.open("ab") as file:
        file.write(bytes(1 << 20))
    upload = await an_upload(uploads, path.stat().st_size)
    with pytest.raises(ImageRefused) as refused:
        await hand_over(runtime, uploads, upload, path)
    assert refused.value.reason == "IMAGE_BACKING_FILE"
    await runtime.background.settle()
    with pytest.raises(NotFound):
        await uploads.get(PROJECT, upload)


async def test_a_file_whose_sha256_is_to_be_checked_is_staged(
    runtime: Runtime, uploads: Uploads, tmp_path: Path
) -> None:
    path = a_file(tmp_path)
    upload = await an_upload(uploads, path.stat().st_size, expected_sha256="0" * 64)
    await hand_over(runtime, uploads, upload, path)
    assert {part.kind for part in await parts_of(runtime, upload)} <= {PartKind.DATA, PartKind.ZERO}


async def test_a_small_file_of_many_chunks_is_told_of_in_small_segments(
    runtime: Runtime, uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_sink, "MAX_UNTOLD_CHUNKS", many_chunks.LIMIT)
    path = tmp_path / "disk.vdi"
    path.write_bytes(many_chunks.a_vdi())
    upload = await an_upload(uploads, 0)
    await hand_over(runtime, uploads, upload, path)
    sealed = await commit(uploads, upload, path)
    told = await many_chunks.chunks_told(runtime, upload)
    assert sum(told) == many_chunks.CHUNKS
    assert max(told) <= many_chunks.LIMIT + many_chunks.UNDER_WAY
    digest = digest_of_disk(many_chunks.DISK)
    assert SealedDisk.from_bytes(sealed.tree_state).result.digest == digest


async def test_what_is_planned_again_after_a_checkpoint_counts_once_as_data(
    runtime: Runtime, uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded: list[BoundedDisk] = []

    def bound(blocks: BlockSource, file_bytes: int) -> BoundedDisk:
        bounded.append(BoundedDisk(blocks, file_bytes))
        return bounded[-1]

    monkeypatch.setattr(chunked_sink, "MAX_UNTOLD_CHUNKS", many_chunks.LIMIT)
    monkeypatch.setattr(in_place_sink, "BoundedDisk", bound)
    path = tmp_path / "disk.vdi"
    path.write_bytes(many_chunks.a_vdi())
    await hand_over(runtime, uploads, await an_upload(uploads, 0), path)
    assert [each.data_bytes for each in bounded] == [len(many_chunks.DISK)]


async def test_a_file_whose_end_cannot_be_recorded_takes_no_quota(
    runtime: Runtime, uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = UploadProgress.advance

    async def broken(self: UploadProgress, **values: Any) -> None:
        if is_finished(values["tree_state"]):
            raise Unavailable("the database is away")
        await advance(self, **values)

    monkeypatch.setattr(UploadProgress, "advance", broken)
    path = a_file(tmp_path)
    upload = await an_upload(uploads, path.stat().st_size)
    with pytest.raises(Unavailable):
        await hand_over(runtime, uploads, upload, path)
    stored = sum(part.stored_bytes for part in await parts_of(runtime, upload))
    assert (await uploads.get(PROJECT, upload)).staged_bytes == stored


def test_the_holes_of_a_file_are_no_data(tmp_path: Path) -> None:
    path, end = tmp_path / "disk", 4 << 30
    with path.open("wb") as file:
        for at in (MIB, 1 << 30, end - 4096):
            file.seek(at)
            file.write(b"x" * 4096)
        file.write(b"more")
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        found = list(FileBytes(FileBlocks(file.fileno(), status)).data_ranges())
        assert found == list(FileSource(file.fileno()).data_ranges())
        assert sum(each.length for each in found) < MIB


def test_a_file_that_changed_while_its_holes_were_looked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 4096)
    os.truncate(path, MIB)
    with path.open("rb") as file:
        ranges = FileBytes(FileBlocks(file.fileno(), os.fstat(file.fileno()))).data_ranges()
        assert next(ranges).offset == 0
        os.utime(path, ns=(1, 1))
        with pytest.raises(FailedPrecondition):
            list(ranges)


@pytest.mark.parametrize("more", ["bytes", "zeros", "a file"])
async def test_nothing_follows_a_file_that_was_read_to_its_end(
    runtime: Runtime, uploads: Uploads, tmp_path: Path, more: str
) -> None:
    path = a_file(tmp_path)
    upload = await an_upload(uploads, 0)
    await hand_over(runtime, uploads, upload, path)
    grown = tmp_path / "grown"
    grown.write_bytes(path.read_bytes() + b"more" * 4096)

    async def go_on() -> None:
        if more == "a file":
            await hand_over(runtime, uploads, upload, grown)
        async with uploads.writing(PROJECT, upload, path.stat().st_size) as session:
            await (session.write(b"more") if more == "bytes" else session.write_zeros(4))

    with pytest.raises(InvalidRequest) as refused:
        await go_on()
    assert refused.value.reason == "UPLOAD_TOO_LONG"
    assert (await commit(uploads, upload, path)).size_bytes == path.stat().st_size

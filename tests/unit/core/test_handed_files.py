"""Files that are handed over: which are taken, for how long, and that none of their bytes is missed."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import FailedPrecondition, InvalidRequest, LimitExceeded, NotFound
from imsd.core import handed_files
from imsd.core.file_blocks import BLOCK_BYTES, FileRange
from imsd.core.handed_files import MAX_WAITING, RANGE_BYTES, HandedFile, HandedFiles

KIB, MIB = 1 << 10, 1 << 20
TOKEN = bytes(range(32))


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(2)
    yield pool
    pool.close()


@pytest.fixture
async def files() -> AsyncIterator[HandedFiles]:
    files = HandedFiles()
    yield files
    files.close()


def opened(path: Path, flags: int = os.O_RDONLY) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


def a_file(folder: Path, content: bytes = b"x" * 5000) -> Path:
    path = folder / "disk"
    path.write_bytes(content)
    return path


def handed(path: Path) -> HandedFile:
    return HandedFile.examine(opened(path))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_a_file_is_taken_once_under_its_token(files: HandedFiles, tmp_path: Path) -> None:
    fd = opened(a_file(tmp_path))
    files.put(TOKEN, HandedFile.examine(fd))
    with pytest.raises(NotFound) as unknown:
        files.take(bytes(32))
    assert unknown.value.reason == "FILE_TOKEN_UNKNOWN"
    with files.take(TOKEN):
        assert is_open(fd)
        with pytest.raises(NotFound):
            files.take(TOKEN)
    assert not is_open(fd)


async def test_what_nobody_takes_is_closed(
    files: HandedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handed_files, "WAITING_SECONDS", 0.02)
    fd = opened(a_file(tmp_path))
    files.put(TOKEN, HandedFile.examine(fd))
    await asyncio.sleep(0.2)
    assert not is_open(fd)
    with pytest.raises(NotFound):
        files.take(TOKEN)


async def test_what_waits_is_closed_with_the_daemon(tmp_path: Path) -> None:
    files, fd = HandedFiles(), opened(a_file(tmp_path))
    files.put(TOKEN, HandedFile.examine(fd))
    files.close()
    assert not is_open(fd)


async def test_a_token_that_is_used_or_malformed_is_refused(files: HandedFiles, tmp_path: Path) -> None:
    path = a_file(tmp_path)
    files.put(TOKEN, handed(path))
    for token in (TOKEN, b"", TOKEN[:31], TOKEN + b"x"):
        fd = opened(path)
        with pytest.raises(InvalidRequest):
            files.put(token, HandedFile.examine(fd))
        assert not is_open(fd)


async def test_only_so_many_files_wait(files: HandedFiles, tmp_path: Path) -> None:
    path = a_file(tmp_path)
    for number in range(MAX_WAITING):
        files.put(number.to_bytes(32, "big"), handed(path))
    fd = opened(path)
    with pytest.raises(LimitExceeded):
        files.put(TOKEN, HandedFile.examine(fd))
    assert not is_open(fd)


def test_what_is_no_readable_regular_file_is_refused(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    path = a_file(tmp_path)
    strange = [
        read_end,
        write_end,
        opened(tmp_path, os.O_DIRECTORY),
        opened(path, os.O_WRONLY),
        opened(path, os.O_PATH),
        opened(Path("/dev/zero")),
        opened(Path("/proc/self/status")),  # regular, and yet made as it is read
    ]
    for fd in strange:
        with pytest.raises(InvalidRequest) as refused:
            HandedFile.examine(fd)
        assert refused.value.message
        assert not is_open(fd)


def sparse_file(folder: Path, seed: int) -> Path:
    """Up to 40 MiB of data, zeros and holes, of which few begin or end where a block does."""
    chance = random.Random(seed)
    path = folder / f"sparse-{seed}"
    with path.open("wb") as file:
        for _ in range(chance.randrange(12)):
            kind = chance.choice(["data", "data", "zeros", "hole", "hole"])
            length = chance.choice([1, 511, 4096, 70 * KIB, MIB, 3 * MIB + 5, 9 * MIB])
            if kind == "hole":
                file.seek(length, os.SEEK_CUR)
            else:
                file.write(bytes(length) if kind == "zeros" else chance.randbytes(length))
        file.truncate(file.tell())
    return path


PART_BYTES = 4 * RANGE_BYTES


async def read_back(file: HandedFile, offset: int, pool: DecodePool, part_bytes: int) -> bytes:
    content = bytearray()
    async for step in file.steps(offset, pool, part_bytes):
        if isinstance(step, int):
            content += bytes(step)
        elif isinstance(step, FileRange):
            assert step.start == offset + len(content)
            assert step.start % BLOCK_BYTES == step.end % BLOCK_BYTES == 0
            assert 0 <= step.data_bytes <= step.end - step.start <= part_bytes // 4
            piece = bytearray(step.end - step.start)
            step.blocks.read_into(step.start, memoryview(piece))
            for extent in step.blocks.extents(step.start, len(piece)):
                assert not extent.is_zero or not any(
                    piece[extent.start - step.start : extent.end - step.start]
                )
            content += piece
        else:
            content += step
    return bytes(content)


@pytest.mark.parametrize("seed", range(12))
async def test_the_steps_are_the_file(seed: int, tmp_path: Path, pool: DecodePool) -> None:
    path = sparse_file(tmp_path, seed)
    content = path.read_bytes()
    chance = random.Random(seed)
    for offset in {0, len(content), *(chance.randrange(len(content) + 1) for _ in range(3))}:
        for part_bytes in (MIB, PART_BYTES):
            with handed(path) as file:
                assert await read_back(file, offset, pool, part_bytes) == content[offset:]


async def test_a_large_hole_is_one_step(tmp_path: Path, pool: DecodePool) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with handed(path) as file:
        assert [step async for step in file.steps(0, pool, PART_BYTES)] == [1 << 40]


@pytest.mark.parametrize("change", ["shorter", "longer", "written to"])
async def test_a_file_that_is_changed_meanwhile_is_refused(
    change: str, tmp_path: Path, pool: DecodePool
) -> None:
    """A part that is cut off would read as a hole."""
    path = a_file(tmp_path, b"x" * (40 * MIB))
    with handed(path) as file:
        steps = file.steps(0, pool, PART_BYTES)
        first = await anext(steps)
        assert isinstance(first, FileRange)
        if change == "written to":
            with path.open("r+b") as writer:
                writer.write(b"y")
        else:
            os.truncate(path, MIB if change == "shorter" else 50 * MIB)
        with pytest.raises(FailedPrecondition, match="changed"):
            first.blocks.read_into(first.start, memoryview(bytearray(2 * MIB)))
        if change == "shorter":
            assert first.blocks.extents(first.start, 16 * MIB)
        with pytest.raises(FailedPrecondition, match="changed"):
            await anext(steps)


async def test_files_in_memory_are_taken_too(files: HandedFiles) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(b"x" * 100)
        file.flush()
        files.put(TOKEN, HandedFile.examine(os.dup(file.fileno())))
        with files.take(TOKEN) as taken:
            assert taken.status.st_size == 100

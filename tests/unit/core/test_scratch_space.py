"""How much of a file lies in the store as it came: what imsd/formats/README.md says, measured."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from imsd.chunks.staged_source import staging_prefix
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.uploads import NewUpload, Uploads
from imsd.formats.raw import RawBlocks
from imsd.formats.registry import READERS, open_writer
from imsd.formats.source import MemorySource
from tests.contract.source_tree import ROOT
from tests.unit.core.core_world import STORE, new_id
from tests.unit.formats.crafted_iso import disc
from tests.unit.formats.crafted_vhd import fixed
from tests.unit.formats.disk_files import MIB, qemu_img, write_file

PROJECT = "default"
DISK = random.Random(1).randbytes(9 * MIB) + bytes(3 * MIB) + random.Random(2).randbytes(MIB // 2)

# What lists of chunks take at most.
LISTS_BYTES = len(DISK) // 1000

Make = Callable[[Path], bytes]


def written(name: str) -> Make:
    return lambda folder: write_file(
        open_writer(name, RawBlocks(MemorySource(DISK))), folder / "disk"
    ).read_bytes()


def by_qemu(*options: str) -> Make:
    def make(folder: Path) -> bytes:
        raw, path = folder / "disk.raw", folder / "disk"
        raw.write_bytes(DISK)
        qemu_img("convert", "-f", "raw", *options, raw, path)
        return path.read_bytes()

    return make


# By the rows of the table in the documentation.
FILES: Mapping[str, Make] = {
    "raw": lambda folder: DISK,
    "iso": lambda folder: (start := disc(bootable=True)) + DISK[len(start) :],
    "qcow2": written("qcow2"),
    "qcow": by_qemu("-O", "qcow"),
    "qed": by_qemu("-O", "qed"),
    "vdi": written("vdi"),
    "vhd, fixed": lambda folder: fixed(DISK),
    "vhd, dynamic": written("vhd"),
    "vhdx": written("vhdx"),
    "vmdk, monolithicSparse": by_qemu("-O", "vmdk"),
    "vmdk, streamOptimized": written("vmdk"),
    "zvhd": written("zvhd"),
    "zvhd2": written("zvhd2"),
}


def documented() -> dict[str, str]:
    """Scratch space by the rows of the table: ``0`` or ``the file``."""
    page = (ROOT / "imsd" / "formats" / "README.md").read_text()
    section = page.split("## Scratch space", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^\| ([a-z][^|]*?) \| (0|the file) \|", section, re.MULTILINE))


async def an_upload(uploads: Uploads, size: int, disk_format: str) -> str:
    new = NewUpload(size_bytes=size, disk_format=disk_format)
    return (await uploads.create(RequestKey(PROJECT, "", new_id()), new)).id


async def staged_bytes(runtime: Runtime, upload: str) -> int:
    """What the store holds for an upload and not for images: parts of the file, or lists of stored chunks."""
    return sum([blob.size_bytes async for blob in runtime.stores.get(STORE).list(staging_prefix(upload))])


async def peak(runtime: Runtime, uploads: Uploads, upload: str, file: bytes) -> int:
    """The most that is staged while a file comes over the wire, and when it is committed."""
    most = 0
    async with uploads.writing(PROJECT, upload, 0) as session:
        for start in range(0, len(file), MIB // 2):
            await session.write(file[start : start + MIB // 2])
            most = max(most, await staged_bytes(runtime, upload))
        await session.flush()
    await uploads.commit(PROJECT, upload, len(file), "")
    return max(most, await staged_bytes(runtime, upload))


def test_the_documentation_says_it_for_every_format() -> None:
    assert set(documented()) == set(FILES)
    assert {row.split(",")[0] for row in FILES} == set(READERS)


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("row", FILES)
async def test_a_file_is_staged_or_is_not(
    runtime: Runtime, uploads: Uploads, row: str, is_declared: bool, tmp_path: Path
) -> None:
    file = FILES[row](tmp_path)
    upload = await an_upload(uploads, len(file), row.split(",")[0] if is_declared else "")
    most = await peak(runtime, uploads, upload, file)
    if documented()[row] == "0":
        assert most < LISTS_BYTES
    else:
        assert 9 * MIB < most <= len(file)  # zeros take no room

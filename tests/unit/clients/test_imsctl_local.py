"""`imsctl image convert` and `image inspect` of local files: no daemon has a part in them."""

from __future__ import annotations

import asyncio
import gzip
import lzma
import os
import signal
import tempfile
from pathlib import Path

import pytest
from ims_client import LocalFileFailed
from imsctl.local_image import open_local_image
from imsctl.target import SMALLER, WRITTEN

from imsd.formats.registry import writable_compressions
from tests.unit.clients.conftest import Imsctl
from tests.unit.formats.disk_files import KIB, MIB, qemu_img, text

ALONE = ("--address", "unix:/nowhere/at/all")


@pytest.fixture
def raw(tmp_path: Path) -> bytes:
    """What is in the file disk.raw."""
    content = text(700 * KIB) + bytes(5 * MIB) + text(300 * KIB, 2)
    (tmp_path / "disk.raw").write_bytes(content)
    return content


def is_same(one: Path, other: Path) -> bool:
    return "identical" in qemu_img("compare", one, other)


async def test_a_file_becomes_another_format_by_its_suffix_and_back(
    imsctl: Imsctl, raw: bytes, tmp_path: Path
) -> None:
    there = await imsctl("image", "convert", "disk.raw", "disk.qcow2", *ALONE)
    assert there.code == 0, there.errors
    assert there.text.startswith("disk.qcow2: disk.raw (raw) as qcow2, ")
    assert is_same(tmp_path / "disk.raw", tmp_path / "disk.qcow2")
    back = await imsctl("image", "convert", "disk.qcow2", "again.img", "--output", "json", *ALONE)
    assert back.json == {
        "source": "disk.qcow2",
        "source_format": "qcow2",
        "virtual_size": 6 * MIB - 24 * KIB,
        "findings": [],
        "file": "again.img",
        "disk_format": "raw",
        "file_size": 6 * MIB - 24 * KIB,
    }
    assert (tmp_path / "again.img").read_bytes() == raw
    assert (tmp_path / "again.img").stat().st_blocks * 512 < 2 * MIB


@pytest.mark.parametrize("compression", ["zlib", "zlib-small"])
async def test_a_file_whose_length_is_known_at_its_end_is_made(
    imsctl: Imsctl, raw: bytes, tmp_path: Path, compression: str
) -> None:
    made = await imsctl(
        "image", "convert", "disk.raw", "disk.vmdk", "--compress", compression, "--output", "json", *ALONE
    )
    assert made.json["file_size"] == (tmp_path / "disk.vmdk").stat().st_size
    assert is_same(tmp_path / "disk.raw", tmp_path / "disk.vmdk")


@pytest.mark.parametrize("name", ["disk.qcow2", "disk.vmdk"])
async def test_smaller_is_the_smaller_compression_of_a_format(
    imsctl: Imsctl, raw: bytes, tmp_path: Path, name: str
) -> None:
    smaller = await imsctl("image", "convert", "disk.raw", name, "--smaller", "--output", "json", *ALONE)
    assert is_same(tmp_path / "disk.raw", tmp_path / name)
    default = await imsctl(
        "image", "convert", "disk.raw", name, "--compress", "zlib", "--force", "--output", "json", *ALONE
    )
    assert smaller.json["file_size"] <= default.json["file_size"]


def test_what_smaller_asks_for_the_formats_have() -> None:
    assert set(SMALLER) <= set(WRITTEN)
    assert all(name in (writable_compressions(kind) or ()) for kind, name in SMALLER.items())


async def test_a_disk_goes_to_standard_output(imsctl: Imsctl, raw: bytes) -> None:
    outcome = await imsctl("image", "convert", "disk.raw", "-", "--to", "raw")
    assert outcome.code == 0
    assert outcome.output == raw


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
async def test_a_file_that_was_compressed_whole_is_unpacked_first(
    imsctl: Imsctl, raw: bytes, tmp_path: Path, suffix: str, pack: object
) -> None:
    assert callable(pack)
    qemu_img("convert", "-O", "qcow2", tmp_path / "disk.raw", tmp_path / "disk.qcow2")
    (tmp_path / f"disk.{suffix}").write_bytes(pack((tmp_path / "disk.qcow2").read_bytes()))
    outcome = await imsctl("image", "convert", f"disk.{suffix}", "plain.raw")
    assert outcome.code == 0, outcome.errors
    assert (tmp_path / "plain.raw").read_bytes() == raw


def test_it_is_told_when_there_is_no_place_to_unpack(
    raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk.gz").write_bytes(gzip.compress(raw))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(LocalFileFailed) as failed, open_local_image(tmp_path / "disk.gz"):
        pass
    assert "there is no place to unpack the file" in str(failed.value)


async def test_what_is_declared_raw_is_not_unpacked(imsctl: Imsctl, raw: bytes, tmp_path: Path) -> None:
    packed = gzip.compress(raw)
    (tmp_path / "disk.gz").write_bytes(packed)
    outcome = await imsctl("image", "convert", "disk.gz", "-", "--format", "raw", "--to", "raw")
    assert outcome.output == packed + bytes(-len(packed) % 512)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["missing.raw", "out.raw"], 1, "[LOCAL_FILE]"),
        (["disk.raw", "disk.raw"], 1, "use --force to replace it"),
        (["disk.raw", "nowhere/out.raw"], 1, "choose a directory that exists"),
        (["disk.raw", "out.raw", "--compress", "zstd"], 1, "raw has no compression zstd"),
        (["disk.raw", "out.raw", "--smaller"], 2, "raw has no compression that makes it smaller"),
        (["disk.raw", "out.qcow2", "--smaller", "--compress", "zlib"], 2, "leave out --compress zlib"),
        (["disk.raw", "out.raw", "--format", "qcow2"], 1, "[FORMAT_MISMATCH]"),
        (["disk.raw", "out.raw", "--to", "floppy"], 2, "is none of"),
        (["-", "out.raw"], 2, "standard input cannot be read in any order"),
        (["cut.gz", "out.raw"], 1, "[IMAGE_TRUNCATED]"),
        (["twice.gz.xz", "out.raw"], 1, "[FORMAT_UNSUPPORTED]"),
    ],
)
async def test_a_conversion_that_cannot_be_says_why_and_leaves_nothing(
    imsctl: Imsctl, raw: bytes, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(raw)[:-9])
    (tmp_path / "twice.gz.xz").write_bytes(lzma.compress(gzip.compress(raw)))
    before = sorted(os.listdir(tmp_path))
    outcome = await imsctl("image", "convert", *arguments)
    assert outcome.code == code, outcome.errors
    assert told in outcome.errors
    assert "--debug" not in outcome.errors
    assert sorted(os.listdir(tmp_path)) == before


async def test_a_conversion_that_is_broken_off_leaves_nothing(imsctl: Imsctl, tmp_path: Path) -> None:
    with (tmp_path / "large.raw").open("wb") as large:
        large.write(os.urandom(MIB) * 64)
        large.truncate(8 << 30)
    running = await imsctl.start("image", "convert", "large.raw", "large.qcow2", "--compress", "zlib")
    while not any(name.startswith("large.qcow2.part") for name in os.listdir(tmp_path)):
        assert running.returncode is None
        await asyncio.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, errors = await running.communicate()
    assert running.returncode == 130
    assert b"interrupted: nothing of OUT is kept" in errors
    assert os.listdir(tmp_path) == ["large.raw"]


async def test_an_inspection_says_what_a_file_is(imsctl: Imsctl, raw: bytes, tmp_path: Path) -> None:
    qemu_img("convert", "-O", "qcow2", tmp_path / "disk.raw", tmp_path / "disk.qcow2")
    outcome = await imsctl("image", "inspect", "disk.qcow2", "--output", "json", *ALONE)
    assert outcome.code == 0, outcome.errors
    found = outcome.json
    assert found["disk_format"] == "qcow2"
    assert found["variant"] == "version 3, zlib, clusters of 64 KiB"
    assert found["virtual_size"] == len(raw)
    assert found["file_size"] == (tmp_path / "disk.qcow2").stat().st_size
    assert MIB <= found["allocated_size"] <= 2 * MIB


async def test_an_inspection_for_people_shows_what_was_noticed(
    imsctl: Imsctl, raw: bytes, tmp_path: Path
) -> None:
    (tmp_path / "odd.raw.gz").write_bytes(gzip.compress(raw[:-100]))
    outcome = await imsctl("image", "inspect", "odd.raw.gz")
    assert outcome.code == 0, outcome.errors
    assert "raw in gzip" in outcome.text
    assert "[RAW_SIZE_ROUNDED_UP]" in outcome.text

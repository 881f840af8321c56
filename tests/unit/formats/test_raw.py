"""RAW disks: rounding, holes, and files that are no disks."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.raw import RawReader
from imsd.formats.reader import OpenedImage
from imsd.formats.source import ByteSource, Extent, MemorySource
from tests.packages import tar_of
from tests.unit.formats.disk_files import (
    KIB,
    LIMIT,
    MIB,
    LateSource,
    mixed_pieces,
    read_all,
    read_range,
    sparse_file,
    text,
    with_fetches,
)

ImageOf = Callable[[Path], OpenedImage]


def test_a_disk_reads_back_as_the_file(tmp_path: Path, image_of: ImageOf) -> None:
    path = sparse_file(tmp_path / "disk", 9 * MIB, mixed_pieces(9 * MIB))
    opened = image_of(path)
    assert opened.format_name == "raw"
    assert not opened.findings
    assert read_all(opened.blocks) == path.read_bytes()


def test_a_size_inside_a_sector_is_rounded_up_with_zeros() -> None:
    opened = RawReader().open(MemorySource(b"x" * 1000), LIMIT)
    assert opened.blocks.size_bytes == 1024
    assert read_range(opened.blocks, 0, 1024) == b"x" * 1000 + bytes(24)
    assert read_range(opened.blocks, 1001, 23) == bytes(23)
    assert [finding.code for finding in opened.findings] == ["RAW_SIZE_ROUNDED_UP"]


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(ImageRefused) as refused:
        RawReader().open(MemorySource(b""), LIMIT)
    assert refused.value.reason == "IMAGE_EMPTY"


def test_a_disk_above_the_limit_is_refused(tmp_path: Path, source_of: Callable[[Path], ByteSource]) -> None:
    path = sparse_file(tmp_path / "disk", 10 * MIB, [])
    with pytest.raises(ImageRefused) as refused:
        RawReader().open(source_of(path), 10 * MIB - 1)
    assert refused.value.reason == "IMAGE_TOO_LARGE"


def test_holes_of_a_file_are_zero_extents(tmp_path: Path, image_of: ImageOf) -> None:
    path = sparse_file(tmp_path / "disk", 4 * MIB, [(MIB, text(64 * KIB)), (3 * MIB, text(4 * KIB))])
    blocks = image_of(path).blocks
    assert blocks.extents(0, 4 * MIB) == [
        Extent(0, MIB, True),
        Extent(MIB, 64 * KIB, False),
        Extent(MIB + 64 * KIB, 2 * MIB - 64 * KIB, True),
        Extent(3 * MIB, 4 * KIB, False),
        Extent(3 * MIB + 4 * KIB, MIB - 4 * KIB, True),
    ]
    assert blocks.extents(MIB + 512, 1024) == [Extent(MIB + 512, 1024, False)]
    assert blocks.extents(2 * MIB, 512) == [Extent(2 * MIB, 512, True)]


def test_short_holes_are_read_as_data(tmp_path: Path, image_of: ImageOf) -> None:
    pieces = [(start, text(4 * KIB)) for start in range(0, MIB, 32 * KIB)]
    blocks = image_of(sparse_file(tmp_path / "disk", MIB, pieces)).blocks
    assert len(blocks.extents(0, MIB)) <= 2


def test_a_file_that_looks_packed_is_taken_as_it_is_with_a_finding() -> None:
    opened = RawReader().open(MemorySource(b"\x1f\x8b\x08" + bytes(509)), LIMIT)
    assert [finding.code for finding in opened.findings] == ["RAW_LOOKS_COMPRESSED"]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("declared", [None, "raw"])
def test_an_archive_is_taken_as_it_is_with_a_finding(tar_format: int, declared: str | None) -> None:
    file = tar_of([("disk.raw", b"x" * 600), ("readme", b"")], tar_format)
    opened = open_image(MemorySource(file), declared, LIMIT)
    assert opened.format_name == "raw"
    assert [finding.code for finding in opened.findings] == ["RAW_LOOKS_FOREIGN"]
    assert "tar" in opened.findings[0].message


@pytest.mark.parametrize("start", [b"WithoutFreeSpace", b"WithouFreSpacExt"])
@pytest.mark.parametrize("declared", [None, "raw"])
def test_a_disk_of_parallels_is_taken_as_it_is_with_a_finding(start: bytes, declared: str | None) -> None:
    opened = open_image(MemorySource(start + bytes(4080)), declared, LIMIT)
    assert opened.format_name == "raw"
    assert [finding.code for finding in opened.findings] == ["RAW_LOOKS_FOREIGN"]
    assert "Parallels" in opened.findings[0].message


@pytest.mark.parametrize("declared", [None, "raw"])
def test_a_disk_that_only_has_a_word_of_tar_has_no_finding(declared: str | None) -> None:
    boot_sector = bytearray(text(4096))
    boot_sector[257:263] = b"ustar\0"
    opened = open_image(MemorySource(bytes(boot_sector)), declared, LIMIT)
    assert opened.format_name == "raw"
    assert not opened.findings


def test_bytes_that_are_elsewhere_are_asked_for_once() -> None:
    content = text(3 * MIB)
    source = LateSource(content)
    opened, rounds = with_fetches(source, lambda: RawReader().open(source, LIMIT))
    assert rounds == 1
    got, rounds = with_fetches(source, lambda: read_range(opened.blocks, 5, 2 * MIB))
    assert got == content[5 : 5 + 2 * MIB]
    assert rounds == 1


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, image_of: ImageOf) -> None:
    path = sparse_file(tmp_path / "disk", MIB, [(0, text(MIB))])
    blocks = image_of(path).blocks
    with path.open("r+b") as file:
        file.truncate(MIB // 2)
    with pytest.raises(ImageRefused) as refused:
        read_range(blocks, 0, MIB)
    assert refused.value.reason == "IMAGE_TRUNCATED"

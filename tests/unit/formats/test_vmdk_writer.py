"""VMDK files written: QEMU finds no fault in them and sees the same disk, and so do we, both ways."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.contract import InvalidRequest
from imsd.formats.output import held_bytes
from imsd.formats.reader import OpenedImage
from imsd.formats.registry import open_writer, writable_compressions
from imsd.formats.vmdk_decoder import VmdkDecoder
from imsd.formats.vmdk_layout import GRAIN_MARKER, MAX_SECTOR
from imsd.formats.vmdk_writer import COMPRESSIONS, VmdkWriter
from tests.unit.formats.disk_files import (
    GIB,
    KIB,
    MIB,
    CutDisk,
    bytes_of,
    digest,
    mixed_pieces,
    noise,
    qemu_img,
    read_all,
    sparse_file,
    text,
    write_file,
)
from tests.unit.formats.stream_feeding import decoded, fed
from tests.unit.formats.writer_checks import SHAPES, disk_of, rendered_in_parallel

ImageOf = Callable[[Path], OpenedImage]

GRAIN = 64 * KIB
SIZES = [512, 64 * KIB, 5 * MIB + 1536, 70 * MIB + 512]


def check_with_qemu(path: Path, raw: Path) -> None:
    """QEMU finds no errors, and the disk of ``raw``."""
    assert "No errors were found" in qemu_img("check", "-f", "vmdk", path)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, path)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_written_disk_is_the_disk(compression: str, size: int, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))
    path = write_file(VmdkWriter(image_of(raw).blocks, compression), tmp_path / "disk.vmdk")
    check_with_qemu(path, raw)
    content = raw.read_bytes()
    assert read_all(image_of(path).blocks) == content
    assert decoded(VmdkDecoder, path.read_bytes(), random.Random(size), 0.3)[0] == content


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=SHAPES,
    compression=st.sampled_from(COMPRESSIONS),
)
def test_a_disk_of_any_shape_is_written(
    shape: list[tuple[int, int]], compression: str, tmp_path: Path, image_of: ImageOf
) -> None:
    disk = disk_of(shape)
    raw = sparse_file(tmp_path / "disk.raw", disk.size_bytes, [(0, disk.content)])
    path = write_file(VmdkWriter(disk, compression), tmp_path / "disk.vmdk")
    check_with_qemu(path, raw)
    assert read_all(image_of(path).blocks) == disk.content
    assert decoded(VmdkDecoder, path.read_bytes())[0] == disk.content


def test_a_disk_of_many_tables_is_written(tmp_path: Path, image_of: ImageOf) -> None:
    places = [0, 600 * MIB, 3 * GIB + 77 * 512, 5 * GIB - 512]
    raw = sparse_file(tmp_path / "disk.raw", 5 * GIB, [(at, text(512, at)) for at in places])
    path = write_file(VmdkWriter(image_of(raw).blocks), tmp_path / "disk.vmdk")
    check_with_qemu(path, raw)
    assert path.stat().st_size < 100 * KIB
    blocks = image_of(path).blocks
    data = [extent.start for extent in blocks.extents(0, 5 * GIB) if not extent.is_zero]
    assert data == [at // GRAIN * GRAIN for at in places]


def test_a_disk_without_a_byte_of_data_is_written(tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", GIB, [])
    path = write_file(VmdkWriter(image_of(raw).blocks), tmp_path / "disk.vmdk")
    check_with_qemu(path, raw)
    assert fed(VmdkDecoder, path.read_bytes())[1].zeros_at_end == GIB


def test_zeros_that_the_source_does_not_know_of_are_not_stored(tmp_path: Path) -> None:
    disk = CutDisk(8 * MIB, [(0, bytes(8 * MIB))])
    path = write_file(VmdkWriter(disk), tmp_path / "disk.vmdk")
    assert path.stat().st_size == (128 + 1 + 1 + 3) * 512


def test_pieces_may_be_rendered_in_any_order_and_in_parallel(tmp_path: Path) -> None:
    disk = CutDisk(40 * MIB, mixed_pieces(40 * MIB, seed=5))
    expected = write_file(VmdkWriter(disk, "zlib-small", 1), tmp_path / "expected")
    writer = VmdkWriter(disk, "zlib-small", 1)
    placed = [writer.in_turn(outputs) for outputs in rendered_in_parallel(writer)]
    content = bytes_of(output for outputs in [*placed, writer.closing()] for output in outputs)
    assert content == expected.read_bytes()
    assert len(content) == writer.file_size_bytes()


def test_pieces_are_about_4_mib_at_most() -> None:
    disk = CutDisk(40 * MIB, [(0, noise(40 * MIB))])
    writer = VmdkWriter(disk)
    for task in writer.measure():
        task()
    sizes = [held_bytes(piece()) for piece in writer.pieces()]
    assert len(sizes) == 10
    assert max(sizes) <= 4 * MIB + 64 * KIB


def test_the_small_compression_gives_the_same_file_and_a_smaller_one(tmp_path: Path) -> None:
    disk = CutDisk(8 * MIB, [(0, text(8 * MIB))])
    first = write_file(VmdkWriter(disk, "zlib-small", 7), tmp_path / "first")
    second = write_file(VmdkWriter(disk, "zlib-small", 7), tmp_path / "second")
    fast = write_file(VmdkWriter(disk, "zlib", 7), tmp_path / "fast")
    assert digest(first) == digest(second)
    assert first.stat().st_size < fast.stat().st_size


def test_what_a_hypervisor_reads_of_the_disk(tmp_path: Path) -> None:
    path = write_file(VmdkWriter(CutDisk(20 * MIB, []), content_id=0x1234ABCD), tmp_path / "disk.vmdk")
    head = path.read_bytes()[: 64 * KIB]
    assert struct.unpack_from("<4sII", head) == (b"KDMV", 3, 0x30001)
    lines = head[512 : 21 * 512].rstrip(b"\0").decode().splitlines()
    for line in (
        "CID=1234abcd",
        "parentCID=ffffffff",
        'createType="streamOptimized"',
        'RW 40960 SPARSE "disk.vmdk"',
        'ddb.virtualHWVersion = "4"',
        'ddb.adapterType = "lsilogic"',
        'ddb.geometry.cylinders = "3"',
        'ddb.toolsVersion = "2147483647"',
    ):
        assert line in lines


def test_files_are_told_apart_by_their_content_id(tmp_path: Path) -> None:
    disk = CutDisk(MIB, [])
    paths = [write_file(VmdkWriter(disk), tmp_path / f"{number}.vmdk") for number in range(2)]
    assert digest(paths[0]) != digest(paths[1])


def test_the_length_is_known_at_the_end() -> None:
    assert not VmdkWriter.is_length_known
    writer = VmdkWriter(CutDisk(MIB, []))
    assert len(bytes_of(writer.closing())) == writer.file_size_bytes()


def test_a_disk_with_more_data_than_a_table_can_point_to_is_refused() -> None:
    writer = VmdkWriter(CutDisk(MIB, []))
    grain = GRAIN_MARKER.pack(0, 500) + bytes(500)
    assert writer.in_turn([grain])
    writer._sector = MAX_SECTOR + 1
    with pytest.raises(InvalidRequest):
        writer.in_turn([grain])


def test_a_compression_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        VmdkWriter(CutDisk(MIB, []), "zstd")


def test_the_writer_is_entered() -> None:
    assert writable_compressions("vmdk") == COMPRESSIONS
    assert isinstance(open_writer("vmdk", CutDisk(MIB, [])), VmdkWriter)

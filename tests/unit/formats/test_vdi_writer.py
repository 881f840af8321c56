"""VDI files written: QEMU sees the same disk, and so do we."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.contract import InvalidRequest
from imsd.formats.output import held_bytes
from imsd.formats.reader import OpenedImage
from imsd.formats.registry import open_writer
from imsd.formats.vdi_writer import VdiWriter
from tests.unit.formats.disk_files import (
    GIB,
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
from tests.unit.formats.writer_checks import EmptyDisk, rendered_in_parallel

ImageOf = Callable[[Path], OpenedImage]

SIZES = [512, MIB, MIB + 512, 5 * MIB + 1536, 70 * MIB]
IDENTITY = UUID("0f0e0d0c-0b0a-4908-8706-050403020100")


def check_with_qemu(path: Path, raw: Path) -> None:
    """QEMU finds neither errors nor leaks, and the disk of ``raw``."""
    assert "No errors were found" in qemu_img("check", "-f", "vdi", path)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "vdi", raw, path)


@pytest.mark.parametrize("size", SIZES)
def test_a_written_disk_is_the_disk(size: int, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))
    path = write_file(open_writer("vdi", image_of(raw).blocks), tmp_path / "disk.vdi")
    check_with_qemu(path, raw)
    opened = image_of(path)
    assert opened.format_name == "vdi"
    assert not opened.findings
    assert read_all(opened.blocks) == raw.read_bytes()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 5000)), max_size=8),
    rest=st.integers(0, 4000),
)
def test_a_disk_of_any_shape_is_written(
    pieces: list[tuple[int, int]], rest: int, tmp_path: Path, image_of: ImageOf
) -> None:
    content = [(sector * 512, text(count * 512, sector)) for sector, count in pieces]
    size = max([512, *(offset + len(data) for offset, data in content)]) + rest * 512
    raw = sparse_file(tmp_path / "disk.raw", size, content)
    path = write_file(VdiWriter(image_of(raw).blocks), tmp_path / "disk.vdi")
    check_with_qemu(path, raw)
    assert read_all(image_of(path).blocks) == raw.read_bytes()


def test_what_is_known_to_be_zero_takes_no_room(tmp_path: Path, image_of: ImageOf) -> None:
    places = [0, 600 * MIB, 3 * GIB + 77 * 512, 5 * GIB - 512]
    raw = sparse_file(tmp_path / "disk.raw", 5 * GIB, [(at, text(512, at)) for at in places])
    path = write_file(VdiWriter(image_of(raw).blocks), tmp_path / "disk.vdi")
    check_with_qemu(path, raw)
    assert path.stat().st_size == (1 + len(places)) * MIB
    is_zero = [extent.is_zero for extent in image_of(path).blocks.extents(0, 5 * GIB)]
    assert is_zero == [False, True, False, True, False, True, False]


def test_a_disk_without_a_byte_of_data_is_written(tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", GIB, [])
    path = write_file(VdiWriter(image_of(raw).blocks), tmp_path / "disk.vdi")
    check_with_qemu(path, raw)
    assert path.stat().st_size == MIB


def test_qemu_reads_the_header_as_it_is_meant(tmp_path: Path) -> None:
    path = write_file(VdiWriter(CutDisk(3 * MIB, [(MIB, noise(MIB))])), tmp_path / "disk.vdi")
    told = json.loads(qemu_img("info", "--output=json", "-f", "vdi", path))
    assert told["virtual-size"] == 3 * MIB
    assert "backing-filename" not in told
    head = path.read_bytes()[:512]
    (kind,), counts = struct.unpack_from("<I", head, 0x4C), struct.unpack_from("<II", head, 0x180)
    assert (kind, counts) == (1, (3, 1))
    assert head[0x1A8:] == bytes(512 - 0x1A8)  # no file below it


def test_every_file_has_a_uuid_of_its_own(tmp_path: Path) -> None:
    disk = CutDisk(MIB, [(0, text(4096))])
    names = ["a", "b", "c", "d"]
    heads = [write_file(VdiWriter(disk), tmp_path / name).read_bytes()[0x188:0x1A8] for name in names]
    uuids = {head[at : at + 16] for head in heads for at in (0, 16)}
    assert len(uuids) == 8
    assert bytes(16) not in uuids


def test_the_same_disk_and_uuid_give_the_same_file(tmp_path: Path) -> None:
    disk = CutDisk(9 * MIB, [(0, text(3 * MIB)), (7 * MIB, noise(4096))])
    first = write_file(VdiWriter(disk, IDENTITY), tmp_path / "first")
    second = write_file(VdiWriter(disk, IDENTITY), tmp_path / "second")
    assert digest(first) == digest(second)
    assert first.read_bytes()[0x188:0x198] == IDENTITY.bytes_le


def test_tasks_and_pieces_may_run_in_any_order_and_in_parallel(tmp_path: Path) -> None:
    pieces = [(at * MIB, noise(512 << 10, at)) for at in (0, 1, 2, 3, 4, 5, 9, 11, 12, 38)]
    disk = CutDisk(40 * MIB, pieces)
    expected = write_file(VdiWriter(disk, IDENTITY), tmp_path / "expected")
    rendered = rendered_in_parallel(VdiWriter(disk, IDENTITY))
    assert bytes_of(output for outputs in rendered for output in outputs) == expected.read_bytes()
    assert all(held_bytes(outputs) <= 4 * MIB for outputs in rendered)


def test_the_largest_disk_is_written_in_pieces_of_about_4_mib() -> None:
    writer = VdiWriter(EmptyDisk(64 << 40))
    for task in writer.measure():
        task()
    sizes = []
    for piece in writer.pieces():
        outputs = piece()
        assert held_bytes(outputs) <= 4 * MIB
        sizes.append(outputs)
    assert len(sizes) == 1 + 64 + 1  # header, map, zeros
    assert writer.file_size_bytes() == 257 * MIB


def test_a_disk_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        VdiWriter(EmptyDisk((64 << 40) + 512))


def test_vdi_has_no_compression() -> None:
    with pytest.raises(InvalidRequest):
        open_writer("vdi", CutDisk(MIB, []), "zlib")

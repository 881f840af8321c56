"""ZVHD and ZVHD2 files written: the same disk, whoever reads them."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.contract import Buffer, DataLoss
from imsd.formats import zvhd_writer
from imsd.formats.output import held_bytes
from imsd.formats.qcow2_plan import ClusterSizes
from imsd.formats.reader import OpenedImage
from imsd.formats.registry import open_writer
from imsd.formats.source import BlockSource, Extent, Frame
from imsd.formats.vhd_layout import geometry
from imsd.formats.zvhd_codec import deflate_piece, stored_piece, stored_piece_bytes
from imsd.formats.zvhd_plan import PayloadSizes, RecordPlan
from tests.unit.formats.crafted_zvhd import BLOCK, PAGE, decoded
from tests.unit.formats.disk_files import (
    COMPRESSOR,
    GIB,
    KIB,
    MIB,
    CutDisk,
    bytes_of,
    digest,
    mixed_pieces,
    noise,
    read_all,
    sparse_file,
    text,
    write_file,
)
from tests.unit.formats.test_zvhd_vectors import content
from tests.unit.formats.writer_checks import SHAPES, disk_of, rendered_in_parallel

ImageOf = Callable[[Path], OpenedImage]

NAMES = ["zvhd", "zvhd2"]
SIZES = [512, 2 * MIB, 5 * MIB + 1536, 24 * MIB, 70 * MIB + 512]


class PlainDisk(BlockSource):
    """A disk whose stored frames are not to be had."""

    def __init__(self, disk: CutDisk) -> None:
        self._disk = disk
        self.size_bytes = disk.size_bytes

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        return self._disk.extents(start, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_into(offset, buffer)


def cut_disk(size: int, seed: int = 0) -> CutDisk:
    """A disk in pieces of 4 KiB to 512 KiB, of all kinds of bytes, with gaps between some."""
    chosen = random.Random(seed)
    pieces = []
    position = 0
    while position < size:
        length = min(chosen.choice([4096, 32 * KIB, 132 * KIB, 512 * KIB, 200 * KIB]), size - position)
        make = chosen.choice([text, text, noise, lambda length, _: bytes(length), None, None])
        if make:
            pieces.append((position, make(length, position)))
        position += length
    return CutDisk(size, pieces)


def disk_in(name: str, path: Path, image_of: ImageOf) -> bytes:
    """The disk in a file without findings, the same by both ways of reading."""
    opened = image_of(path)
    assert opened.format_name == name
    assert not opened.findings
    found, disk = decoded(name, path.read_bytes())
    assert not disk.findings
    assert read_all(opened.blocks) == found
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_a_written_disk_is_the_disk(name: str, size: int, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))
    path = write_file(open_writer(name, image_of(raw).blocks), tmp_path / "disk")
    assert disk_in(name, path, image_of) == raw.read_bytes()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_frames_of_any_cut_make_up_the_disk(name: str, size: int, tmp_path: Path, image_of: ImageOf) -> None:
    disk = cut_disk(size, seed=size)
    path = write_file(open_writer(name, disk), tmp_path / "disk")
    assert disk_in(name, path, image_of) == disk.content


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=SHAPES,
    name=st.sampled_from(NAMES),
)
def test_a_disk_of_any_shape_is_written(
    shape: list[tuple[int, int]], name: str, tmp_path: Path, image_of: ImageOf
) -> None:
    disk = disk_of(shape)
    path = write_file(open_writer(name, disk), tmp_path / "disk")
    assert disk_in(name, path, image_of) == disk.content


@pytest.mark.parametrize("name", NAMES)
def test_blocks_that_do_not_shrink_are_written(name: str, tmp_path: Path, image_of: ImageOf) -> None:
    disk = CutDisk(9 * MIB, [(start, noise(512 * KIB, start)) for start in range(0, 9 * MIB, 512 * KIB)])
    path = write_file(open_writer(name, disk), tmp_path / "disk")
    assert disk_in(name, path, image_of) == disk.content
    assert path.stat().st_size < 9 * MIB + BLOCK + 800 * KIB


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_zeros_are_not_stored(name: str, tmp_path: Path, image_of: ImageOf) -> None:
    pieces = [(start, bytes(MIB)) for start in range(0, 20 * MIB, MIB)]
    pieces[7] = (7 * MIB, b"one" + bytes(MIB - 3))
    raw = sparse_file(tmp_path / "raw", 20 * MIB, pieces)
    path = write_file(open_writer(name, image_of(raw).blocks), tmp_path / "disk")
    stored = [extent for extent in image_of(path).blocks.extents(0, 20 * MIB) if not extent.is_zero]
    assert [(extent.start, extent.length) for extent in stored] == [(6 * MIB, 2 * MIB)]


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_without_data_is_pages_only(name: str, tmp_path: Path, image_of: ImageOf) -> None:
    path = write_file(open_writer(name, CutDisk(GIB, [])), tmp_path / "disk")
    assert path.stat().st_size == (2 if name == "zvhd" else 4) * PAGE
    assert all(extent.is_zero for extent in image_of(path).blocks.extents(0, GIB))


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_of_many_tables_is_written(name: str, tmp_path: Path, image_of: ImageOf) -> None:
    places = [77 * 512, 600 * GIB, 3 * 512 * GIB, 5 << 40]
    size = (5 << 40) + MIB
    raw = sparse_file(tmp_path / "raw", size, [(at, text(512, at)) for at in places])
    path = write_file(open_writer(name, image_of(raw).blocks), tmp_path / "disk")
    blocks = image_of(path).blocks
    for at in places:
        buffer = bytearray(1024)
        blocks.read_into(at - 512 if at else 0, memoryview(buffer))
        assert buffer == bytes(512) + text(512, at)
    assert path.stat().st_size < 2 * MIB


@pytest.mark.parametrize("file", ["zero-5M512.zvhd", "zero-5M512.zvhd2"])
def test_pages_are_those_of_the_published_encoder(file: str, tmp_path: Path) -> None:
    expected = np.frombuffer(content(file), np.uint8).reshape(-1, PAGE)
    path = write_file(open_writer(file.split(".")[1], CutDisk(5_243_392, [])), tmp_path / "disk")
    found = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, PAGE)
    assert found.shape == expected.shape
    different = set(np.flatnonzero((found != expected).any(axis=0)).tolist())
    assert different <= {*range(24, 28), *range(64, 84)}  # time, checksum, UUID


@pytest.mark.parametrize(
    ("size", "cylinders", "heads", "per_track"),
    [
        (2 * MIB, 60, 4, 17),
        (9_437_696, 271, 4, 17),
        (512, 0, 4, 17),
        (GIB, 2080, 16, 63),
        (136_899_993_600, 65535, 16, 255),
        (64 << 40, 65535, 16, 255),
    ],
)
def test_the_geometry_is_that_of_vhd(size: int, cylinders: int, heads: int, per_track: int) -> None:
    assert geometry(size) == cylinders << 16 | heads << 8 | per_track


@pytest.mark.parametrize("name", NAMES)
def test_tasks_and_pieces_may_run_in_any_order_and_in_parallel(name: str, tmp_path: Path) -> None:
    disk = cut_disk(40 * MIB, seed=5)
    expected = write_file(open_writer(name, disk), tmp_path / "expected")
    rendered = rendered_in_parallel(open_writer(name, disk))
    found = bytes_of(output for outputs in rendered for output in outputs)
    if name == "zvhd2":
        assert found == expected.read_bytes()
    assert decoded(name, found)[0] == disk.content


def test_the_same_disk_gives_the_same_file(tmp_path: Path) -> None:
    disk = cut_disk(9 * MIB)
    for number, blocks in enumerate([disk, PlainDisk(disk)]):
        first = write_file(open_writer("zvhd2", blocks), tmp_path / f"{number}-1")
        second = write_file(open_writer("zvhd2", blocks), tmp_path / f"{number}-2")
        assert digest(first) == digest(second)


def test_frames_that_lie_inside_a_block_travel_as_they_are(tmp_path: Path) -> None:
    pieces = [(start, text(128 * KIB, start)) for start in range(0, 8 * MIB, 128 * KIB)]
    path = write_file(open_writer("zvhd2", CutDisk(8 * MIB, pieces)), tmp_path / "disk")
    file = path.read_bytes()
    assert all(COMPRESSOR.compress(plain) in file for _, plain in pieces)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_are_about_4_mib_at_most(name: str) -> None:
    disk = CutDisk(8 * MIB, [(start, noise(MIB, start)) for start in range(0, 8 * MIB, MIB)])
    writer = open_writer(name, disk)
    for task in writer.measure():
        task()
    for piece in writer.pieces():
        assert held_bytes(piece()) <= 4 * MIB + 16 * KIB


def payloads_of(file: bytes) -> list[bytes]:
    """The payloads of a file, as its records say."""
    position, found = PAGE, []
    while file.startswith(b"hwstream bg\0", position):
        (length,) = struct.unpack_from("<I", file, position + 12)
        found.append(file[position + 48 : position + 48 + length])
        position += -(-(48 + length + 4) // PAGE) * PAGE
        assert file[position - 4 : position] == b"end\0"
    return found


def one_stream(file: bytes) -> bytes:
    """The blocks of a ZVHD file, by zlib as one stream, never given room for more than a block."""
    unpacker = zlib.decompressobj()
    blocks = []
    for payload in payloads_of(file):
        blocks.append(unpacker.decompress(payload, BLOCK))
        assert len(blocks[-1]) == BLOCK
        assert not unpacker.unconsumed_tail
    return b"".join(blocks)


def test_a_zvhd_is_one_stream_for_others(tmp_path: Path) -> None:
    pieces = [(start, text(300_032, start)) for start in range(0, 7 * BLOCK, BLOCK)]
    disk = CutDisk(
        9 * BLOCK, [*pieces, *((start, noise(MIB, start)) for start in (7 * BLOCK, 7 * BLOCK + MIB))]
    )
    path = write_file(open_writer("zvhd", disk), tmp_path / "disk")
    assert one_stream(path.read_bytes()) == disk.content[: 8 * BLOCK]


class Fickle:
    """Compresses to another length the second time, as isal may."""

    def __init__(self, more_later: int) -> None:
        self._seen: set[int] = set()
        self._more_later = more_later

    def __call__(self, data: Buffer) -> bytes:
        key = hash(bytes(data))
        is_later = key in self._seen
        self._seen.add(key)
        empty = b"\0\0\0\xff\xff"
        piece = deflate_piece(data) + empty * 2000
        return (
            piece + empty * self._more_later
            if is_later and self._more_later > 0
            else (piece[: len(piece) + 5 * self._more_later] if is_later else piece)
        )


@pytest.mark.parametrize("more_later", [-1900, -1, 0, 1, 900])
def test_a_block_that_comes_out_longer_or_shorter_fits_its_record(
    more_later: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zvhd_writer, "deflate_piece", Fickle(more_later))
    disk = CutDisk(3 * BLOCK, [(start, text(70_144, start)) for start in range(0, 3 * BLOCK, BLOCK)])
    file = write_file(open_writer("zvhd", disk), tmp_path / "disk").read_bytes()
    assert one_stream(file) == disk.content
    assert decoded("zvhd", file)[0] == disk.content


def test_a_stored_piece_is_as_long_as_said() -> None:
    for length in (1, 65535, 65536, BLOCK):
        piece = stored_piece(memoryview(noise(length)))
        assert len(piece) == stored_piece_bytes(length)
        assert zlib.decompressobj(-15).decompress(piece) == noise(length)


class ChangingDisk(CutDisk):
    """Gives other bytes than it told of."""

    def frames(self, start: int, length: int) -> list[Frame]:
        found = super().frames(start, length)
        return [Frame(f.start, f.length, COMPRESSOR.compress(bytes(f.length))) for f in found]

    def measured(self) -> None:
        self._content[: 3 * MIB] = noise(3 * MIB)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_changes_while_it_is_written_is_an_error(name: str) -> None:
    disk = ChangingDisk(4 * MIB, [(MIB, text(512 * KIB))])
    writer = open_writer(name, disk)
    for task in writer.measure():
        task()
    disk.measured()
    with pytest.raises(DataLoss):
        [piece() for piece in writer.pieces()]


def test_the_index_of_many_records_is_in_their_order() -> None:
    chosen = np.random.default_rng(1)
    sizes = ClusterSizes(3 * (512 << 30), 21)
    table = np.where(chosen.random(sizes.clusters) < 0.2, chosen.integers(1, BLOCK + 1, sizes.clusters), 0)
    sizes.put(0, table.astype(np.uint32))
    plan = RecordPlan(sizes, PayloadSizes(full=BLOCK + 100, stream_start=2))
    position, expected = PAGE, []
    for number, block in enumerate(np.flatnonzero(table).tolist()):
        payload = (BLOCK + 100 if table[block] == BLOCK else int(table[block])) + (0 if number else 2)
        length = -(-(48 + payload + 4) // PAGE) * PAGE
        expected.append(struct.pack("<QII", position, block, length))
        position += length
        if number < 3:
            assert plan.payload_bytes(block) == payload
    assert plan.stored_blocks == len(expected)
    assert plan.records_end == position
    assert plan.entries(0, len(expected)) == b"".join(expected)
    assert plan.entries(60_000, 70_000) == b"".join(expected[60_000:130_000])
    bits = b"".join(plan.bitmap_part(number) for number in range(3))
    assert bits == np.packbits(table > 0, bitorder="little").tobytes()

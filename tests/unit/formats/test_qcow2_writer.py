"""QCOW2 files written: QEMU finds no fault in them and sees the same disk, and so do we."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.contract import Buffer, DataLoss, InvalidRequest
from imsd.formats.cluster_codec import deflate_small, deflate_smaller
from imsd.formats.output import held_bytes
from imsd.formats.qcow2_encoders import CompressingEncoder
from imsd.formats.qcow2_writer import COMPRESSIONS, Qcow2Writer
from imsd.formats.raw import RawBlocks
from imsd.formats.reader import OpenedImage
from imsd.formats.source import BlockSource, Frame, MemorySource
from imsd.formats.writer import Spool
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
    qemu_img,
    read_all,
    sparse_file,
    text,
    write_file,
)
from tests.unit.formats.writer_checks import SHAPES, disk_of, rendered_in_parallel

ImageOf = Callable[[Path], OpenedImage]

# Something real, as disks hold it.
PROGRAM = b"".join(path.read_bytes() for path in sorted((Path(np.__file__).parent / "_core").glob("*.so")))

SIZES = [512, 64 * KIB, 5 * MIB + 1536, 70 * MIB + 512]


def check_with_qemu(path: Path, raw: Path) -> None:
    """QEMU finds neither errors nor leaks, and the disk of ``raw``."""
    assert "No errors were found" in qemu_img("check", "-f", "qcow2", path)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, path)


def cut_disk(size: int, seed: int = 0, gap: float = 0.3) -> CutDisk:
    """A disk in pieces of 4 KiB to 512 KiB, of all kinds of bytes, with gaps between some."""
    chosen = random.Random(seed)
    pieces = []
    position = 0
    while position < size:
        length = min(chosen.choice([4096, 32 * KIB, 132 * KIB, 512 * KIB, 200 * KIB]), size - position)
        kind = chosen.random()
        if kind > gap:
            content = noise(length, position) if kind > 0.85 else text(length, position)
            pieces.append((position, bytes(length) if kind < gap + 0.03 else content))
        position += length
    return CutDisk(size, pieces)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_written_disk_is_the_disk(compression: str, size: int, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))
    path = write_file(Qcow2Writer(image_of(raw).blocks, compression), tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert read_all(image_of(path).blocks) == raw.read_bytes()


@pytest.mark.parametrize("cluster_bits", [12, 16, 18, 21])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_cluster_size_is_written(
    compression: str, cluster_bits: int, tmp_path: Path, image_of: ImageOf
) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 11 * MIB, mixed_pieces(11 * MIB, seed=3))
    writer = Qcow2Writer(image_of(raw).blocks, compression, cluster_bits)
    path = write_file(writer, tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert read_all(image_of(path).blocks) == raw.read_bytes()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_disk_of_many_tables_is_written(compression: str, tmp_path: Path, image_of: ImageOf) -> None:
    places = [0, 600 * MIB, 3 * GIB + 77 * 512, 5 * GIB - 512]
    raw = sparse_file(tmp_path / "disk.raw", 5 * GIB, [(at, text(512, at)) for at in places])
    path = write_file(Qcow2Writer(image_of(raw).blocks, compression, 16), tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert path.stat().st_size < 2 * MIB


def test_a_disk_without_a_byte_of_data_is_written(tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", GIB, [])
    for compression in COMPRESSIONS:
        path = write_file(Qcow2Writer(image_of(raw).blocks, compression), tmp_path / compression)
        check_with_qemu(path, raw)
        assert all(extent.is_zero for extent in image_of(path).blocks.extents(0, GIB))


def test_plain_clusters_that_need_several_refcount_blocks_are_counted(
    tmp_path: Path, image_of: ImageOf
) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 40 * MIB, [(0, noise(40 * MIB))])
    for compression in COMPRESSIONS:
        writer = Qcow2Writer(image_of(raw).blocks, compression, 12)
        path = write_file(writer, tmp_path / compression)
        check_with_qemu(path, raw)
        assert read_all(image_of(path).blocks) == raw.read_bytes()


def test_many_tiny_clusters_may_share_one_of_the_file(tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 200 * MIB, [(0, b"a" * (200 * MIB))])
    path = write_file(Qcow2Writer(image_of(raw).blocks, "zstd", 16), tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert path.stat().st_size < 2 * MIB


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_same_disk_gives_the_same_file(compression: str, tmp_path: Path) -> None:
    disk = cut_disk(9 * MIB)
    first = write_file(Qcow2Writer(disk, compression), tmp_path / "first")
    second = write_file(Qcow2Writer(disk, compression), tmp_path / "second")
    assert digest(first) == digest(second)


@pytest.mark.parametrize("cluster_bits", [None, 16, 18, 21])
@pytest.mark.parametrize("size", [3 * MIB + 512, 24 * MIB, 65 * MIB])
def test_frames_of_any_cut_make_up_the_disk(
    size: int, cluster_bits: int | None, tmp_path: Path, image_of: ImageOf
) -> None:
    disk = cut_disk(size, seed=size)
    raw = sparse_file(tmp_path / "disk.raw", size, [(0, disk.content)])
    path = write_file(Qcow2Writer(disk, "zstd", cluster_bits), tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert read_all(image_of(path).blocks) == disk.content


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=SHAPES,
    cluster_bits=st.sampled_from([12, 16, 20, 21]),
    compression=st.sampled_from(COMPRESSIONS),
)
def test_a_disk_of_any_shape_is_written(
    shape: list[tuple[int, int]], cluster_bits: int, compression: str, tmp_path: Path, image_of: ImageOf
) -> None:
    disk = disk_of(shape)
    raw = sparse_file(tmp_path / "disk.raw", disk.size_bytes, [(0, disk.content)])
    path = write_file(Qcow2Writer(disk, compression, cluster_bits), tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert read_all(image_of(path).blocks) == disk.content


def test_frames_that_lie_inside_a_cluster_travel_as_they_are(tmp_path: Path) -> None:
    pieces = [(start, text(128 * KIB, start)) for start in range(0, 8 * MIB, 128 * KIB)]
    disk = CutDisk(8 * MIB, pieces)
    path = write_file(Qcow2Writer(disk, "zstd", 21), tmp_path / "disk.qcow2")
    content = path.read_bytes()
    assert all(COMPRESSOR.compress(plain) in content for _, plain in pieces)


def test_measuring_reads_only_what_crosses_a_cluster() -> None:
    pieces = [(start, text(128 * KIB, start)) for start in range(0, 8 * MIB, 128 * KIB)]

    class Counted(CutDisk):
        read_bytes = 0

        def read_into(self, offset: int, buffer: memoryview) -> None:
            Counted.read_bytes += len(buffer)
            super().read_into(offset, buffer)

    writer = Qcow2Writer(Counted(8 * MIB, pieces), "zstd", 21)
    for task in writer.measure():
        task()
    assert writer.file_size_bytes() % (2 * MIB) == 0
    assert Counted.read_bytes == 0


def test_tasks_and_pieces_may_run_in_any_order_and_in_parallel(tmp_path: Path, image_of: ImageOf) -> None:
    disk = cut_disk(40 * MIB, seed=5)
    raw = sparse_file(tmp_path / "disk.raw", 40 * MIB, [(0, disk.content)])
    for compression in COMPRESSIONS:
        expected = write_file(Qcow2Writer(disk, compression), tmp_path / "expected")
        rendered = rendered_in_parallel(Qcow2Writer(disk, compression))
        content = bytes_of(output for outputs in rendered for output in outputs)
        path = tmp_path / "disk.qcow2"
        path.write_bytes(content)
        check_with_qemu(path, raw)
        assert compression == "zlib" or content == expected.read_bytes()


def test_pieces_are_about_4_mib_at_most() -> None:
    for compression in COMPRESSIONS:
        writer = Qcow2Writer(cut_disk(40 * MIB, seed=6), compression)
        for task in writer.measure():
            task()
        for piece in writer.pieces():
            assert held_bytes(piece()) <= 4 * MIB


class Fickle:
    """Compresses to another length each time, as isal may: by ``steps`` bytes more than the first time."""

    def __init__(self, *steps: int) -> None:
        self._steps = iter(steps)

    def __call__(self, data: memoryview) -> bytes:
        return b"\x11" * (2000 + next(self._steps))


def test_a_cluster_that_comes_out_shorter_is_followed_by_zeros() -> None:
    encoder = CompressingEncoder(CutDisk(64 * KIB, [(0, text(64 * KIB))]), 64 * KIB, Fickle(0, -3))
    sizes = encoder.sizes(0, 1)
    assert list(encoder.render(0, sizes)) == [[b"\x11" * 1997 + bytes(3)]]


def test_a_cluster_that_comes_out_longer_is_compressed_in_another_way() -> None:
    disk = CutDisk(64 * KIB, [(0, text(64 * KIB))])
    encoder = CompressingEncoder(disk, 64 * KIB, Fickle(0, 1, 2), Fickle(-1000, 1))
    sizes = encoder.sizes(0, 1)
    assert list(encoder.render(0, sizes)) == [[b"\x11" * 1000 + bytes(1000)]]
    with pytest.raises(DataLoss):
        list(encoder.render(0, sizes))


def test_a_cluster_may_come_out_a_little_longer() -> None:
    disk = CutDisk(64 * KIB, [(0, text(64 * KIB))])
    encoder = CompressingEncoder(disk, 64 * KIB, Fickle(0, 2), spare_bytes=2)
    sizes = encoder.sizes(0, 1)
    assert list(encoder.render(0, sizes)) == [[b"\x11" * 2002]]


def test_the_other_way_to_deflate_is_read_by_qemu_too(tmp_path: Path, image_of: ImageOf) -> None:
    disk = cut_disk(5 * MIB)
    raw = sparse_file(tmp_path / "disk.raw", 5 * MIB, [(0, disk.content)])
    writer = Qcow2Writer(disk, "zlib")
    writer._encoder = CompressingEncoder(disk, 64 * KIB, deflate_smaller)
    path = write_file(writer, tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert read_all(image_of(path).blocks) == disk.content


class Shelf(Spool):
    """A spool with room for the first ``room`` things."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.contents: dict[int, bytes] = {}

    def keep(self, key: int, content: Sequence[Buffer]) -> None:
        if len(self.contents) < self._room:
            self.contents[key] = b"".join(content)

    def kept(self, key: int) -> bytes | None:
        return self.contents.get(key)


class Counter:
    """Compresses, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, data: memoryview) -> bytes:
        self.calls += 1
        return deflate_small(data)


@pytest.mark.parametrize(("room", "again"), [(0, 3), (1, 2), (3, 0)])
def test_what_a_spool_has_kept_is_not_compressed_again(room: int, again: int) -> None:
    disk = CutDisk(12 * MIB, [(start * MIB, text(64 * KIB, start)) for start in (0, 4, 8)])
    compress, shelf = Counter(), Shelf(room)
    encoder = CompressingEncoder(disk, 64 * KIB, compress, spool=shelf)
    sizes = [encoder.sizes(first, 64) for first in (0, 64, 128)]
    compress.calls = 0
    rendered = [bytes_of(next(encoder.render(64 * number, sizes[number]))) for number in range(3)]
    assert compress.calls == again
    assert rendered == [deflate_small(text(64 * KIB, start)) for start in (0, 4, 8)]


@pytest.mark.parametrize("room", [2, 1000])
@pytest.mark.parametrize("compression", ["zlib-small", "zstd"])
@pytest.mark.parametrize("cluster_bits", [12, 16, 21])
def test_a_spool_changes_no_byte_of_the_file(
    tmp_path: Path, compression: str, room: int, cluster_bits: int
) -> None:
    content = cut_disk(13 * MIB + 512, seed=8).content
    disk = RawBlocks(MemorySource(content))
    expected = write_file(Qcow2Writer(disk, compression, cluster_bits), tmp_path / "expected")
    shelf = Shelf(room)
    spooled = write_file(Qcow2Writer(disk, compression, cluster_bits, shelf), tmp_path / "spooled")
    assert spooled.read_bytes() == expected.read_bytes()
    assert len(shelf.contents) == min(room, 4)


def test_a_zlib_file_from_a_spool_is_sound(tmp_path: Path) -> None:
    disk = cut_disk(13 * MIB + 512, seed=9)
    raw = sparse_file(tmp_path / "disk.raw", 13 * MIB + 512, [(0, disk.content)])
    path = write_file(Qcow2Writer(disk, "zlib", spool=Shelf(2)), tmp_path / "disk.qcow2")
    check_with_qemu(path, raw)
    assert path.stat().st_size < len(disk.content)


def test_the_smaller_file_is_always_the_same_and_read_by_qemu(tmp_path: Path) -> None:
    content = PROGRAM[: 3 * MIB].ljust(3 * MIB, b"\0")
    raw = sparse_file(tmp_path / "disk.raw", 3 * MIB, [(0, content)])
    disk = RawBlocks(MemorySource(content))
    small = write_file(Qcow2Writer(disk, "zlib-small"), tmp_path / "small.qcow2")
    check_with_qemu(small, raw)
    assert small.read_bytes() == write_file(Qcow2Writer(disk, "zlib-small"), tmp_path / "again").read_bytes()


def test_the_smaller_clusters_are_no_larger_than_those_of_qemu() -> None:
    clusters = [PROGRAM[start : start + 64 * KIB] for start in range(0, min(len(PROGRAM), 3 * MIB), 64 * KIB)]
    ours, of_qemu = 0, 0
    for cluster in clusters:
        packer = zlib.compressobj(-1, zlib.DEFLATED, -12, 9)
        of_qemu += len(packer.compress(cluster) + packer.flush())
        ours += len(deflate_small(cluster))
    assert ours <= of_qemu


class ChangingDisk(CutDisk):
    """Gives other frames than it told of."""

    def frames(self, start: int, length: int) -> list[Frame]:
        return [
            Frame(f.start, f.length, COMPRESSOR.compress(bytes(f.length)))
            for f in super().frames(start, length)
        ]


def test_a_disk_that_changes_while_it_is_written_is_an_error(tmp_path: Path) -> None:
    disk = ChangingDisk(4 * MIB, [(MIB, text(128 * KIB))])
    with pytest.raises(DataLoss):
        write_file(Qcow2Writer(disk, "zstd", 21), tmp_path / "disk.qcow2")


@pytest.mark.parametrize(("compression", "cluster_bits"), [("lz4", None), ("zlib", 11), ("none", 22)])
def test_a_file_that_cannot_be_is_refused(compression: str, cluster_bits: int | None) -> None:
    with pytest.raises(InvalidRequest):
        Qcow2Writer(CutDisk(MIB, []), compression, cluster_bits)


def test_clusters_too_small_for_the_disk_are_refused() -> None:
    class Huge(BlockSource):
        size_bytes = 64 << 40
        extents = None  # type: ignore[assignment]
        read_into = None  # type: ignore[assignment]

    with pytest.raises(InvalidRequest):
        Qcow2Writer(Huge(), "none", 12)
    assert Qcow2Writer(Huge(), "none").file_size_bytes() > 0

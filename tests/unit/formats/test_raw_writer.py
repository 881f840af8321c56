"""RAW files written: the disk, with its zeros as zero runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from imsd.formats.output import Framed, Zeros, length_of
from imsd.formats.raw import RawBlocks
from imsd.formats.raw_writer import RawWriter
from imsd.formats.reader import OpenedImage
from imsd.formats.source import MemorySource
from imsd.formats.vdi_writer import VdiWriter
from imsd.formats.vhd_writer import VhdWriter
from imsd.formats.vhdx_writer import VhdxWriter
from imsd.formats.writer import FormatWriter
from tests.unit.formats.disk_files import (
    GIB,
    KIB,
    MIB,
    CutDisk,
    bytes_of,
    mixed_pieces,
    noise,
    sparse_file,
    text,
    write_file,
)

ImageOf = Callable[[Path], OpenedImage]


@pytest.mark.parametrize("size", [512, 65_536, 4 * MIB, 9 * MIB + 512])
def test_a_written_disk_is_the_disk(size: int, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk", size, mixed_pieces(size))
    written = write_file(RawWriter(image_of(raw).blocks), tmp_path / "written")
    assert written.read_bytes() == raw.read_bytes()


def test_zeros_leave_as_runs_whether_known_or_found() -> None:
    content = text(64 * KIB) + bytes(128 * KIB) + text(100) + bytes(64 * KIB - 100) + bytes(64 * KIB)
    writer = RawWriter(RawBlocks(MemorySource(content)))
    outputs = [output for piece in writer.pieces() for output in piece()]
    lengths = [(length_of(output), isinstance(output, Zeros)) for output in outputs]
    assert lengths == [(65536, False), (131072, True), (65536, False), (65536, True)]


def test_a_large_empty_part_is_one_piece() -> None:
    writer = RawWriter(CutDisk(GIB // 4, [(MIB, text(64 * KIB)), (200 * MIB, noise(4096))]))
    for task in writer.measure():
        task()
    assert len(list(writer.pieces())) == 4


def test_a_writer_that_was_not_measured_writes_the_same(tmp_path: Path) -> None:
    disk = CutDisk(20 * MIB, [(MIB, text(64 * KIB)), (17 * MIB, noise(4096))])
    outputs = [output for piece in RawWriter(disk).pieces() for output in piece()]
    assert bytes_of(outputs) == disk.content


def test_a_source_without_frames_gives_none() -> None:
    content = text(9 * MIB)
    writer = RawWriter(RawBlocks(MemorySource(content)), may_frame=True)
    outputs = [output for piece in writer.pieces() for output in piece()]
    assert bytes_of(outputs) == content
    assert not any(isinstance(output, Framed) for output in outputs)


ID = UUID(int=7)


@pytest.mark.parametrize(
    "open_writer",
    [
        partial(VhdWriter, new_id=lambda: ID),
        partial(VhdxWriter, new_id=lambda: ID),
        partial(VdiWriter, identity=ID),
    ],
    ids=["vhd", "vhdx", "vdi"],
)
def test_formats_without_compression_give_frames_as_they_are_too(
    open_writer: Callable[..., FormatWriter],
) -> None:
    pieces = [(start * 100 * KIB, text(100 * KIB, start)) for start in (0, 1, 2, 45, 50)]
    disk = CutDisk(7 * MIB + 512, [*pieces, (6 * MIB, noise(64 * KIB))])
    plain = [o for piece in open_writer(disk).pieces() for o in piece()]
    framed = [o for piece in open_writer(disk, may_frame=True).pieces() for o in piece()]
    assert bytes_of(framed) == bytes_of(plain)
    assert sum(isinstance(output, Framed) for output in framed) == len(pieces)
    assert not any(isinstance(output, Framed) for output in plain)

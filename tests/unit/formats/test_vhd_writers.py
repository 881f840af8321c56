"""VHD and VHDX files written: QEMU finds no fault in them and sees the same disk, and so do we."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.contract import InvalidRequest
from imsd.formats.output import Zeros, length_of
from imsd.formats.reader import OpenedImage
from imsd.formats.registry import open_writer
from imsd.formats.source import Extent
from imsd.formats.vhd_layout import geometry
from imsd.formats.vhd_writer import VhdWriter
from imsd.formats.vhdx_writer import VhdxWriter
from imsd.formats.writer import FormatWriter
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
    read_range,
    sparse_file,
    text,
    write_file,
)
from tests.unit.formats.writer_checks import EmptyDisk

ImageOf = Callable[[Path], OpenedImage]

WRITERS: dict[str, type[VhdWriter] | type[VhdxWriter]] = {"vhd": VhdWriter, "vhdx": VhdxWriter}
QEMU_NAMES = {"vhd": "vpc", "vhdx": "vhdx"}

SIZES = [512, MIB - 512, MIB, 2 * MIB, 5 * MIB + 1536, 70 * MIB + 512]


def qemu_io(*arguments: str | Path) -> None:
    """Fails the test when a command fails, or when what is read has another pattern."""
    done = subprocess.run(["qemu-io", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout


def measured(writer: FormatWriter) -> FormatWriter:
    for task in writer.measure():
        task()
    return writer


def check_with_qemu(name: str, path: Path, raw: Path) -> None:
    """QEMU finds the disk of ``raw``, and zeros up to a whole MiB, in a file without faults."""
    assert "Images are identical" in qemu_img("compare", "-f", "raw", "-F", QEMU_NAMES[name], raw, path)
    if name == "vhdx":  # VHD has no check
        assert "No errors were found" in qemu_img("check", "-f", name, path)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WRITERS)
def test_a_written_disk_is_the_disk(name: str, size: int, tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", size, mixed_pieces(size))
    path = write_file(WRITERS[name](image_of(raw).blocks), tmp_path / "disk")
    check_with_qemu(name, path, raw)
    image = image_of(path)
    assert image.format_name == name
    assert not image.findings
    whole = -(-size // MIB) * MIB if name == "vhd" else size
    assert read_all(image.blocks) == raw.read_bytes().ljust(whole, b"\0")
    assert f"({whole} bytes)" in qemu_img("info", "-f", QEMU_NAMES[name], path)


@pytest.mark.parametrize("name", WRITERS)
def test_blocks_without_data_take_no_room(name: str, tmp_path: Path, image_of: ImageOf) -> None:
    places = [0, 3 * MIB, 4 * GIB - 512, 4 * GIB, 9 * GIB + 77 * 512]
    raw = sparse_file(tmp_path / "disk.raw", 10 * GIB, [(place, b"\x5a" * 512) for place in places])
    path = write_file(WRITERS[name](image_of(raw).blocks), tmp_path / "disk")
    reads = [f"-cread -P 0x5a {place} 512" for place in places] + [f"-cread -P 0 {2 * GIB} {3 * MIB}"]
    qemu_io("-r", "-f", QEMU_NAMES[name], *reads, path)
    assert path.stat().st_size < len(places) * 2 * MIB + 5 * MIB
    blocks = image_of(path).blocks
    assert [read_range(blocks, place, 512) for place in places] == [b"\x5a" * 512] * 5
    assert sum(e.length for e in blocks.extents(0, 10 * GIB) if not e.is_zero) == len(places) * 2 * MIB


@pytest.mark.parametrize("size", [3 << 40, 64 << 40])
def test_large_disks_have_large_blocks(size: int, tmp_path: Path, image_of: ImageOf) -> None:
    """Of which only the windows with data are more than holes of the file."""
    pieces = [(0, noise(512)), (1 << 41, text(MIB)), (size - 512, noise(512, 3))]

    class Large(EmptyDisk):
        def extents(self, start: int, length: int) -> Sequence[Extent]:
            return [Extent(start, length, not any(start <= at < start + length for at, _ in pieces))]

        def read_into(self, offset: int, buffer: memoryview) -> None:
            buffer[:] = bytes(len(buffer))
            for at, content in pieces:
                if offset <= at < offset + len(buffer):
                    buffer[at - offset : at - offset + len(content)] = content

    writer = VhdxWriter(Large(size))
    path = tmp_path / "disk.vhdx"
    for task in writer.measure():
        task()
    # The three places count as a GiB of data each; what was read of them is zeros but for the pieces.
    assert writer.file_size_bytes() <= 3 * GIB + 32 * MIB
    path = write_file(writer, path)
    blocks = image_of(path).blocks
    assert blocks.size_bytes == size
    assert [read_range(blocks, at, len(content)) for at, content in pieces] == [c for _, c in pieces]
    assert path.stat().st_blocks * 512 < 40 * MIB
    assert "No errors were found" in qemu_img("check", "-f", "vhdx", path)


def test_the_largest_vhd_is_written(tmp_path: Path, image_of: ImageOf) -> None:
    path = write_file(VhdWriter(EmptyDisk(2040 * GIB)), tmp_path / "disk.vhd")
    assert f"({2040 * GIB} bytes)" in qemu_img("info", "-f", "vpc", path)
    assert image_of(path).blocks.size_bytes == 2040 * GIB


@pytest.mark.parametrize(("name", "size"), [("vhd", (2040 << 30) + 512), ("vhdx", (64 << 40) + 512)])
def test_a_disk_that_the_format_cannot_hold_is_refused(name: str, size: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        open_writer(name, EmptyDisk(size))
    assert refused.value.hint
    assert refused.value.field == "disk_format"


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_disk_and_identity_give_the_same_file(name: str, tmp_path: Path) -> None:
    disk = CutDisk(9 * MIB + 512, [(0, text(MIB)), (6 * MIB, noise(300 * KIB))])
    identity = UUID(int=77)
    paths = [write_file(WRITERS[name](disk, lambda: identity), tmp_path / str(number)) for number in range(2)]
    assert digest(paths[0]) == digest(paths[1])
    others = [write_file(open_writer(name, disk), tmp_path / f"other{number}") for number in range(2)]
    assert digest(others[0]) != digest(others[1])


@pytest.mark.parametrize("name", WRITERS)
def test_pieces_are_small_and_hold_no_zeros(name: str) -> None:
    disk = CutDisk(64 * MIB, [(start, text(128 * KIB, start)) for start in range(0, 40 * MIB, 3 * MIB)])
    rendered = [piece() for piece in measured(WRITERS[name](disk)).pieces()]
    assert max(sum(map(length_of, outputs)) for outputs in rendered) <= 4 * MIB + 512
    zeros = [out.length for outputs in rendered for out in outputs if isinstance(out, Zeros)]
    assert sum(zeros) > 20 * MIB
    assert (
        sum(len(bytes_of([out])) for outs in rendered for out in outs if not isinstance(out, Zeros)) < 8 * MIB
    )


def test_a_vhd_is_what_hyper_v_expects(tmp_path: Path) -> None:
    disk = CutDisk(5 * MIB + 512, [(0, text(MIB))])
    file = write_file(VhdWriter(disk, lambda: UUID(int=1 << 100)), tmp_path / "disk.vhd").read_bytes()
    assert file[:512] == file[-512:]
    cookie, features, version, place, _, creator = struct.unpack_from(">8sIIQI4s", file)
    assert (cookie, features, version, place, creator) == (b"conectix", 2, 0x10000, 512, b"win ")
    assert struct.unpack_from(">QQ", file, 40) == (6 * MIB, 6 * MIB)
    assert struct.unpack_from(">HBBI", file, 56) == (180, 4, 17, 3)
    assert file[68:84] == UUID(int=1 << 100).bytes
    assert struct.unpack_from(">8sQQIII", file, 512) == (
        b"cxsparse",
        (1 << 64) - 1,
        1536,
        0x10000,
        3,
        2 * MIB,
    )
    assert struct.unpack_from(">4I", file, 1536) == (4, *[0xFFFF_FFFF] * 3)
    assert file[2048:2560] == b"\xff" * 512


@pytest.mark.parametrize(
    "mib",
    [
        1,
        3,
        17,
        40,
        127,
        140,
        200,
        247,
        503,
        504,
        505,
        512,
        1000,
        2000,
        8000,
        32_000,
        127_000,
        139_260,
        139_264,
        1 << 20,
    ],
)
def test_the_geometry_is_that_of_qemu(mib: int, tmp_path: Path) -> None:
    """QEMU rounds a disk to its geometry, so that the geometry of the rounded size is the same again."""
    path = tmp_path / "disk.vhd"
    qemu_img("create", "-q", "-f", "vpc", path, f"{mib}M")
    footer = path.read_bytes()[:512]
    (size,) = struct.unpack_from(">Q", footer, 48)
    assert geometry(size) == struct.unpack_from(">I", footer, 56)[0]


def test_a_vhdx_is_what_hyper_v_expects(tmp_path: Path) -> None:
    disk = CutDisk(5 * MIB + 512, [(2 * MIB, text(MIB))])
    file = write_file(VhdxWriter(disk), tmp_path / "disk.vhdx").read_bytes()
    assert file[:8] == b"vhdxfile"
    assert len(file) == 6 * MIB
    older, newer = file[64 * KIB : 68 * KIB], file[128 * KIB : 132 * KIB]
    assert [struct.unpack_from("<Q", header, 8)[0] for header in (older, newer)] == [1, 2]
    assert newer[48:64] == bytes(16)  # no log to replay
    assert file[192 * KIB : 256 * KIB] == file[256 * KIB : 320 * KIB]
    assert not any(file[MIB : 2 * MIB])
    assert struct.unpack_from("<4Q", file, 3 * MIB) == (2, 4 << 20 | 6, 2, 0)


@pytest.mark.parametrize("name", WRITERS)
def test_qemu_writes_into_a_file_of_ours(name: str, tmp_path: Path, image_of: ImageOf) -> None:
    """What QEMU appends lies where nothing else does."""
    disk = CutDisk(40 * MIB, [(0, text(MIB)), (20 * MIB, noise(MIB))])
    path = write_file(WRITERS[name](disk), tmp_path / "disk")
    qemu_io("-f", QEMU_NAMES[name], "-cwrite -P 0x5a 7M 3M", "-cwrite -P 0xa5 20M 4k", path)
    expected = bytearray(disk.content)
    expected[7 * MIB : 10 * MIB] = b"\x5a" * (3 * MIB)
    expected[20 * MIB : 20 * MIB + 4096] = b"\xa5" * 4096
    assert read_all(image_of(path).blocks) == expected


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 900)), max_size=8),
    sectors=st.integers(1, 30_000),
    name=st.sampled_from(list(WRITERS)),
)
def test_disks_of_any_shape_are_written(
    pieces: list[tuple[int, int]], sectors: int, name: str, tmp_path: Path, image_of: ImageOf
) -> None:
    inside = [(s * 512, noise(n * 512, s)) for s, n in pieces if s + n <= sectors]
    raw = sparse_file(tmp_path / "disk.raw", sectors * 512, inside)
    path = write_file(WRITERS[name](image_of(raw).blocks), tmp_path / "disk")
    check_with_qemu(name, path, raw)
    content = read_all(image_of(path).blocks)
    assert content[: sectors * 512] == raw.read_bytes()
    assert not any(content[sectors * 512 :])

"""Every format comes in as the same image, and every format that is written goes out as the same disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.formats.raw import RawBlocks
from imsd.formats.registry import FORMATS, READERS, open_writer
from imsd.formats.source import MemorySource
from imsd.v1 import image_pb2
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess, Stubs
from tests.end_to_end.disks import MIB, patterned_disk, qemu_img
from tests.unit.formats.disk_files import write_file

DISK = patterned_disk(9 * MIB, seed=5) + bytes(4 * MIB) + patterned_disk(MIB, seed=6)

# Our name and what makes the file: options of `qemu-img convert`, or nothing where only we write it.
FILES = {
    "qcow2": ("qcow2", ["-O", "qcow2"]),
    "qcow2, zlib": ("qcow2", ["-O", "qcow2", "-c"]),
    "qcow2, zstd": ("qcow2", ["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
    "qcow": ("qcow", ["-O", "qcow"]),
    "qed": ("qed", ["-O", "qed"]),
    "vdi": ("vdi", ["-O", "vdi"]),
    "vdi, static": ("vdi", ["-O", "vdi", "-o", "static=on"]),
    "vhd, dynamic": ("vhd", ["-O", "vpc", "-o", "force_size=on"]),
    "vhd, fixed": ("vhd", ["-O", "vpc", "-o", "subformat=fixed,force_size=on"]),
    "vhdx": ("vhdx", ["-O", "vhdx"]),
    "vmdk, sparse": ("vmdk", ["-O", "vmdk"]),
    "vmdk, stream": ("vmdk", ["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    "zvhd": ("zvhd", []),
    "zvhd2": ("zvhd2", []),
}
# Stored while they arrive: nothing of them is ever staged.
NEVER_STAGED = {"vhd, fixed", "vmdk, stream", "zvhd", "zvhd2"}
WRITTEN = [
    (known.name, compression)
    for known in FORMATS
    if known.can_write
    for compression in known.compressions or [""]
]
# As QEMU calls them; it does not know the others.
QEMU_NAMES = {"raw": "raw", "qcow2": "qcow2", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx", "vmdk": "vmdk"}


def made_by(options: list[str], name: str, folder: Path) -> bytes:
    raw, file = folder / "disk.raw", folder / "disk"
    raw.write_bytes(DISK)
    if options:
        qemu_img("convert", "-f", "raw", *options, raw, file)
    else:
        write_file(open_writer(name, RawBlocks(MemorySource(DISK))), file)
    return file.read_bytes()


def test_every_format_is_tried() -> None:
    assert {name for name, _ in FILES.values()} | {"raw", "iso"} == set(READERS)
    assert {name for name, _ in WRITTEN} == set(QEMU_NAMES) | {"zvhd", "zvhd2"}


@pytest.mark.parametrize("file", FILES)
async def test_a_file_of_any_format_is_the_image_of_its_disk(stubs: Stubs, tmp_path: Path, file: str) -> None:
    name, options = FILES[file]
    raw = await wire.import_disk(stubs, DISK)
    image = await wire.import_disk(stubs, made_by(options, name, tmp_path), name="other")
    assert image.disk_format == image_pb2.DiskFormat.Value(f"DISK_FORMAT_{name.upper()}")
    assert image.digest == raw.digest
    assert image.new_size_bytes == 0
    assert image.guest.is_inspected
    assert await wire.download(stubs, image.id) == DISK


@pytest.mark.parametrize("file", FILES)
async def test_what_can_be_read_in_one_pass_is_not_staged(
    daemon: DaemonProcess, stubs: Stubs, tmp_path: Path, file: str
) -> None:
    name, options = FILES[file]
    content = made_by(options, name, tmp_path)
    upload = await wire.send(stubs, content)
    staged = sum(daemon.blobs("staging").values())
    assert (staged < len(content) // 8) is (file in NEVER_STAGED)
    assert await wire.ended(stubs, await wire.start_image(stubs, upload))


@pytest.mark.parametrize(("name", "compression"), WRITTEN)
async def test_a_download_in_any_format_is_the_disk(
    stubs: Stubs, tmp_path: Path, name: str, compression: str
) -> None:
    image = await wire.import_disk(stubs, DISK)
    wanted = image_pb2.DiskFormat.Value(f"DISK_FORMAT_{name.upper()}")
    method = (
        f"COMPRESSION_{compression.upper().replace('-', '_')}" if compression else "COMPRESSION_UNSPECIFIED"
    )
    content = await wire.download(
        stubs, image.id, disk_format=wanted, compression=image_pb2.Compression.Value(method)
    )
    raw, out = tmp_path / "in.raw", tmp_path / "out"
    raw.write_bytes(DISK)
    out.write_bytes(content)
    if qemu_name := QEMU_NAMES.get(name):
        assert "identical" in qemu_img("compare", "-f", "raw", "-F", qemu_name, raw, out)
    again = await wire.import_disk(stubs, content, name="again")
    assert again.digest == image.digest


@pytest.mark.parametrize("quota", [0, 100 << 10, 1 << 30])
def test_a_smaller_file_is_the_same_whatever_room_its_spool_has(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path, quota: int
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(DISK)
    daemon = start_daemon(spool_quota_bytes=quota)
    daemon.imsctl("image", "import", str(disk), "--name", "disk")
    copy, made_here = tmp_path / "copy.qcow2", tmp_path / "here.qcow2"
    daemon.imsctl("image", "download", "disk", "-o", str(copy), "--smaller")
    daemon.imsctl("image", "convert", str(disk), str(made_here), "--smaller")
    qemu_img("compare", "-f", "raw", "-F", "qcow2", disk, copy)
    assert copy.read_bytes() == made_here.read_bytes()

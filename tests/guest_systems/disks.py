"""Disks of root trees: partitioned by sfdisk, filled by the tools of the file systems, started by GRUB.

Nothing is mounted and no loop device is needed. GRUB's images are made by its own grub-mkimage; putting them
where grub-install does is a matter of a few fields (GRUB 2: grub-core/boot/i386/pc/boot.S and diskboot.S,
include/grub/i386/pc/boot.h).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guest_systems.trees import ROOT_UUID, long_run
from tests.unit.guest.debian_tools import run_tool
from tests.unit.guest.guest_disks import (
    MIB,
    group_text,
    logical_text,
    make_xfs,
    physical_volume,
    segment_text,
    sparse,
)

SECTOR = 512
BOOT_UUID = "0a1b2c3d-0000-4000-8000-00000000b007"
# Types of partitions as sfdisk names them, in a GUID table and in a master boot record.
GPT_TYPES = {"bios": "21686148-6449-6E6F-744E-656564454649", "esp": "U", "linux": "L", "lvm": "V"}
MBR_TYPES = {"esp": "ef", "linux": "83", "lvm": "8e", "ntfs": "7"}
GRUB_MODULES = (
    *("normal", "linux", "serial", "search", "search_fs_uuid", "part_gpt", "part_msdos"),
    *("ext2", "xfs", "btrfs", "lvm"),
)
# boot.img: where the first sector of core.img stands, and a jump that is no-operations on a hard disk.
KERNEL_SECTOR_OFFSET = 0x5C
DRIVE_CHECK_OFFSET = 0x66
# diskboot.img, the first sector of core.img: where the sector of the rest stands.
REST_OFFSET = 0x1F4
BOOT_CODE_BYTES = 440
EXTENT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Part:
    """A partition: ``kind`` of `GPT_TYPES`, the image that fills it, or its length when it stays empty."""

    kind: str
    image: Path | None = None
    empty_bytes: int = MIB

    @property
    def length(self) -> int:
        return -(-self.image.stat().st_size // MIB) * MIB if self.image else self.empty_bytes


@dataclass(frozen=True, slots=True)
class Loaders:
    """GRUB's images: for a BIOS (``boot``, ``core``) and for UEFI."""

    boot: bytes
    core: bytes
    efi: bytes


def partition_uuid(number: int) -> str:
    """What a partition of a GUID table is called here."""
    return f"0a1b2c3d-0000-4000-8000-{number:012}"


def make_loaders(root: Path) -> Loaders:
    """By the GRUB installed in ``root``: it looks for the file system `ROOT_UUID` and the menu there."""
    (root / "tmp/early.cfg").write_text(f"search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\n")
    made = {}
    for platform, more in (("i386-pc", ("biosdisk",)), ("x86_64-efi", ())):
        arguments = ("-O", platform, "-o", "/tmp/grub.img", "-p", "/boot/grub", "-c", "/tmp/early.cfg")
        long_run("chroot", root, "grub-mkimage", *arguments, *GRUB_MODULES, *more)
        made[platform] = (root / "tmp/grub.img").read_bytes()
    return Loaders((root / "usr/lib/grub/i386-pc/boot.img").read_bytes(), made["i386-pc"], made["x86_64-efi"])


def make_disk(path: Path, label: str, parts: Sequence[Part], loaders: Loaders | None = None) -> Path:
    """A disk with a table (``gpt`` or ``dos``) of ``parts``; with ``loaders`` a BIOS can start it."""
    types = GPT_TYPES if label == "gpt" else MBR_TYPES
    starts, position = [], MIB
    for part in parts:
        starts.append(position)
        position += part.length
    sparse(path, position + MIB)
    lines = [
        f"start={start // SECTOR}, size={part.length // SECTOR}, type={types[part.kind]}, "
        + (f"uuid={partition_uuid(number)}" if label == "gpt" else "bootable" if number == 1 else "")
        for number, (start, part) in enumerate(zip(starts, parts, strict=True), 1)
    ]
    run_tool("sfdisk", "--quiet", path, entries="\n".join([f"label: {label}", *lines, ""]))
    with path.open("r+b") as disk:
        for start, part in zip(starts, parts, strict=True):
            if part.image:
                _copy(part.image, disk.fileno(), start)
        if loaders:
            homes = [start for start, part in zip(starts, parts, strict=True) if part.kind == "bios"]
            _install_grub(disk.fileno(), loaders, (homes or [SECTOR])[0] // SECTOR)
    return path


def _copy(image: Path, disk: int, start: int) -> None:
    """Only what is not a hole."""
    with image.open("rb") as file:
        place, size = 0, image.stat().st_size
        while place < size:
            try:
                first = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:
                return
            place = os.lseek(file.fileno(), first, os.SEEK_HOLE)
            for at in range(first, place, MIB):
                os.pwrite(disk, os.pread(file.fileno(), min(MIB, place - at), at), start + at)


def _install_grub(disk: int, loaders: Loaders, sector: int) -> None:
    code = bytearray(loaders.boot[:BOOT_CODE_BYTES])
    code[KERNEL_SECTOR_OFFSET : KERNEL_SECTOR_OFFSET + 8] = struct.pack("<Q", sector)
    code[DRIVE_CHECK_OFFSET : DRIVE_CHECK_OFFSET + 2] = b"\x90\x90"
    core = bytearray(loaders.core)
    core[REST_OFFSET : REST_OFFSET + 8] = struct.pack("<Q", sector + 1)
    os.pwrite(disk, code, 0)
    os.pwrite(disk, core, sector * SECTOR)


def ext4(path: Path, tree: Path, size_bytes: int, uuid: str = ROOT_UUID, label: str = "root") -> Path:
    # GRUB 2.06 reads no ext4 with a seed of its own for checksums.
    options = ("-q", "-F", "-t", "ext4", "-L", label, "-U", uuid, "-O", "^metadata_csum_seed,^orphan_file")
    run_tool("mke2fs", *options, "-d", tree, sparse(path, size_bytes))
    return path


def xfs(path: Path, tree: Path, size_bytes: int) -> Path:
    make_xfs(path, tree, "-m", f"uuid={ROOT_UUID}", "-L", "root", size_bytes=size_bytes)
    return path


def btrfs(path: Path, tree: Path, size_bytes: int) -> Path:
    run_tool("mkfs.btrfs", "-q", "-U", ROOT_UUID, "-L", "root", "--rootdir", tree, sparse(path, size_bytes))
    return path


def esp(path: Path, files: dict[str, bytes], size_bytes: int = 8 * MIB) -> Path:
    """An EFI system partition; ``files`` by their paths in it."""
    run_tool("mkfs.fat", "-F", "16", "-s", "1", "-n", "ESP", sparse(path, size_bytes))
    made: set[str] = set()
    for name, content in files.items():
        parents = [parent.as_posix() for parent in reversed(Path(name).parents) if parent.name]
        for parent in parents:
            if parent not in made:
                run_tool("mmd", "-i", path, f"::/{parent}")
                made.add(parent)
        source = path.with_suffix(".loader")
        source.write_bytes(content)
        run_tool("mcopy", "-i", path, source, f"::/{name}")
    return path


def logical_volume(path: Path, file_system: Path) -> Path:
    """A physical volume of LVM2 with a volume group ``vg`` of one volume ``root``: ``file_system``."""
    size = file_system.stat().st_size
    count = size // EXTENT_BYTES
    text = group_text(logical_text("root", segment_text(0, count, [("pv0", 0)])))
    text = text.replace(b"pe_count = 64", b"pe_count = %d" % count)
    sparse(path, MIB + size)
    with path.open("r+b") as volume:
        volume.write(physical_volume(text, size_bytes=MIB + size))
        _copy(file_system, volume.fileno(), MIB)
    return path

"""Guests put together in memory: parts of a disk, their trees, an initramfs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imsd.guest.boot import BootWays
from imsd.guest.disk import BootFacts, Place
from imsd.guest.guest import Guest
from imsd.guest.linux import identify_linux
from imsd.guest.mounts import mounted_tree
from imsd.guest.partitions import Partition
from imsd.guest.volume import BytesVolume
from tests.unit.guest.guest_disks import MIB, make_ext, mbr_entry, mbr_sector, whole
from tests.unit.guest.memory_tree import ELF_X86, Content, Link, MemoryFileSystem, Paths

SECTORS = MIB // 512
ROOT_UUID = "11111111-2222-3333-4444-555555555555"
ROOT_PARTUUID = "6f8a1f2e-01"
KERNEL = "6.1.0-50-amd64"
MODULES = f"/lib/modules/{KERNEL}"
BIOS_BOOTABLE = BootFacts(has_boot_code=True, has_active_partition=True, has_bios_boot=False, has_esp=False)


def cpio(names: Iterable[str], content: bytes = b"x" * 33) -> bytes:
    """A newc archive of small files."""
    archive = bytearray()
    for name in (*names, "TRAILER!!!"):
        kept = b"" if name == "TRAILER!!!" else content
        path = name.encode() + b"\0"
        numbers = (1, 0o100644, 0, 0, 1, 0, len(kept), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % number for number in numbers) + path
        archive += bytes(-len(archive) % 4) + kept
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


# A Debian that nothing speaks against: each test changes what it is about.
GOOD: Paths = {
    "/bin/sh": ELF_X86,
    "/etc/os-release": 'ID=debian\nVERSION_ID="10"\n',
    "/etc/debian_version": "10.2\n",
    "/etc/fstab": f"UUID={ROOT_UUID} / ext4 defaults 0 1\n",
    "/etc/network/interfaces": "auto lo\niface lo inet loopback\niface ens3 inet dhcp\n",
    "/etc/cloud/cloud.cfg": "users: []\n",
    "/etc/machine-id": "",
    "/etc/ssh/sshd_config": "",
    f"/boot/vmlinuz-{KERNEL}": b"MZ",
    f"/boot/initrd.img-{KERNEL}": cpio(["kernel/drivers/block/virtio_blk.ko.xz"]),
    "/boot/grub/grub.cfg": f"\tlinux /vmlinuz-{KERNEL} root=UUID={ROOT_UUID} ro console=ttyS0,115200\n",
    f"{MODULES}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
    f"{MODULES}/modules.dep": "drivers/block/virtio_blk.ko.xz:\ndrivers/net/virtio_net.ko: x.ko\n",
    "/usr/sbin/qemu-ga": ELF_X86,
}


def place(
    number: int,
    paths: Paths | None,
    *,
    uuid: str = "",
    label: str = "",
    partition_name: str = "",
    content: str = "",
) -> Place:
    """Partition ``number`` with a file system of ``paths``; None: with ``content`` instead."""
    volume = BytesVolume(b"\0" * number)
    partition = Partition(number, number << 20, 1 << 20, "0x83", partition_name, False, volume)
    file_system = None if paths is None else MemoryFileSystem(paths, uuid=uuid, label=label)
    kind = file_system.name if file_system else content
    return Place(f"partition {number}", volume, partition, file_system, kind, "")


def with_partition_uuid(place: Place, uuid: str) -> Place:
    assert place.partition is not None
    return replace(place, partition=replace(place.partition, uuid=uuid))


def guest(
    changes: Paths | None = None,
    *,
    without: Sequence[str] = (),
    others: Sequence[Place] = (),
    ways: BootWays | None = None,
) -> Guest:
    """The good guest with ``changes``, ``without`` some paths, and with ``others`` on its disk."""
    paths = {path: content for path, content in {**GOOD, **(changes or {})}.items() if path not in without}
    root = with_partition_uuid(place(1, paths, uuid=ROOT_UUID), ROOT_PARTUUID)
    places = [root, *others]
    assert root.file_system is not None
    tree, mounts = mounted_tree(root, root.file_system, places)
    identity = identify_linux(tree)
    assert identity is not None
    return Guest(tree, places, mounts, identity, ways or BootWays(BIOS_BOOTABLE))


def folder_of(folder: Path, paths: Mapping[str, Content]) -> Path:
    for path, content in paths.items():
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            place.symlink_to(content.target)
        elif isinstance(content, str | bytes):
            place.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            place.mkdir(exist_ok=True)
    return folder


def ext4(path: Path, paths: Mapping[str, Content], uuid: str = ROOT_UUID, size: str = "8M") -> bytes:
    folder = path.with_suffix(".folder")
    folder.mkdir()
    return whole(make_ext(path, folder_of(folder, paths), "-t", "ext4", "-U", uuid, size=size))


def mbr_disk(*file_systems: bytes, code: bytes = b"boot") -> bytes:
    """Partitions one after another from 1 MiB on, the first one active."""
    entries, first = [], SECTORS
    for number, content in enumerate(file_systems):
        entries.append(mbr_entry(0x83, first, len(content) // 512, 0 if number else 0x80))
        first += len(content) // 512
    return mbr_sector(*entries, code=code).ljust(MIB, b"\0") + b"".join(file_systems)

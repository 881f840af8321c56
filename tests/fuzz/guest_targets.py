"""Targets of `imsd.guest`: each file system, partitions, logical volumes, the registry, whole inspections."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from imsd.guest.btrfs import BtrfsFileSystem
from imsd.guest.budget import Budget, PagedVolume
from imsd.guest.disk import read_layout
from imsd.guest.ext import ExtFileSystem
from imsd.guest.fat import FatFileSystem
from imsd.guest.file_system import FileSystem, FileVolume, Kind, Node, Tree
from imsd.guest.gpt import SECTOR_SIZES
from imsd.guest.gpt import SIGNATURE as GPT_SIGNATURE
from imsd.guest.inspect import inspect
from imsd.guest.iso9660 import Iso9660FileSystem
from imsd.guest.lvm import AREA_MAGIC, LABEL_ID, lvm_checksum, read_logical_volumes
from imsd.guest.ntfs import NtfsFileSystem
from imsd.guest.volume import GuestUnreadable, Volume
from imsd.guest.xfs import XfsFileSystem
from tests.fuzz.target import ACCEPTED, Answer, Target
from tests.unit.guest.btrfs_disks import suse_like, ubuntu_like
from tests.unit.guest.crafted_guest import GOOD, ext4, mbr_disk
from tests.unit.guest.damage import WatchedVolume, look_at_hive
from tests.unit.guest.guest_disks import sound_file_systems, sound_lvm, sound_tables, vector
from tests.unit.guest.windows_disks import SOFTWARE_REG, make_hive, make_windows_volume

MAX_NODES = 100
MAX_READ_BYTES = 16 << 10
PATHS = ("/etc/os-release", "/usr/lib/os-release", "/many/file-with-quite-a-long-name-77")
UNREADABLE = "GUEST_UNREADABLE"


def look(at: Callable[[Volume], object], file: bytes, chosen: random.Random) -> Answer:
    """What ``at`` finds on the volume, or that it cannot be read. Too many reads fail the test."""
    try:
        return Answer(ACCEPTED, at(WatchedVolume(file)))
    except GuestUnreadable as problem:
        words = str(problem)
    assert words, "unreadable without a word"
    return Answer(UNREADABLE)


def explore(reader: type[FileSystem], volume: Volume) -> object:
    """Some of all that a file system holds. What cannot be read is passed over, and raises at the end."""
    opened = reader.open(volume)
    if opened is None:
        raise GuestUnreadable("another file system")
    found: list[tuple[str, object]] = []
    problems: list[str] = []
    for root in opened.roots():
        _explore_root(root, found, problems)
    if problems:
        raise GuestUnreadable(problems[0])
    return opened.label, opened.uuid, list(opened.noticed), found


def _explore_root(system: FileSystem, found: list[tuple[str, object]], problems: list[str]) -> None:
    waiting = [("", system.root())]
    most = len(found) + MAX_NODES
    while waiting and len(found) < most:
        path, directory = waiting.pop()
        try:
            for name, node in islice(system.entries(directory), MAX_NODES):
                found.append((f"{path}/{name}", _content(system, node, problems)))
                if node.kind is Kind.DIRECTORY:
                    waiting.append((f"{path}/{name}", node))
        except GuestUnreadable as problem:
            problems.append(str(problem))
    for path in (*PATHS, *(path for path, _ in found[-3:])):
        try:
            Tree(system).read_text(path)
        except GuestUnreadable as problem:
            problems.append(str(problem))


def _content(system: FileSystem, node: Node, problems: list[str]) -> object:
    try:
        if node.kind is Kind.LINK:
            return system.link_target(node)
        if node.kind is Kind.FILE:
            assert node.size_bytes >= 0
            return _start_and_end(system, node)
    except GuestUnreadable as problem:
        problems.append(str(problem))
    return node.kind


def _start_and_end(system: FileSystem, node: Node) -> int:
    """A checksum of some of a file, which may claim to be large."""
    length = min(node.size_bytes, MAX_READ_BYTES)
    start = system.read(node, 0, length)
    end = system.read(node, node.size_bytes - length, length)
    assert len(start) == len(end) == length, "fewer bytes than were asked for"
    return crc32(start + end)


def _look_at_hive_of(volume: Volume) -> None:
    """The registry inside a volume of Windows, read through its file system."""
    system = NtfsFileSystem.open(volume)
    node = None if system is None else Tree(system).find("/Windows/System32/config/SOFTWARE")
    if system is None or node is None:
        raise GuestUnreadable("no registry")
    look_at_hive(FileVolume(system, node))


def _ntfs(volume: Volume) -> object:
    found = explore(NtfsFileSystem, volume)
    _look_at_hive_of(volume)
    return found


def _layout(volume: Volume) -> object:
    layout = read_layout(volume)
    if layout.table_kind == "none" and not layout.logical_volumes:
        raise GuestUnreadable("no table, no logical volume")
    for place in layout.places:
        if place.volume is not None:
            assert place.volume.size_bytes >= 0
    return layout.table_kind, [(place.name, place.content, place.problem) for place in layout.places]


def _logical_volumes(volume: Volume) -> object:
    found, problems = read_logical_volumes([volume])
    readable = [each.volume for each in found if each.volume is not None]
    if not readable:
        raise GuestUnreadable("; ".join(problems) or "no logical volume")
    for each in readable:
        size = min(each.size_bytes, 1 << 20)
        assert len(each.read(0, size)) == size
        assert len(each.read(each.size_bytes - size, size)) == size
    return [(each.name, each.problem) for each in found]


def inspected(file: bytes, chosen: random.Random) -> Answer:
    """A whole inspection, with the budget of one; it never raises, and hides no defect."""

    def fetch(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert offset + length <= len(file)
        return file[offset : offset + length]

    report = inspect(PagedVolume(len(file), fetch, Budget()))
    for found in report.findings:
        assert "not understood" not in found.message, found.message
        assert "too much memory" not in found.message, found.message
    return Answer(ACCEPTED if report.is_verified else "unknown", report)


# Checksums that the readers prove: of GUID partition tables and of LVM.


def _with_table_checksums(disk: bytearray) -> bytes:
    for sector in SECTOR_SIZES:
        for place in (1, len(disk) // sector - 1):
            _seal_table(disk, sector, place * sector)
    return bytes(disk)


def _seal_table(disk: bytearray, sector: int, at: int) -> None:
    if at < 0 or disk[at : at + len(GPT_SIGNATURE)] != GPT_SIGNATURE or at + 92 > len(disk):
        return
    (first,) = struct.unpack_from("<Q", disk, at + 72)
    count, width = struct.unpack_from("<II", disk, at + 80)
    table = disk[first * sector : first * sector + min(count * width, 1 << 20)]
    struct.pack_into("<I", disk, at + 88, crc32(table))
    (length,) = struct.unpack_from("<I", disk, at + 12)
    struct.pack_into("<I", disk, at + 16, 0)
    struct.pack_into("<I", disk, at + 16, crc32(disk[at : at + min(length, sector)]))


def _with_volume_checksums(disk: bytearray) -> bytes:
    for at in range(0, min(len(disk) - 512, 4 * 512), 512):
        if disk[at : at + 8] == LABEL_ID:
            struct.pack_into("<I", disk, at + 16, lvm_checksum(bytes(disk[at + 20 : at + 512])))
    at = disk.find(AREA_MAGIC) - 4
    if 0 <= at <= len(disk) - 512:
        start, length = struct.unpack_from("<QQ", disk, at + 40)
        text = bytes(disk[at + start : at + start + min(length, 1 << 20)])
        struct.pack_into("<I", disk, at + 56, lvm_checksum(text))
        struct.pack_into("<I", disk, at, lvm_checksum(bytes(disk[at + 4 : at + 512])))
    return bytes(disk)


def _with_all_checksums(disk: bytearray) -> bytes:
    return _with_volume_checksums(bytearray(_with_table_checksums(disk)))


# Seeds.


def _systems(*kinds: str) -> Iterable[bytes]:
    return [sound_file_systems()[kind][1] for kind in kinds]


def _windows() -> bytes:
    with TemporaryDirectory() as directory:
        return make_windows_volume(Path(directory) / "volume", size=4 << 20).read_bytes()


def _hive() -> bytes:
    with TemporaryDirectory() as directory:
        return make_hive(Path(directory) / "hive", SOFTWARE_REG)


def _debian() -> bytes:
    with TemporaryDirectory() as directory:
        return mbr_disk(ext4(Path(directory) / "root", GOOD, size="4M"))


def _btrfs() -> Iterable[bytes]:
    return [ubuntu_like().finish(), suse_like().finish()]


def _looking(name: str, seeds: Callable[[], Iterable[bytes]], at: Callable[[Volume], object]) -> Target:
    return Target(f"guest-{name}", seeds, partial(look, at))


_ALL = (
    _looking("ext", partial(_systems, "ext4", "ext4 inline", "ext2"), partial(explore, ExtFileSystem)),
    _looking(
        "xfs",
        lambda: [*_systems("xfs"), vector("xfs-fragmented.img.gz")],
        partial(explore, XfsFileSystem),
    ),
    _looking("fat", partial(_systems, "vfat"), partial(explore, FatFileSystem)),
    _looking("iso9660", partial(_systems, "iso9660", "joliet"), partial(explore, Iso9660FileSystem)),
    _looking("ntfs", lambda: [_windows()], _ntfs),
    _looking("btrfs", _btrfs, partial(explore, BtrfsFileSystem)),
    _looking("registry", lambda: [_hive()], look_at_hive),
    Target(
        "guest-partitions",
        lambda: sound_tables().values(),
        partial(look, _layout),
        _with_all_checksums,
    ),
    Target("guest-lvm", lambda: [sound_lvm()], partial(look, _logical_volumes), _with_volume_checksums),
    Target(
        "guest-inspect",
        lambda: [_debian(), *_btrfs(), _windows(), *sound_tables().values()],
        inspected,
        _with_all_checksums,
    ),
)

TARGETS = {target.name: target for target in _ALL}

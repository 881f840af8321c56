"""Volumes and disks for the tests of what is inside a disk: made by the systems' own tools, or by hand."""

from __future__ import annotations

import gzip
import os
import random
import re
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from imsd.guest.ext import ExtFileSystem
from imsd.guest.fat import FatFileSystem
from imsd.guest.file_system import FileSystem, Kind, Node, Tree
from imsd.guest.iso9660 import Iso9660FileSystem
from imsd.guest.lvm import AREA_MAGIC, lvm_checksum
from imsd.guest.volume import BytesVolume, Volume
from imsd.guest.xfs import XfsFileSystem

KIB, MIB = 1 << 10, 1 << 20
VECTORS = Path(__file__).with_name("vectors")

OS_RELEASE = b'ID=debian\nVERSION_ID="12"\n'


class CountingVolume(Volume):
    """Another volume, and what was read of it."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.size_bytes = volume.size_bytes
        self.reads = 0
        self.read_bytes = 0

    def _read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        self.read_bytes += length
        return self._volume.read(offset, length)


class _Pieces(Volume):
    def __init__(self, size_bytes: int, pieces: Mapping[int, bytes]) -> None:
        self.size_bytes = size_bytes
        self._pieces = dict(pieces)

    def _read(self, offset: int, length: int) -> bytes:
        found = bytearray(length)
        for place, content in self._pieces.items():
            start, end = max(offset, place), min(offset + length, place + len(content))
            if start < end:
                found[start - offset : end - offset] = content[start - place : end - place]
        return bytes(found)


class SparseVolume(CountingVolume):
    """Zeros but for some pieces, given by their offset."""

    def __init__(self, size_bytes: int, pieces: Mapping[int, bytes]) -> None:
        super().__init__(_Pieces(size_bytes, pieces))


def volume_of(path: Path) -> SparseVolume:
    """The bytes of a file, which may be sparse."""
    pieces: dict[int, bytes] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while place < size:
            try:
                start = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:
                break
            place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            pieces[start] = os.pread(file.fileno(), place - start, start)
    return SparseVolume(size, pieces)


@lru_cache(maxsize=4)
def vector(name: str) -> bytes:
    """An unpacked file of `VECTORS`."""
    return gzip.decompress((VECTORS / name).read_bytes())


def run(*command: str | Path) -> str:
    """What a program prints; fails the test when it fails."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    # mkfs.xfs makes file systems below 300 MB only for its own tests.
    environment = {**os.environ, "PATH": path, "TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.decode()


def sparse(path: Path, size_bytes: int) -> Path:
    """A new file of zeros."""
    path.write_bytes(b"")
    os.truncate(path, size_bytes)
    return path


def sample_tree(folder: Path) -> Path:
    """Files, links and directories that together use most forms a file system has."""
    random_bytes = random.Random(1)
    for name in ("usr/lib", "etc", "many", "a/b/c", "empty"):
        (folder / name).mkdir(parents=True)
    (folder / "usr/lib/os-release").write_bytes(OS_RELEASE)
    (folder / "etc/os-release").symlink_to("../usr/lib/os-release")
    (folder / "etc/absolute").symlink_to("/usr/lib")
    (folder / "long-link").symlink_to("directory/" * 30 + "end")
    (folder / "middle-link").symlink_to("directory/" * 8 + "end")
    (folder / "big").write_bytes(random_bytes.randbytes(400_000))
    (folder / "short").write_bytes(b"x" * 100)
    (folder / "nothing").write_bytes(b"")
    for number in range(300):
        (folder / f"many/file-with-quite-a-long-name-{number}").write_bytes(b"%d" % number)
    return folder


def sparse_sample(path: Path) -> Path:
    """A file with holes at its start, in the middle and between distant blocks."""
    with path.open("wb") as file:
        for place in (70 * KIB, 600 * KIB, 5 * MIB, 20 * MIB):
            file.seek(place)
            file.write(b"%d" % place)
    return path


def on_host(folder: Path) -> dict[str, bytes | str]:
    """All below a folder: the bytes of files, the targets of links after an arrow, '/' for directories."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "/" if path.is_dir() else path.read_bytes()
    return found


def in_guest(file_system: FileSystem) -> dict[str, bytes | str]:
    """The same of a file system, without what mke2fs adds."""
    return {
        name: _shown(file_system, node)
        for name, node in walk(file_system)
        if not name.startswith("lost+found")
    }


def walk(file_system: FileSystem, most: int = 20_000) -> Iterator[tuple[str, Node]]:
    """Paths and nodes of a whole file system, ``most`` at most."""
    waiting = [("", file_system.root())]
    while waiting:
        path, directory = waiting.pop()
        for name, node in file_system.entries(directory):
            most -= 1
            if most < 0:
                return
            full = f"{path}/{name}" if path else name
            yield full, node
            if node.kind is Kind.DIRECTORY:
                waiting.append((full, node))


def _shown(file_system: FileSystem, node: Node) -> bytes | str:
    if node.kind is Kind.DIRECTORY:
        return "/"
    if node.kind is Kind.LINK:
        return f"-> {file_system.link_target(node)}"
    return file_system.read(node, 0, node.size_bytes)


def make_ext(path: Path, folder: Path, *options: str, size: str = "32M") -> SparseVolume:
    """A file system by mke2fs with all of ``folder``."""
    run("mke2fs", "-q", "-F", *options, "-d", folder, path, size)
    return volume_of(path)


def make_xfs(path: Path, folder: Path, *options: str, size_bytes: int = 24 * MIB) -> SparseVolume:
    """A file system by mkfs.xfs with all of ``folder``; names must have no blanks."""
    proto = path.with_suffix(".proto")
    proto.write_text("\n".join(["/", "0 0", "d--755 0 0", *_proto_lines(folder), "$", ""]))
    run("mkfs.xfs", "-q", "-f", *options, "-p", proto, sparse(path, size_bytes))
    return volume_of(path)


def _proto_lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            yield f"{path.name} l--777 0 0 {os.readlink(path)}"
        elif path.is_dir():
            yield f"{path.name} d--755 0 0"
            yield from _proto_lines(path)
            yield "$"
        else:
            yield f"{path.name} ---644 0 0 {path}"


def make_fat(path: Path, folder: Path, *options: str, size_bytes: int) -> SparseVolume:
    """A file system by mkfs.fat with all of ``folder``."""
    run("mkfs.fat", *options, sparse(path, size_bytes))
    if entries := sorted(folder.iterdir()):
        run("mcopy", "-s", "-i", path, *entries, "::/")
    return volume_of(path)


def make_iso(path: Path, folder: Path, *options: str) -> SparseVolume:
    """A disc by genisoimage with all of ``folder``."""
    run("genisoimage", "-quiet", *options, "-o", path, folder)
    return volume_of(path)


# Small sound disks, to be damaged.


def sound_gpt(size_bytes: int = MIB, sector: int = 512, entries: Sequence[bytes] = ()) -> bytearray:
    """A disk with a protective MBR, a GUID table of ``entries`` and its copy."""
    disk = bytearray(size_bytes)
    disk[446:512] = mbr_entry(0xEE, 1, size_bytes // 512 - 1) + bytes(48) + b"\x55\xaa"
    table = b"".join(entries).ljust(128 * 128, b"\0")
    last = size_bytes // sector - 1
    table_sectors = len(table) // sector
    for place, other, table_place in ((1, last, 2), (last, 1, last - table_sectors)):
        disk[table_place * sector : table_place * sector + len(table)] = table
        header = gpt_header((place, other, table_place), crc32(table), 128)
        disk[place * sector : place * sector + len(header)] = header
    return disk


def gpt_header(places: tuple[int, int, int], table_checksum: int, count: int, width: int = 128) -> bytes:
    """A header; ``places``: of itself, of the other one, of the entries, in sectors."""
    fields = (b"EFI PART", 0x10000, 92, 0, 0, places[0], places[1], 34, 1 << 20, b"G" * 16)
    header = struct.pack("<8sIIIIQQQQ16s", *fields)
    header += struct.pack("<QIII", places[2], count, width, table_checksum)
    return header[:16] + struct.pack("<I", crc32(header)) + header[20:]


def gpt_entry(type_guid: bytes, first: int, last: int, name: str = "", attributes: int = 0) -> bytes:
    """One entry of a GUID table; places in sectors."""
    head = struct.pack("<16s16sQQQ", type_guid, b"P" * 16, first, last, attributes)
    return head + name.encode("utf-16-le").ljust(72, b"\0")


def mbr_entry(kind: int, first: int, count: int, status: int = 0) -> bytes:
    """One entry of a master boot record; places in sectors."""
    return struct.pack("<B3xB3xII", status, kind, first, count)


def mbr_sector(*entries: bytes, code: bytes = b"") -> bytes:
    """A master or extended boot record."""
    return code.ljust(446, b"\0") + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def physical_volume(text: bytes, *, identity: bytes = b"A" * 32, size_bytes: int = 8 * MIB) -> bytes:
    """The first MiB of a physical volume of LVM2, with ``text`` as its description."""
    area = bytearray(MIB - 4 * KIB)
    area[512 : 512 + len(text)] = text
    header = AREA_MAGIC + struct.pack("<IQQ", 1, 4 * KIB, len(area))
    header += struct.pack("<QQII", 512, len(text), lvm_checksum(text), 0)
    header = header.ljust(508, b"\0")
    area[:512] = struct.pack("<I", lvm_checksum(header)) + header
    content = identity + struct.pack("<QQQQQ", size_bytes, MIB, 0, 0, 0)
    content += struct.pack("<QQQQ", 4 * KIB, len(area), 0, 0)
    label = (struct.pack("<I8s", 32, b"LVM2 001") + content).ljust(492, b"\0")
    sector = b"LABELONE" + struct.pack("<QI", 1, lvm_checksum(label)) + label
    return bytes(512) + sector + bytes(3 * KIB) + bytes(area)


def group_text(logical: str, *, devices: Sequence[str] = ("A" * 32,), number: int = 1) -> bytes:
    """The description of a volume group ``vg`` with extents of 64 KiB."""
    physical = "\n".join(
        f'pv{index} {{ id = "{identity}"\n pe_start = 2048\n pe_count = 64 }}'
        for index, identity in enumerate(devices)
    )
    return (
        f'vg {{\nid = "group"\nseqno = {number}\nstatus = ["RESIZEABLE", "READ"] # a comment\n'
        f"extent_size = 128\nphysical_volumes {{\n{physical}\n}}\nlogical_volumes {{\n{logical}\n}}\n}}\n"
        'contents = "Text Format Volume Group"\nversion = 1\ndescription = "say \\"hello\\""\n\0'
    ).encode()


def logical_text(name: str, *segments: str, status: str = '"READ", "VISIBLE"') -> str:
    """One logical volume of a group."""
    parts = "\n".join(f"segment{n} {{\n{segment}\n}}" for n, segment in enumerate(segments, 1))
    return f'{name} {{\nid = "{name}"\nstatus = [{status}]\nsegment_count = {len(segments)}\n{parts}\n}}'


def segment_text(start: int, count: int, stripes: Sequence[tuple[str, int]], more: str = "") -> str:
    """One segment of a logical volume, linear or striped; counts in extents."""
    places = ", ".join(f'"{device}", {first}' for device, first in stripes)
    return (
        f'start_extent = {start}\nextent_count = {count}\ntype = "striped"\n'
        f"stripe_count = {len(stripes)}\nstripe_size = 8\nstripes = [ {places} ]\n{more}"
    )


@lru_cache(maxsize=1)
def sound_file_systems() -> dict[str, tuple[type[FileSystem], bytes]]:
    """One small file system of each kind, with its reader."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        tree = sample_tree(folder / "tree")
        # Mostly structures, which is what damage is about.
        (tree / "big").write_bytes(b"big" * 7000)
        sparse_sample(tree / "sparse")
        ext4 = ("-t", "ext4", "-b", "1024", "-N", "400")
        boot = ("-b", "big", "-no-emul-boot", "-c", "boot.cat")
        volumes: dict[str, tuple[type[FileSystem], Volume]] = {
            "ext4": (ExtFileSystem, make_ext(folder / "1", tree, *ext4, size="4M")),
            "ext4 inline": (
                ExtFileSystem,
                make_ext(folder / "2", tree, *ext4, "-O", "inline_data", size="4M"),
            ),
            "ext2": (ExtFileSystem, make_ext(folder / "3", tree, "-t", "ext2", "-b", "1024", size="4M")),
        }
        (tree / "sparse").unlink()
        volumes["iso9660"] = Iso9660FileSystem, make_iso(folder / "4", tree, "-R", *boot)
        volumes["xfs"] = XfsFileSystem, make_xfs(folder / "5", tree, "-b", "size=1024", size_bytes=16 * MIB)
        for path in [path for path in tree.rglob("*") if path.is_symlink()]:
            path.unlink()
        volumes["joliet"] = Iso9660FileSystem, make_iso(folder / "6", tree, "-J")
        fat = ("-F", "16", "-s", "1")
        volumes["vfat"] = FatFileSystem, make_fat(folder / "7", tree, *fat, size_bytes=8 * MIB)
        return {kind: (reader, whole(volume)) for kind, (reader, volume) in volumes.items()}


def whole(volume: Volume) -> bytes:
    """All bytes of a volume."""
    return volume.read(0, volume.size_bytes)


def sound_mbr() -> bytes:
    """A disk with a primary partition and a chain of three logical ones."""
    disk = bytearray(MIB)
    disk[:512] = mbr_sector(mbr_entry(0x83, 8, 100, 0x80), mbr_entry(0x0F, 200, 800), code=b"code")
    for place, following in ((200, 40), (240, 80), (280, 0)):
        link = mbr_entry(0x05, following, 40) if following else bytes(16)
        disk[place * 512 : place * 512 + 512] = mbr_sector(mbr_entry(0x83, 1, 30), link)
    return bytes(disk)


def sound_lvm() -> bytes:
    """A disk that is a physical volume, with two logical ones."""
    segments = (segment_text(0, 8, [("pv0", 0)]), segment_text(8, 4, [("pv0", 20), ("pv0", 30)]))
    logical = logical_text("root", *segments) + "\n" + logical_text("swap", segment_text(0, 3, [("pv0", 40)]))
    return physical_volume(group_text(logical)) + bytes(4 * MIB)


@lru_cache(maxsize=1)
def sound_tables() -> dict[str, bytes]:
    """Small disks with each kind of table, and one with logical volumes."""
    entries = [gpt_entry(b"\1" * 16, 64 + 10 * n, 73 + 10 * n, f"part {n}") for n in range(20)]
    return {
        "gpt": bytes(sound_gpt(entries=entries)),
        "gpt of 4096": bytes(sound_gpt(sector=4096, entries=entries)),
        "mbr": sound_mbr(),
        "lvm": sound_lvm(),
    }


@lru_cache(maxsize=16)
def used_places(content: bytes) -> list[int]:
    """Where bytes are that are not zero."""
    return [match.start() for match in re.finditer(rb"[^\0]", content)]


def damaged(sound: bytes, seed: int, share: float) -> BytesVolume:
    """A copy with a ``share`` of the bytes that are not zero changed at random."""
    chance = random.Random(seed)
    content = bytearray(sound)
    places = used_places(sound)
    for place in chance.sample(places, max(1, int(len(places) * share))):
        content[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return BytesVolume(bytes(content))


def look_at_all(file_system: FileSystem, most: int = 400) -> int:
    """Lists, reads and resolves what there is, ``most`` nodes at most; how many nodes there were."""
    tree = Tree(file_system)
    count = 0
    for path, node in walk(file_system, most):
        count += 1
        if count % 16 == 1:  # the way there costs the more the deeper it is
            tree.find(path)
        if node.kind is Kind.LINK:
            file_system.link_target(node)
        elif node.kind is Kind.FILE:
            file_system.read(node, 0, min(node.size_bytes, 64 * KIB))
    return count

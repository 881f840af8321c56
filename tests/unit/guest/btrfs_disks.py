"""btrfs volumes: made by mkfs.btrfs from a directory, or crafted with subvolumes and compressed extents.

The crafted ones are as btrfs-progs want them: `btrfs restore` and `btrfs inspect-internal` read them.
"""

from __future__ import annotations

import stat
import struct
import zlib
from pathlib import Path

import zstandard

from imsd.guest.crc32c import crc32c
from tests.unit.guest.debian_tools import run_tool

KIB, MIB = 1 << 10, 1 << 20

TOP_LEVEL, ROOT_DIRECTORY = 5, 256
ROOT_TREE, EXTENT_TREE, CHUNK_TREE, DEVICE_TREE, CHECKSUM_TREE = 1, 2, 3, 4, 7
INODE_ITEM, INODE_REF, DIRECTORY_ITEM, DIRECTORY_INDEX, EXTENT_DATA = 1, 12, 84, 96, 108
ROOT_ITEM, ROOT_BACKREF, ROOT_REF, DEVICE_ITEM, CHUNK_ITEM = 132, 144, 156, 216, 228
FILE, DIRECTORY, LINK = 1, 2, 7
GENERATION = 9
UUID = bytes(range(16))

# Logical start, place on the disk, length, kind (data 1, system 2, metadata 4).
SYSTEM_CHUNK = (1 * MIB, 1 * MIB, 256 * KIB, 2)
METADATA_CHUNK = (30 * MIB, 2 * MIB, 2 * MIB, 4)
DATA_CHUNK = (80 * MIB, 4 * MIB, 4 * MIB, 1)
DISK_BYTES = 8 * MIB
FEATURES = 0x1 | 0x2 | 0x8 | 0x10 | 0x40 | 0x200  # up to and with NO_HOLES

Item = tuple[tuple[int, int, int], bytes]


def make_btrfs(path: Path, content: Path, *options: str, size: int = 128 * MIB) -> Path:
    """A volume in a file with what is in a directory."""
    with path.open("wb") as file:
        file.truncate(size)
    run_tool("mkfs.btrfs", "-q", "-f", "-r", content, *options, path)
    return path


def name_hash(name: bytes) -> int:
    return crc32c(name, 0xFFFFFFFE)


def checksum(content: bytes) -> bytes:
    return struct.pack("<I", crc32c(content, 0xFFFFFFFF) ^ 0xFFFFFFFF).ljust(32, b"\0")


def inode_item(mode: int, size: int) -> bytes:
    head = struct.pack("<QQQQQIIIIQQQ", GENERATION, GENERATION, size, size, 0, 1, 0, 0, mode, 0, 0, 0)
    return head.ljust(160, b"\0")


def chunk_item(kind: int, length: int, places: list[int], device: int = 1) -> bytes:
    head = struct.pack("<QQQQIIIHH", length, 2, 64 * KIB, kind, 4096, 4096, 4096, len(places), 1)
    return head + b"".join(struct.pack("<QQ", device, place) + UUID for place in places)


def directory_entry(target: tuple[int, int, int], name: bytes, kind: int) -> bytes:
    return struct.pack("<QBQQHHB", *target, GENERATION, 0, len(name), kind) + name


def lzo_stream(content: bytes) -> bytes:
    """LZO1X of at most a sector: runs of literals and far or near matches, found greedily."""
    out = bytearray()
    seen: dict[bytes, int] = {}
    literals = bytearray()
    position = 0

    def flush() -> None:
        if not literals:
            return
        count = len(literals)
        if not out and count <= 238:
            out.append(count + 17)
        elif out and count <= 3:
            out[-2] |= count
        elif count <= 18:
            out.append(count - 3)
        else:
            zeros, rest = divmod(count - 19, 255)
            out.extend(b"\0" * (zeros + 1) + bytes([rest + 1]))
        out.extend(literals)
        literals.clear()

    while position < len(content):
        start = seen.get(content[position : position + 4], -1)
        length = 0
        while start >= 0 and position + length < len(content) and length < 264:
            if content[start + length] != content[position + length]:
                break
            length += 1
        seen[content[position : position + 4]] = position
        if length < 4 or not (out or literals):
            literals.append(content[position])
            position += 1
            continue
        flush()
        # At least 3 bytes: 001LLLLL, then 14 bits of the distance.
        out.extend(bytes([0x20 | length - 2]) if length <= 33 else bytes([0x20, length - 33]))
        out.extend(struct.pack("<H", position - start - 1 << 2))
        position += length
    flush()
    return bytes(out) + b"\x11\0\0"


def lzo_extent(content: bytes, sector: int = 4096) -> bytes:
    out = bytearray(4)
    for start in range(0, len(content), sector):
        stream = lzo_stream(content[start : start + sector])
        left = -len(out) % sector
        out += bytes(left) if left < 4 else b""
        out += struct.pack("<I", len(stream)) + stream
    struct.pack_into("<I", out, 0, len(out))
    return bytes(out)


def compressed(content: bytes, compression: int) -> bytes:
    """1 zlib, 2 LZO, 3 zstd."""
    if compression == 1:
        return zlib.compress(content)
    if compression == 2:
        return lzo_extent(content)
    return zstandard.ZstdCompressor(write_content_size=False).compress(content) if compression else content


class SubvolumeWriter:
    """The tree of one subvolume."""

    def __init__(self, disk: BtrfsWriter, number: int) -> None:
        self.disk = disk
        self.number = number
        self.items: list[Item] = []
        self._inodes = {"": ROOT_DIRECTORY}
        self._children: dict[int, int] = {}
        self._names: dict[tuple[int, int], bytes] = {}
        self.items.append(((ROOT_DIRECTORY, INODE_ITEM, 0), inode_item(stat.S_IFDIR | 0o755, 0)))
        self.items.append(((ROOT_DIRECTORY, INODE_REF, ROOT_DIRECTORY), struct.pack("<QH", 0, 2) + b".."))

    def directory(self, path: str) -> int:
        if path not in self._inodes:
            self._inodes[path] = self._create(path, stat.S_IFDIR | 0o755, DIRECTORY, 0)
        return self._inodes[path]

    def file(self, path: str, content: bytes, *, compression: int = 0, is_inline: bool = False) -> int:
        """A file in extents of at most 128 KiB; those of zeros are left out."""
        inode = self._create(path, stat.S_IFREG | 0o644, FILE, len(content))
        if is_inline:
            self._inline(inode, content, compression)
            return inode
        for start in range(0, len(content), 128 * KIB):
            piece = content[start : start + 128 * KIB]
            if piece.strip(b"\0"):
                padded = piece.ljust(-(-len(piece) // 4096) * 4096, b"\0")
                self.extent(inode, start, padded, compression=compression)
        return inode

    def extent(
        self, inode: int, start: int, content: bytes, *, compression: int = 0, kind: int = 1, part: int = 0
    ) -> None:
        """An extent; ``part``: bytes of its content that the file leaves out at the beginning."""
        stored = compressed(content, compression)
        stored = stored.ljust(-(-len(stored) // 4096) * 4096, b"\0")
        place = self.disk.add_data(stored)
        item = struct.pack("<QQBBHB", GENERATION, len(content), compression, 0, 0, kind)
        item += struct.pack("<QQQQ", place, len(stored), part, len(content) - part)
        self.items.append(((inode, EXTENT_DATA, start), item))

    def link(self, path: str, target: str) -> int:
        content = target.encode()
        inode = self._create(path, stat.S_IFLNK | 0o777, LINK, len(content))
        self._inline(inode, content, 0)
        return inode

    def subvolume(self, path: str, number: int) -> SubvolumeWriter:
        """A new subvolume below this one."""
        parent, _, name = path.rpartition("/")
        directory, index = self.directory(parent), self._next_index(self.directory(parent))
        self._enter(directory, index, (number, ROOT_ITEM, (1 << 64) - 1), name.encode(), DIRECTORY)
        reference = struct.pack("<QQH", directory, index, len(name.encode())) + name.encode()
        self.disk.root_items.append(((self.number, ROOT_REF, number), reference))
        self.disk.root_items.append(((number, ROOT_BACKREF, self.number), reference))
        return self.disk.add_subvolume(number)

    def _inline(self, inode: int, content: bytes, compression: int) -> None:
        item = struct.pack("<QQBBHB", GENERATION, len(content), compression, 0, 0, 0)
        self.items.append(((inode, EXTENT_DATA, 0), item + compressed(content, compression)))

    def _create(self, path: str, mode: int, kind: int, size: int) -> int:
        parent, _, name = path.rpartition("/")
        directory = self.directory(parent)
        inode = self.disk.next_inode()
        index = self._next_index(directory)
        stored = name.encode("utf-8", "surrogateescape")
        self.items.append(((inode, INODE_ITEM, 0), inode_item(mode, size)))
        reference = struct.pack("<QH", index, len(stored)) + stored
        self.items.append(((inode, INODE_REF, directory), reference))
        self._enter(directory, index, (inode, INODE_ITEM, 0), stored, kind)
        return inode

    def _enter(
        self, directory: int, index: int, target: tuple[int, int, int], name: bytes, kind: int
    ) -> None:
        entry = directory_entry(target, name, kind)
        self.items.append(((directory, DIRECTORY_INDEX, index), entry))
        key = (directory, DIRECTORY_ITEM, name_hash(name))
        # Names whose hashes are equal share an item.
        old = b"".join(content for found, content in self.items if found == key)
        self.items = [item for item in self.items if item[0] != key]
        self.items.append((key, old + entry))

    def _next_index(self, directory: int) -> int:
        self._children[directory] = self._children.get(directory, 1) + 1
        return self._children[directory]


class BtrfsWriter:
    """A volume of 8 MiB, put together in memory."""

    def __init__(self, *, node_bytes: int = 16 * KIB) -> None:
        self._node_bytes = node_bytes
        self._disk = bytearray(DISK_BYTES)
        self._next = {2: SYSTEM_CHUNK[0], 4: METADATA_CHUNK[0], 1: DATA_CHUNK[0]}
        self._inode = ROOT_DIRECTORY
        self._subvolumes: dict[int, SubvolumeWriter] = {}
        self.root_items: list[Item] = []
        self.default = TOP_LEVEL
        self.superblock: dict[int, bytes] = {}  # fields to change, by their offsets
        self.top_level = self.add_subvolume(TOP_LEVEL)

    def add_subvolume(self, number: int) -> SubvolumeWriter:
        self._subvolumes[number] = SubvolumeWriter(self, number)
        return self._subvolumes[number]

    def next_inode(self) -> int:
        self._inode += 1
        return self._inode

    def add_data(self, content: bytes) -> int:
        """The logical address of new bytes."""
        return self._add(DATA_CHUNK, content)

    def finish(self) -> bytes:
        """The whole volume."""
        items = [*self.root_items]
        for number, subvolume in self._subvolumes.items():
            items.append(self._root_item(number, subvolume.items))
        for number in (EXTENT_TREE, DEVICE_TREE, CHECKSUM_TREE):
            items.append(self._root_item(number, []))
        entry = directory_entry((self.default, ROOT_ITEM, (1 << 64) - 1), b"default", DIRECTORY)
        items.append(((6, INODE_ITEM, 0), inode_item(stat.S_IFDIR | 0o755, 0)))
        items.append(((6, DIRECTORY_ITEM, name_hash(b"default")), entry))
        root = self._tree(ROOT_TREE, items, METADATA_CHUNK)
        first = self._chunk(SYSTEM_CHUNK)
        chunks = [first, self._chunk(METADATA_CHUNK), self._chunk(DATA_CHUNK)]
        chunk_items = [((1, DEVICE_ITEM, 1), self._device_item()), *chunks]
        chunk_root = self._tree(CHUNK_TREE, chunk_items, SYSTEM_CHUNK)
        self._write_superblock(root, chunk_root, first)
        return bytes(self._disk)

    def _chunk(self, chunk: tuple[int, int, int, int]) -> Item:
        start, place, length, kind = chunk
        return (256, CHUNK_ITEM, start), chunk_item(kind, length, [place])

    def _device_item(self) -> bytes:
        return (
            struct.pack("<QQQIIIQQQIBB", 1, DISK_BYTES, DISK_BYTES, 4096, 4096, 4096, 0, 0, 0, 0, 0, 0)
            + 2 * UUID
        )

    def _root_item(self, number: int, items: list[Item]) -> Item:
        place, level = self._tree(number, items, METADATA_CHUNK)
        body = inode_item(stat.S_IFDIR | 0o755, 0)
        directory = ROOT_DIRECTORY if number == TOP_LEVEL or number >= 256 else 0
        body += struct.pack("<QQQQQQQI", GENERATION, directory, place, 0, 0, 0, 0, 1)
        body += bytes(17) + bytes([0, level]) + struct.pack("<Q", GENERATION)
        return (number, ROOT_ITEM, 0), body.ljust(439, b"\0")

    def _tree(self, owner: int, items: list[Item], chunk: tuple[int, int, int, int]) -> tuple[int, int]:
        """Place and level of a new tree's root."""
        pointers: list[Item] = []
        leaf: list[Item] = []
        room = self._node_bytes - 101
        for item in [*sorted(items), None]:
            used = sum(25 + len(content) for _, content in leaf)
            if item is None or used + 25 + len(item[1]) > room:
                place = self._node(owner, 0, leaf, chunk)
                pointers.append((leaf[0][0] if leaf else (0, 0, 0), struct.pack("<QQ", place, GENERATION)))
                leaf = []
            if item is not None:
                leaf.append(item)
        level = 0
        while len(pointers) > 1:
            level += 1
            most = room // 33
            groups = [pointers[start : start + most] for start in range(0, len(pointers), most)]
            places = [self._node(owner, level, group, chunk) for group in groups]
            pointers = [
                (group[0][0], struct.pack("<QQ", place, GENERATION))
                for group, place in zip(groups, places, strict=True)
            ]
        return struct.unpack_from("<Q", pointers[0][1])[0], level

    def _node(self, owner: int, level: int, items: list[Item], chunk: tuple[int, int, int, int]) -> int:
        place = self._add(chunk, bytes(self._node_bytes))
        head = (
            UUID
            + struct.pack("<QQ", place, 1)
            + UUID
            + struct.pack("<QQIB", GENERATION, owner, len(items), level)
        )
        body = bytearray(self._node_bytes - 101)
        end = len(body)
        for index, (key, content) in enumerate(items):
            if level:
                struct.pack_into("<QBQ16s", body, index * 33, *key, content)
                continue
            end -= len(content)
            struct.pack_into("<QBQII", body, index * 25, *key, end, len(content))
            body[end : end + len(content)] = content
        node = head + bytes(body)
        start = chunk[1] + place - chunk[0]
        self._disk[start : start + self._node_bytes] = checksum(node) + node
        return place

    def _add(self, chunk: tuple[int, int, int, int], content: bytes) -> int:
        start, place, length, kind = chunk
        logical = self._next[kind]
        self._next[kind] += len(content)
        assert self._next[kind] <= start + length, "the disk is full"
        self._disk[place + logical - start : place + logical - start + len(content)] = content
        return logical

    def _write_superblock(self, root: tuple[int, int], chunks: tuple[int, int], first: Item) -> None:
        (place, level), (chunk_place, chunk_level) = root, chunks
        array = struct.pack("<QBQ", *first[0]) + first[1]
        body = UUID + struct.pack("<QQ8sQ", 64 * KIB, 1, b"_BHRfS_M", GENERATION)
        body += struct.pack("<QQQQ", place, chunk_place, 0, 0)
        body += struct.pack("<QQQQ", DISK_BYTES, MIB, 6, 1)
        body += struct.pack("<IIIII", 4096, self._node_bytes, self._node_bytes, 4096, len(array))
        body += struct.pack("<QQQQHBBB", GENERATION, 0, 0, FEATURES, 0, level, chunk_level, 0)
        body += self._device_item() + b"Crafted".ljust(256, b"\0")
        body = (body.ljust(0x32B - 32, b"\0") + array).ljust(4096 - 32, b"\0")
        content = bytearray(bytes(32) + body)
        for offset, field in self.superblock.items():
            content[offset : offset + len(field)] = field
        self._disk[64 * KIB : 68 * KIB] = checksum(bytes(content[32:])) + content[32:]


def text(length: int) -> bytes:
    """Bytes that compress well, and differ from sector to sector."""
    return b"".join(
        b"line %d of a file, and again %d\n" % (number, number % 7) for number in range(length // 20)
    )[:length]


def ubuntu_like() -> BtrfsWriter:
    """The system in a subvolume named @, as Ubuntu lays it out; the default is the top level."""
    writer = BtrfsWriter()
    system = writer.top_level.subvolume("@", 256)
    writer.top_level.subvolume("@home", 257).file("user/.profile", b"export A=1\n", is_inline=True)
    system.file("etc/os-release", b'ID=ubuntu\nVERSION_ID="24.04"\n', is_inline=True)
    system.file("etc/fstab", b"UUID=1 / btrfs subvol=@ 0 0\n", compression=1, is_inline=True)
    system.link("bin", "usr/bin")
    for number, name in enumerate(("plain", "zlib", "lzo", "zstd")):
        system.file(f"usr/bin/{name}", text(300_000), compression=number)
    return writer


def suse_like() -> BtrfsWriter:
    """The system in a snapshot that is the default subvolume, as openSUSE and SLES lay it out."""
    writer = BtrfsWriter(node_bytes=4 * KIB)
    at = writer.top_level.subvolume("@", 256)
    snapshots = at.subvolume(".snapshots", 258)
    system = snapshots.subvolume("1/snapshot", 259)
    at.subvolume("usr/local", 260).file("share/note", b"local")
    system.file("usr/lib/os-release", b'ID=sles\nVERSION_ID="15.5"\n', compression=3, is_inline=True)
    system.link("etc/os-release", "../usr/lib/os-release")
    for number in range(200):
        system.file(f"etc/many/file {number}", b"%d\n" % number, is_inline=True)
    writer.default = 259
    return writer

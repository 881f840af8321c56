"""btrfs: what Linux, mkfs.btrfs and a crafted volume hold is read; what is damaged or winding is refused."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from imsd.guest.btrfs import BtrfsFileSystem, Subvolume
from imsd.guest.btrfs_layout import MAX_CHUNKS
from imsd.guest.btrfs_trees import LogicalSpace
from imsd.guest.crc32c import crc32c
from imsd.guest.file_system import Kind, Tree
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.btrfs_disks import (
    DATA_CHUNK,
    METADATA_CHUNK,
    BtrfsWriter,
    chunk_item,
    make_btrfs,
    name_hash,
    suse_like,
    text,
    ubuntu_like,
)
from tests.unit.guest.damage import WatchedVolume, look_at_btrfs, survives_damage, visit
from tests.unit.guest.debian_tools import run_tool

VECTOR = Path(__file__).parent / "vectors" / "btrfs-linux.img.zst"
SUPER = 64 << 10


def opened(content: bytes | bytearray | Path) -> BtrfsFileSystem:
    found = BtrfsFileSystem.open(
        WatchedVolume(content.read_bytes() if isinstance(content, Path) else content)
    )
    assert found is not None
    return found


@pytest.fixture(scope="module")
def of_linux() -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(VECTOR.read_bytes()) as reader:
        return reader.read()


@pytest.fixture(scope="module")
def ubuntu() -> bytes:
    return ubuntu_like().finish()


@pytest.fixture(scope="module")
def suse() -> bytes:
    return suse_like().finish()


def test_what_linux_writes_is_read(of_linux: bytes) -> None:
    system = opened(of_linux)
    tree = Tree(system)
    lines = b"".join(b"line %d of a file, and again %d\n" % (n, n % 7) for n in range(20_000))[:300_000]
    assert (system.label, system.uuid) == ("Kernel", "12345678-1234-1234-1234-123456789abc")
    assert tree.read_text("/etc/os-release") == 'ID=opensuse-leap\nVERSION_ID="15.6"\n'
    assert tree.read_file("/data/zlib") == lines[:150_000] + b"overwritten" + lines[150_011:]
    assert tree.read_file("/data/lzo") == tree.read_file("/data/zstd") == lines
    assert tree.read_file("/data/reflink") == lines
    holes = b"begin".ljust(1_000_000, b"\0") + b"middle"
    assert tree.read_file("/data/holes") == holes.ljust(1_500_000, b"\0")
    assert tree.read_file("/data/preallocated") == (bytes(100_000) + b"x" * 5000).ljust(400_000, b"\0")
    plain = bytes(range(256)) * 100
    assert tree.read_file("/data/hardlink") == plain[:6000] + b"over" + plain[6004:]
    kinds = {name: node.kind for name, node in tree.list("/data")}
    assert (kinds["null"], kinds["pipe"]) == (Kind.OTHER, Kind.OTHER)
    assert tree.read_text("/data/name 29") == "29"


def test_subvolumes_of_linux_are_found(of_linux: bytes) -> None:
    system = opened(of_linux)
    assert [subvolume.path for subvolume in system.subvolumes()] == [
        "@",
        "@/.snapshots",
        "@/.snapshots/1/snapshot",
        "@home",
    ]
    at = system.open_subvolume("/@")
    assert at is not None
    assert Tree(at).find("/data/plain") is not None
    assert Tree(at).find("/etc/changed") is None
    assert Tree(system).find("/data/plain") is None
    assert Tree(system).read_text("/etc/changed") == "changed\n"
    assert Tree(at).read_text("/.snapshots/1/snapshot/etc/changed") == "changed\n"


@pytest.mark.parametrize(
    "options",
    [
        ("-n", "4096"),
        ("-n", "16384", "-m", "single"),
        ("-n", "65536"),
        ("-M",),
        ("--csum", "sha256"),
        ("-O", "^no-holes"),
    ],
    ids=str,
)
def test_what_mkfs_writes_is_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    (source / "many").mkdir()
    expected = {f"many/file {number}": b"%d" % number for number in range(300)}
    expected |= {"etc/os-release": b"ID=debian\n", "large": random.Random(1).randbytes(700_001)}
    for name, content in expected.items():
        (source / name).write_bytes(content)
    (source / "etc/link").symlink_to("/etc/os-release")
    system = opened(make_btrfs(tmp_path / "a.img", source, "-L", "Größe", *options))
    tree = Tree(system)
    assert {name: tree.read_file(name) for name in expected} == expected
    assert sorted(f"many/{name}" for name, _ in tree.list("/many")) == sorted(
        name for name in expected if name.startswith("many")
    )
    assert tree.read_text("/etc/link") == "ID=debian\n"
    assert (system.label, system.noticed, system.subvolumes()) == ("Größe", (), [])
    node = tree.find("/large")
    assert node is not None
    assert system.read(node, 123_456, 100_000) == expected["large"][123_456:223_456]
    assert system.read(node, 700_000, 10) == expected["large"][-1:]
    assert system.read(node, 700_001, 10) == b""


@pytest.mark.parametrize("make", [ubuntu_like, suse_like])
def test_the_crafted_volumes_are_what_btrfs_progs_read(
    tmp_path: Path, make: Callable[[], BtrfsWriter]
) -> None:
    content = make().finish()
    (tmp_path / "a.img").write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()
    run_tool("btrfs", "restore", "-S", "-s", tmp_path / "a.img", out)
    top = opened(content).open_subvolume("")
    assert top is not None
    files = [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]
    read = {str(path): Tree(top).read_file(str(path.relative_to(out))) for path in files}
    assert read == {str(path): path.read_bytes() for path in files}
    assert len(files) > 4


def test_the_root_in_a_subvolume_is_found(ubuntu: bytes) -> None:
    system = opened(ubuntu)
    assert Tree(system).find("/etc/os-release") is None
    assert system.subvolumes() == [Subvolume(256, "@"), Subvolume(257, "@home")]
    releases = [Tree(seen_from).read_text("/etc/os-release") for seen_from in system.roots()]
    assert releases == [None, 'ID=ubuntu\nVERSION_ID="24.04"\n', None]
    assert system.open_subvolume("@/etc") is None
    assert system.open_subvolume("@/etc/fstab") is None
    assert system.open_subvolume("nothing") is None


def test_the_default_subvolume_is_the_root(suse: bytes) -> None:
    volume = WatchedVolume(suse)
    system = BtrfsFileSystem.open(volume)
    assert system is not None
    tree = Tree(system)
    assert tree.read_text("/etc/os-release") == 'ID=sles\nVERSION_ID="15.5"\n'
    assert len(volume.reads) < 20
    assert tree.read_text("/etc/many/file 123") == "123\n"
    assert [seen_from.subvolume for seen_from in system.roots()] == [259, 256, 260]


@pytest.mark.parametrize("name", ["plain", "zlib", "lzo", "zstd"])
@pytest.mark.parametrize(("offset", "length"), [(0, 300_000), (130_000, 5000), (299_999, 9), (4095, 2)])
def test_compressed_files_are_read_in_parts(ubuntu: bytes, name: str, offset: int, length: int) -> None:
    system = opened(ubuntu)
    node = Tree(system).find(f"/@/bin/{name}")
    assert node is not None
    assert system.read(node, offset, length) == text(300_000)[offset : offset + length]


@pytest.mark.parametrize("compression", [0, 1, 2, 3])
def test_extents_may_begin_inside_their_content(compression: int) -> None:
    writer = BtrfsWriter()
    content = random.Random(2).randbytes(9000) + text(7384)
    inode = writer.top_level.file("file", bytes(20_480))
    writer.top_level.extent(inode, 4096, content, compression=compression, part=8192)
    writer.top_level.extent(inode, 16_384, b"never read".ljust(4096), kind=2)
    expected = (bytes(4096) + content[8192:]).ljust(20_480, b"\0")
    assert Tree(opened(writer.finish())).read_file("/file") == expected


def test_names_of_equal_hash_are_told_apart() -> None:
    names = colliding_names()
    assert name_hash(names[0].encode()) == name_hash(names[1].encode())
    writer = BtrfsWriter()
    for name in names:
        writer.top_level.file(name, name.encode(), is_inline=True)
    tree = Tree(opened(writer.finish()))
    assert [tree.read_text(name) for name in names] == list(names)


def colliding_names() -> tuple[str, str]:
    """The first two of some names whose hashes are equal; one in 80,000 or so."""
    seen: dict[int, str] = {}
    names = (f"{number * 2654435761 % (1 << 32):08x}" for number in itertools.count())
    while (name := next(names)) and (hashed := name_hash(name.encode())) not in seen:
        seen[hashed] = name
    return seen[hashed], name


def test_names_that_are_no_utf8_are_read() -> None:
    writer = BtrfsWriter()
    writer.top_level.file("caf\udce9", b"x", is_inline=True)
    tree = Tree(opened(writer.finish()))
    assert [name for name, _ in tree.list("/")] == ["caf\udce9"]
    assert tree.read_file("/caf\udce9") == b"x"
    assert tree.find("/\ud800") is None


def test_the_checksum_is_that_of_the_standard() -> None:
    # RFC 3720, B.4: 32 bytes of zeros.
    assert crc32c(bytes(32), 0xFFFFFFFF) ^ 0xFFFFFFFF == 0x8A9136AA


def test_a_log_that_was_not_replayed_is_noticed() -> None:
    writer = BtrfsWriter()
    writer.superblock[0x60] = struct.pack("<Q", METADATA_CHUNK[0])
    assert any("not cleanly unmounted" in sentence for sentence in opened(writer.finish()).noticed)


def test_other_volumes_are_not_btrfs() -> None:
    assert BtrfsFileSystem.open(BytesVolume(b"")) is None
    assert BtrfsFileSystem.open(BytesVolume(bytes(1 << 20))) is None


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (0x88, struct.pack("<Q", 2), "several devices"),
        (0x88, bytes(8), "several devices"),
        (0x30, bytes(8), "says that it is at"),
        (0x90, bytes(4), "sector size"),
        (0x90, b"\xff" * 4, "sector size"),
        (0x94, struct.pack("<I", 1 << 20), "node size"),
        (0x94, struct.pack("<I", 5000), "not a power of two"),
        (0xA0, struct.pack("<I", 2049), "first chunks"),
        (0xA0, struct.pack("<I", 20), "first chunks"),
        (0xA0, bytes(4), "no chunk"),
        (0xBC, struct.pack("<Q", 1 << 12), "zoned"),
        (0xBC, struct.pack("<Q", 1 << 13), "extent tree v2"),
        (0xBC, struct.pack("<Q", 1 << 50), "unknown features"),
        (0xC6, b"\x08", "level of a tree"),
        (0xC7, b"\xff", "level of a tree"),
        (0xC9, struct.pack("<Q", 7), "another device"),
        (0x50, struct.pack("<Q", 1 << 63), "no chunk"),
        (0x58, b"\xff" * 8, "no chunk"),
        (0x48, struct.pack("<Q", 8), "another place, level or generation"),
        (0x32B + 8, b"\1", "of type"),
        (0x32B + 17 + 24, struct.pack("<Q", 0x42), "profile"),
        (0x32B + 17 + 44, struct.pack("<H", 2), "first chunks"),
        (0x32B + 17 + 44, bytes(2), "stripes of a chunk"),
        (0x32B + 17, bytes(8), "length of a chunk"),
    ],
)
def test_every_field_of_the_superblock_is_checked(offset: int, field: bytes, message: str) -> None:
    writer = BtrfsWriter()
    content = bytearray(writer.finish())
    content[SUPER + offset : SUPER + offset + len(field)] = field
    with pytest.raises(GuestUnreadable, match=message):
        BtrfsFileSystem.open(WatchedVolume(content))


def test_a_copy_stands_in_for_a_superblock_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"content")
    content = bytearray(make_btrfs(tmp_path / "a.img", tmp_path / "source").read_bytes())
    content[SUPER + 0x94 : SUPER + 0x98] = bytes(4)
    assert Tree(opened(content)).read_file("/file") == b"content"
    content[SUPER : SUPER + 4096] = bytes(4096)
    assert BtrfsFileSystem.open(WatchedVolume(content)) is None


def test_a_second_copy_stands_in_for_a_damaged_node(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"content")
    content = bytearray(make_btrfs(tmp_path / "a.img", tmp_path / "source", "-m", "dup").read_bytes())
    volume = WatchedVolume(content)
    whole = BtrfsFileSystem.open(volume)
    assert whole is not None
    assert Tree(whole).read_file("/file") == b"content"
    places = {offset for offset, length in volume.reads if length == 16_384}
    for place in places:
        content[place : place + 16_384] = bytes(16_384)
    assert Tree(opened(content)).read_file("/file") == b"content"


def nodes(content: bytes | bytearray, owner: int) -> list[int]:
    """Places of the nodes of a tree, on the disk."""
    start, end = METADATA_CHUNK[1], METADATA_CHUNK[1] + METADATA_CHUNK[2]
    return [
        place
        for place in range(start, end, 4096)
        if content[place + 32 : place + 48] == bytes(range(16))
        and struct.unpack_from("<Q", content, place + 0x58)[0] == owner
    ]


def top_node(content: bytes | bytearray, owner: int) -> int:
    return max(nodes(content, owner), key=lambda place: content[place + 0x64])


def test_a_node_that_leads_to_itself_is_refused(suse: bytes) -> None:
    damaged = bytearray(suse)
    top = top_node(suse, 259)
    own = struct.unpack_from("<Q", suse, top + 0x30)[0]
    for index in range(struct.unpack_from("<I", suse, top + 0x60)[0]):
        struct.pack_into("<Q", damaged, top + 101 + 33 * index + 17, own)
    with pytest.raises(GuestUnreadable, match="another place, level"):
        Tree(opened(damaged)).find("/etc/os-release")


def test_nodes_that_lead_to_the_same_leaf_are_refused(suse: bytes) -> None:
    damaged = bytearray(suse)
    top = top_node(suse, 259)
    (first,) = struct.unpack_from("<Q", suse, top + 101 + 17)
    for index in range(struct.unpack_from("<I", suse, top + 0x60)[0]):
        struct.pack_into("<Q", damaged, top + 101 + 33 * index + 17, first)
    with pytest.raises(GuestUnreadable, match="leaves do not ascend"):
        visit(opened(damaged))


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (0x60, bytes(4), "is empty"),
        (0x60, b"\xff" * 4, "items of"),
        (0x64, b"\x07", "another place, level"),
        (0x50, bytes(8), "another place, level or generation"),
        (101 + 25, bytes(17), "keys that do not ascend"),
        (101 + 17, b"\xff" * 4, "items outside"),
        (101 + 21, b"\xff" * 4, "items outside"),
    ],
)
def test_every_field_of_a_leaf_is_checked(suse: bytes, offset: int, field: bytes, message: str) -> None:
    damaged = bytearray(suse)
    for place in nodes(suse, 259):
        if suse[place + 0x64] == 0:
            damaged[place + offset : place + offset + len(field)] = field
    with pytest.raises(GuestUnreadable, match=message):
        visit(opened(damaged))


@pytest.mark.parametrize("compression", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1 << 20, 1 << 62])
def test_a_compressed_extent_is_never_larger_than_linux_makes_it(compression: int, size: int) -> None:
    writer = BtrfsWriter()
    content = text(100_000)
    inode = writer.top_level.file("file", bytes(100_000))
    writer.top_level.extent(inode, 0, content, compression=compression)
    key, item = writer.top_level.items[-1]
    writer.top_level.items[-1] = key, item[:8] + struct.pack("<Q", size) + item[16:]
    with pytest.raises(GuestUnreadable, match="size of a compressed extent"):
        Tree(opened(writer.finish())).read_file("/file")


@pytest.mark.parametrize("compression", [1, 2, 3])
def test_what_decompresses_to_more_than_it_says_is_cut(compression: int) -> None:
    writer = BtrfsWriter()
    inode = writer.top_level.file("file", bytes(4096))
    writer.top_level.extent(inode, 0, bytes(800 << 10), compression=compression)
    key, item = writer.top_level.items[-1]
    writer.top_level.items[-1] = key, item[:8] + struct.pack("<Q", 4096) + item[16:]
    assert Tree(opened(writer.finish())).read_file("/file") == bytes(4096)


@pytest.mark.parametrize(
    ("offset", "field", "message"),
    [
        (16, b"\4", "of compression 4"),
        (17, b"\1", "encoding that is not known"),
        (18, b"\1\0", "encoding that is not known"),
        (20, b"\7", "extent of type 7"),
        (21, b"\xff" * 8, "outside a volume"),
        (29, b"\xff" * 8, "compressed size"),
        (37, b"\xff" * 8, "compressed extent"),
    ],
)
def test_every_field_of_an_extent_is_checked(offset: int, field: bytes, message: str) -> None:
    writer = BtrfsWriter()
    inode = writer.top_level.file("file", bytes(8192))
    writer.top_level.extent(inode, 0, text(8192), compression=1)
    key, item = writer.top_level.items[-1]
    writer.top_level.items[-1] = key, item[:offset] + field + item[offset + len(field) :]
    with pytest.raises(GuestUnreadable, match=message):
        Tree(opened(writer.finish())).read_file("/file")


@pytest.mark.parametrize("name", ["zlib", "lzo", "zstd"])
def test_damaged_compression_is_unreadable(ubuntu: bytes, name: str) -> None:
    damaged = bytearray(ubuntu)
    for place in range(DATA_CHUNK[1], DATA_CHUNK[1] + (1 << 20), 97):
        damaged[place] ^= 0x55
    with pytest.raises(GuestUnreadable):
        Tree(opened(damaged)).read_file(f"/@/bin/{name}")


def test_subvolumes_that_lie_in_one_another_are_left_out() -> None:
    writer = BtrfsWriter()
    writer.top_level.subvolume("a", 256).subvolume("b", 257)
    reference = struct.pack("<QQH", 256, 2, 1) + b"a"
    writer.root_items = [item for item in writer.root_items if item[0] != (256, 144, 5)]
    writer.root_items.append(((256, 144, 257), reference))
    system = opened(writer.finish())
    assert system.subvolumes() == []
    assert Tree(system).find("/a/b") is not None


def test_a_default_subvolume_that_is_not_there_is_refused() -> None:
    writer = BtrfsWriter()
    writer.default = 300
    system = opened(writer.finish())
    with pytest.raises(GuestUnreadable, match="subvolume 300 is not there"):
        system.root()


@pytest.mark.parametrize(
    ("profile", "places", "message"),
    [
        (0x08, [0, 4096], "several devices"),
        (0x10, [0, 4096], "several devices"),
        (0x80, [0], "profile"),
        (0x10, [0], "profile"),
        (0x20, [0] * 17, "stripes of a chunk"),
    ],
)
def test_chunks_of_several_devices_are_refused(profile: int, places: list[int], message: str) -> None:
    with pytest.raises(GuestUnreadable, match=message):
        LogicalSpace(BytesVolume(bytes(8192)), 1).add(0, chunk_item(profile | 1, 4096, places))


@pytest.mark.parametrize("profile", [0, 0x08, 0x20])
def test_chunks_of_one_device_are_read(profile: int) -> None:
    space = LogicalSpace(BytesVolume(bytes(4096) + b"x" * 4096), 1)
    space.add(1 << 40, chunk_item(profile | 1, 4096, [4096, 0] if profile == 0x20 else [4096]))
    assert space.read((1 << 40) + 4090, 6) == b"x" * 6
    with pytest.raises(GuestUnreadable, match="no chunk"):
        space.read((1 << 40) + 4090, 7)


def test_more_chunks_than_a_disk_has_are_refused() -> None:
    space = LogicalSpace(BytesVolume(bytes(8192)), 1)
    for number in range(MAX_CHUNKS):
        space.add(number * 4096, chunk_item(1, 4096, [0]))
    with pytest.raises(GuestUnreadable, match="number of chunks"):
        space.add(MAX_CHUNKS * 4096, chunk_item(1, 4096, [0]))


@pytest.mark.parametrize("make", ["ubuntu", "suse"])
def test_damage_is_only_ever_unreadable(make: str, request: pytest.FixtureRequest) -> None:
    content: bytes = request.getfixturevalue(make)
    assert survives_damage(content, look_at_btrfs, range(250)) > 30

"""btrfs: what Linux, mkfs.btrfs and a crafted volume hold is read."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from imsd.guest.btrfs import BtrfsFileSystem, Subvolume
from imsd.guest.crc32c import crc32c
from imsd.guest.file_system import Kind, Tree
from tests.unit.guest.btrfs_disks import (
    METADATA_CHUNK,
    BtrfsWriter,
    make_btrfs,
    name_hash,
    suse_like,
    text,
    ubuntu_like,
)
from tests.unit.guest.damage import WatchedVolume, open_btrfs
from tests.unit.guest.debian_tools import run_tool

VECTOR = Path(__file__).parent / "vectors" / "btrfs-linux.img.zst"


@pytest.fixture(scope="module")
def of_linux() -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(VECTOR.read_bytes()) as reader:
        return reader.read()


def test_what_linux_writes_is_read(of_linux: bytes) -> None:
    system = open_btrfs(of_linux)
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
    system = open_btrfs(of_linux)
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
    system = open_btrfs(make_btrfs(tmp_path / "a.img", source, "-L", "Größe", *options))
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
    top = open_btrfs(content).open_subvolume("")
    assert top is not None
    files = [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]
    read = {str(path): Tree(top).read_file(str(path.relative_to(out))) for path in files}
    assert read == {str(path): path.read_bytes() for path in files}
    assert len(files) > 4


def test_the_root_in_a_subvolume_is_found(ubuntu: bytes) -> None:
    system = open_btrfs(ubuntu)
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
    system = open_btrfs(ubuntu)
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
    assert Tree(open_btrfs(writer.finish())).read_file("/file") == expected


def test_names_of_equal_hash_are_told_apart() -> None:
    names = colliding_names()
    assert name_hash(names[0].encode()) == name_hash(names[1].encode())
    writer = BtrfsWriter()
    for name in names:
        writer.top_level.file(name, name.encode(), is_inline=True)
    tree = Tree(open_btrfs(writer.finish()))
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
    tree = Tree(open_btrfs(writer.finish()))
    assert [name for name, _ in tree.list("/")] == ["caf\udce9"]
    assert tree.read_file("/caf\udce9") == b"x"
    assert tree.find("/\ud800") is None


def test_the_checksum_is_that_of_the_standard() -> None:
    # RFC 3720, B.4: 32 bytes of zeros.
    assert crc32c(bytes(32), 0xFFFFFFFF) ^ 0xFFFFFFFF == 0x8A9136AA


def test_a_log_that_was_not_replayed_is_noticed() -> None:
    writer = BtrfsWriter()
    writer.superblock[0x60] = struct.pack("<Q", METADATA_CHUNK[0])
    assert any("not cleanly unmounted" in sentence for sentence in open_btrfs(writer.finish()).noticed)

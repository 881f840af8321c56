"""NTFS: what libntfs-3g and ntfscp write is read; what is damaged or winding is refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from imsd.guest.file_system import FileVolume, Kind, Tree
from imsd.guest.lznt1 import decompress
from imsd.guest.ntfs import NtfsFileSystem
from imsd.guest.ntfs_layout import ATTRIBUTE_LIST, DATA, Geometry
from imsd.guest.ntfs_records import Mft
from imsd.guest.ntfs_streams import HOLE, RunMap
from imsd.guest.pe import pe_architecture
from imsd.guest.registry import Hive
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.damage import WatchedVolume, look_at_ntfs, survives_damage, visit
from tests.unit.guest.debian_tools import run_tool
from tests.unit.guest.windows_disks import MIB, make_ntfs, make_windows_volume, ntfs_writer, program

COMPRESSED = 0x800


def opened(content: bytes | Path) -> NtfsFileSystem:
    found = NtfsFileSystem.open(WatchedVolume(content.read_bytes() if isinstance(content, Path) else content))
    assert found is not None
    return found


def text(length: int, seed: int = 1) -> bytes:
    words = [b"registry ", b"hive ", b"Windows\0", b"\0\0\0\0\0\0\0\0", b"0123456789abcdef"]
    return b"".join(random.Random(seed).choices(words, k=length // 4))[:length].ljust(length, b".")


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = make_windows_volume(tmp_path_factory.mktemp("windows") / "system.img")
    return path.read_bytes()


def test_a_windows_volume_is_read(windows: bytes) -> None:
    volume = WatchedVolume(windows)
    system = NtfsFileSystem.open(volume)
    assert system is not None
    tree = Tree(system)
    assert (system.label, len(system.uuid), system.noticed) == ("System", 16, ())
    assert {name for name, _ in tree.list("/")} == {"bootmgr", "Documents and Settings", "Users", "Windows"}
    node = tree.find("/WINDOWS/system32/Config/Software")
    assert node is not None
    current = Hive(FileVolume(system, node)).key("Microsoft\\Windows NT\\CurrentVersion")
    assert current is not None
    product = current.value("productname")
    assert product is not None
    assert product.text() == "Windows Server 2022 Standard"
    kernel = tree.find("/windows/system32/NTOSKRNL.EXE")
    assert kernel is not None
    assert pe_architecture(FileVolume(system, kernel)).bits == 64
    assert len(volume.reads) < 60


def test_a_junction_is_followed_inside_the_volume(windows: bytes) -> None:
    system = opened(windows)
    link = Tree(system).find_link("/Documents and Settings")
    assert link is not None
    assert (link.kind, system.link_target(link)) == (Kind.LINK, "/Users")
    assert [name for name, _ in Tree(system).list("/documents and settings")] == ["Public"]


@pytest.mark.parametrize(
    ("target", "is_relative", "expected"),
    [
        ("..\\b\\c", True, "../b/c"),
        ("\\??\\C:\\Windows", False, "/Windows"),
        ("\\??\\Volume{1}\\", False, "Volume{1}/"),
    ],
)
def test_links_are_read(tmp_path: Path, target: str, is_relative: bool, expected: str) -> None:
    path = make_ntfs(tmp_path / "a.img")
    with ntfs_writer(path) as writer:
        writer.link("a/link", target, is_relative=is_relative)
    system = opened(path)
    (listed,) = Tree(system).list("/a")
    assert (listed[0], listed[1].kind, system.link_target(listed[1])) == ("link", Kind.LINK, expected)


def test_a_file_that_a_filter_keeps_is_not_read_as_a_file(tmp_path: Path) -> None:
    path = make_ntfs(tmp_path / "a.img")
    with ntfs_writer(path) as writer:
        writer.reparse(writer.file("compact.exe", b"MZ"), 0x80000017, b"\1\0\0\0\2\0\0\0")
    system = opened(path)
    node = Tree(system).find("/compact.exe")
    assert node is not None
    assert (node.kind, Tree(system).read_file("/compact.exe")) == (Kind.OTHER, None)
    with pytest.raises(GuestUnreadable, match="no content"):
        system.read(node, 0, 2)


@pytest.mark.parametrize("options", [(), ("-c", "512"), ("-c", "65536"), ("-s", "4096", "-c", "4096")])
def test_directories_of_many_names_are_read_and_searched(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = make_ntfs(tmp_path / "a.img", *options, size=32 * MIB)
    names = [f"Name {number:04} of a file.txt" for number in range(700)] + [
        "Größe.txt",
        "Ωmega.TXT",
        "日本.txt",
    ]
    with ntfs_writer(path) as writer:
        for name in names:
            writer.file(f"directory/{name}", name.encode())
    volume = WatchedVolume(path.read_bytes())
    system = NtfsFileSystem.open(volume)
    assert system is not None
    tree = Tree(system)
    assert sorted(name for name, _ in tree.list("/directory")) == sorted(names)
    assert tree.read_file("/directory/NAME 0333 OF A FILE.TXT") == b"Name 0333 of a file.txt"
    assert tree.read_file("/directory/GRÖSSE.TXT") is None
    assert tree.read_text("/directory/gRÖßE.txt") == "Größe.txt"
    assert tree.read_text("/DIRECTORY/ωMEGA.txt") == "Ωmega.TXT"
    assert tree.find("/directory/name 9999") is None
    before = len(volume.reads)
    assert tree.find("/directory/name 0123 of a FILE.txt") is not None
    assert len(volume.reads) - before <= 4


def test_what_ntfscp_writes_is_read(tmp_path: Path) -> None:
    path = make_ntfs(tmp_path / "a.img")
    content = random.Random(7).randbytes(300_001)
    (tmp_path / "content").write_bytes(content)
    run_tool("ntfscp", "-q", path, tmp_path / "content", "Content.bin")
    system = opened(path)
    node = Tree(system).find("/content.BIN")
    assert node is not None
    assert node.size_bytes == len(content)
    assert Tree(system).read_file("/content.bin") == content
    assert system.read(node, 299_999, 100) == content[-2:]
    assert system.read(node, 400_000, 100) == b""


@pytest.mark.parametrize("content", [b"", b"x", text(699), text(4096), text(65_536), text(200_000)])
def test_compressed_files_are_read(tmp_path: Path, content: bytes) -> None:
    path = make_ntfs(tmp_path / "a.img", "-C", "-c", "4096", size=16 * MIB)
    mixed = content + random.Random(3).randbytes(len(content)) + bytes(len(content)) + content
    with ntfs_writer(path) as writer:
        writer.set_attributes(writer.directory("a"), COMPRESSED)
        writer.file("a/file", mixed)
    raw = path.read_bytes()
    # The text is on the disk only in its compressed form.
    assert len(content) < 65_536 or content[:4096] not in raw
    assert Tree(opened(raw)).read_file("/a/file") == mixed


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A volume with a file whose runs have no room in one record, and the file's content."""
    path = make_ntfs(tmp_path_factory.mktemp("scattered") / "a.img", "-c", "4096", size=32 * MIB)
    pieces = {index: random.Random(index).randbytes(4096) for index in range(0, 1500, 2)}
    with ntfs_writer(path) as writer:
        record, other = writer.file("sparse"), writer.file("other")
        for index, piece in pieces.items():
            writer.write(record, index * 4096, piece)
            if index % 100 < 90:
                writer.write(other, (index // 2) * 4096, piece)
    return path.read_bytes(), b"".join(pieces.get(index, bytes(4096)) for index in range(1499))


def list_place(content: bytes) -> tuple[int, int]:
    """Place and length of the attribute list of the scattered file."""
    geometry = Geometry.read(BytesVolume(content))
    node = Tree(opened(content)).find("/sparse")
    assert geometry is not None
    assert node is not None
    record = Mft(BytesVolume(content), geometry).record(node.number)
    listed = record.find(ATTRIBUTE_LIST)
    assert listed is not None
    if listed.value is not None:
        return content.index(listed.value), len(listed.value)
    runs = RunMap()
    runs.extend(listed.pairs)
    ((cluster, _),) = runs.pieces(0, 1)
    return cluster * geometry.cluster_bytes, listed.size_bytes


def test_holes_and_attribute_lists_are_read(scattered: tuple[bytes, bytes]) -> None:
    content, expected = scattered
    assert list_place(content)[1] > 3 * 32
    system = opened(content)
    node = Tree(system).find("/sparse")
    assert node is not None
    assert node.size_bytes == len(expected)
    assert system.read(node, 0, len(expected)) == expected
    assert system.read(node, 5000, 10_000) == expected[5000:15_000]


@pytest.mark.parametrize("target", [0, 5, 1 << 40, None], ids=["the MFT", "the root", "nowhere", "itself"])
def test_attribute_lists_that_lead_astray_are_refused(
    scattered: tuple[bytes, bytes], target: int | None
) -> None:
    content, _ = scattered
    node = Tree(opened(content)).find("/sparse")
    assert node is not None
    damaged = bytearray(content)
    position, length = list_place(content)
    end = position + length
    while position < end:
        kind, size = struct.unpack_from("<IH", damaged, position)
        if kind == DATA:
            struct.pack_into("<Q", damaged, position + 16, node.number if target is None else target)
        position += size
    with pytest.raises(GuestUnreadable):
        opened(bytes(damaged)).read(node, 0, 10)


def test_an_attribute_list_of_entries_without_length_is_refused(scattered: tuple[bytes, bytes]) -> None:
    content, _ = scattered
    damaged = bytearray(content)
    struct.pack_into("<H", damaged, list_place(content)[0] + 4, 0)
    with pytest.raises(GuestUnreadable, match="length of a listed attribute"):
        Tree(opened(bytes(damaged))).find("/sparse")


def test_what_was_never_written_reads_as_zeros(tmp_path: Path) -> None:
    path = make_ntfs(tmp_path / "a.img")
    with ntfs_writer(path) as writer:
        record = writer.file("grown", b"begin" * 2000)
        writer.truncate(record, 50_000)
    content = Tree(opened(path)).read_file("/grown")
    assert content == (b"begin" * 2000).ljust(50_000, b"\0")


def test_short_names_are_found_but_not_listed(tmp_path: Path) -> None:
    path = make_ntfs(tmp_path / "a.img")
    with ntfs_writer(path) as writer:
        record = writer.file("Program Files")
        writer.set_dos_name("Program Files", record, "PROGRA~1")
    tree = Tree(opened(path))
    found = tree.find("/progra~1")
    assert found is not None
    assert found.number == record
    assert [name for name, _ in tree.list("/")] == ["Program Files"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"hibr" + bytes(5000), ("Windows was hibernated",)), (bytes(5000), ()), (b"wake" + bytes(60), ())],
)
def test_hibernation_is_noticed(tmp_path: Path, content: bytes, expected: tuple[str, ...]) -> None:
    path = make_ntfs(tmp_path / "a.img")
    with ntfs_writer(path) as writer:
        writer.file("hiberfil.sys", content)
    assert opened(path).noticed == expected


def test_a_volume_that_was_not_unmounted_is_noticed(tmp_path: Path) -> None:
    path = make_ntfs(tmp_path / "a.img")
    with ntfs_writer(path) as writer:
        writer.mark_dirty()
    assert any("not cleanly unmounted" in sentence for sentence in opened(path).noticed)


def test_other_volumes_are_not_ntfs() -> None:
    assert NtfsFileSystem.open(BytesVolume(b"")) is None
    assert NtfsFileSystem.open(BytesVolume(bytes(1 << 16))) is None


def test_bitlocker_is_named() -> None:
    with pytest.raises(GuestUnreadable, match="BitLocker"):
        NtfsFileSystem.open(BytesVolume(b"\xeb\x58\x90-FVE-FS-".ljust(4096, b"\0")))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x0B, b"\0\0"),  # sector size
        (0x0B, b"\xff\xff"),
        (0x0D, b"\0"),  # sectors per cluster
        (0x0D, b"\x03"),
        (0x0D, b"\x85"),
        (0x30, b"\xff" * 8),  # cluster of the MFT
        (0x30, bytes(8)),
        (0x40, b"\0"),  # record size
        (0x40, b"\x80"),
        (0x40, b"\x7f"),
        (0x44, b"\0"),  # index block size
        (0x44, b"\xf8"),
    ],
)
def test_every_field_of_the_boot_sector_is_checked(windows: bytes, offset: int, value: bytes) -> None:
    damaged = bytearray(windows)
    damaged[offset : offset + len(value)] = value
    with pytest.raises(GuestUnreadable):
        NtfsFileSystem.open(WatchedVolume(damaged))


def test_a_volume_that_is_cut_is_refused(windows: bytes) -> None:
    with pytest.raises(GuestUnreadable):
        visit(opened(windows[: 5 * 4096]))


@pytest.mark.parametrize(
    "pairs",
    [b"\x10\x01", b"\x01", b"\x0f" + b"\1" * 15, b"\x11\x00\x01", b"\x11\x01\x80", b"\x18" + b"\xff" * 9],
    ids=["no length", "cut", "long field", "empty run", "before the volume", "huge run"],
)
def test_runs_that_are_none_are_refused(pairs: bytes) -> None:
    with pytest.raises(GuestUnreadable):
        RunMap().extend(pairs)


def test_runs_are_relative_and_may_be_holes() -> None:
    runs = RunMap()
    runs.extend(b"\x11\x04\x20\x01\x02\x11\x03\xf0\x00")
    assert list(runs.pieces(0, 100)) == [(0x20, 4), (HOLE, 2), (0x10, 3)]
    assert list(runs.pieces(3, 4)) == [(0x23, 1), (HOLE, 2), (0x10, 1)]
    assert list(runs.pieces(9, 4)) == []


def test_endless_runs_are_refused() -> None:
    with pytest.raises(GuestUnreadable, match="number of runs"):
        RunMap().extend(b"\x01\x01" * 70_000)


@pytest.mark.parametrize(
    "content", [b"\x03\xb0\x01\x00\x00\x00", b"\x02\xb0\x03A\x00"], ids=["no source", "cut"]
)
def test_compressed_content_that_refers_to_nothing_is_refused(content: bytes) -> None:
    with pytest.raises(GuestUnreadable):
        decompress(content, 65_536)


def test_a_compressed_unit_never_grows_beyond_its_size() -> None:
    # One byte, then a match of 4,095 of it: 6 bytes for 4,096, again and again.
    chunk = struct.pack("<HB", 0xB003, 0x02) + b"A" + struct.pack("<H", 0x0FFC)
    assert decompress(chunk * 1000, 65_536) == b"A" * 65_536


def test_a_directory_whose_blocks_lead_to_one_another_is_refused(tmp_path: Path) -> None:
    path = make_ntfs(tmp_path / "a.img", size=16 * MIB)
    with ntfs_writer(path) as writer:
        for number in range(300):
            writer.file(f"directory/{number:04}{'x' * 100}")
    content = bytearray(path.read_bytes())
    # Every entry of a block gets a child: the block itself (its number is 0), which is then met again.
    changed = 0
    position = content.find(b"INDX")
    while position >= 0:
        start = position + 24 + struct.unpack_from("<I", content, position + 24)[0]
        _, length, key, flags = struct.unpack_from("<QHHH", content, start)
        if content[position + 16 : position + 24] == bytes(8) and not flags and key > 150:
            struct.pack_into("<H", content, start + 12, 1)
            struct.pack_into("<Q", content, start + length - 8, 0)
            changed += 1
        position = content.find(b"INDX", position + 4)
    assert changed
    tree = Tree(opened(bytes(content)))
    with pytest.raises(GuestUnreadable):
        tree.list("/directory")
    with pytest.raises(GuestUnreadable):
        tree.find("/directory/0000")


def test_damage_is_only_ever_unreadable(windows: bytes) -> None:
    assert survives_damage(windows, look_at_ntfs, range(400)) > 40


def test_damage_to_lists_compression_and_large_directories_is_only_ever_unreadable(tmp_path: Path) -> None:
    path = make_ntfs(tmp_path / "a.img", "-C", "-c", "4096", size=16 * MIB)
    with ntfs_writer(path) as writer:
        for number in range(60):
            writer.file(f"directory/{number:04}{'x' * 120}")
        writer.set_attributes(writer.directory("a"), COMPRESSED)
        writer.file("a/file", text(100_000))
        record = writer.file("sparse")
        for index in range(0, 700, 2):
            writer.write(record, index * 4096, program())
    assert survives_damage(path.read_bytes(), look_at_ntfs, range(120)) > 10

"""The log of a VHDX file that was not closed: replayed in memory as QEMU replays it on disk, or refused."""

from __future__ import annotations

import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imsd.contract import ByteRange
from imsd.formats.detect import open_image
from imsd.formats.overlay import Change, OverlaySource
from imsd.formats.reader import OpenedImage
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_vhdx import (
    BAT,
    DATA,
    LOG,
    LOG_ID,
    METADATA,
    REGIONS,
    ZERO,
    Disk,
    Entry,
    Header,
    Parts,
    Write,
    at,
    bat_sector,
    crafted,
    dirty,
    region_table,
    sealed,
)
from tests.unit.formats.disk_files import (
    LIMIT,
    MIB,
    LateSource,
    noise,
    qemu_img,
    read_all,
    read_range,
    sparse_file,
    text,
    with_fetches,
)
from tests.unit.formats.refusal_checks import open_reason, outcome

ImageOf = Callable[[Path], OpenedImage]

STALE = [ZERO, ZERO, ZERO]
NEW = [at(5), ZERO, at(4)]
CONTENT = noise(2 * MIB)


def disk_of(entries: Sequence[int], content: bytes = CONTENT) -> bytes:
    blocks = {at(4): content[:MIB], at(5): content[MIB : 2 * MIB], ZERO: bytes(MIB)}
    return b"".join(blocks[entry] for entry in entries)


def opened(file: bytes) -> OpenedImage:
    return open_image(MemorySource(file), "vhdx", LIMIT)


def replayed_by_qemu(file: bytes, folder: Path) -> bytes:
    """The disk of ``file`` after QEMU has replayed its log."""
    path, raw = folder / "dirty.vhdx", folder / "dirty.raw"
    path.write_bytes(file)
    qemu_img("check", "-q", "-f", "vhdx", "-r", "all", path)
    qemu_img("convert", "-f", "vhdx", "-O", "raw", path, raw)
    return raw.read_bytes()


def chain(writes: Sequence[Sequence[Write]], first: int = 5, tail: int = 0) -> bytes:
    """Entries in a row, each of which says that the sequence begins at ``tail``."""
    return b"".join(Entry(first + number, some, tail).pack() for number, some in enumerate(writes))


def test_a_log_that_changes_the_bat_is_replayed_as_qemu_does(tmp_path: Path) -> None:
    file = dirty(STALE, CONTENT, chain([[(BAT, bat_sector(NEW))]]))
    image = opened(file)
    assert [finding.code for finding in image.findings] == ["VHDX_LOG_REPLAYED"]
    assert read_all(image.blocks) == disk_of(NEW)
    assert replayed_by_qemu(file, tmp_path) == disk_of(NEW)


def test_the_log_of_a_file_that_qemu_wrote_is_replayed(tmp_path: Path, image_of: ImageOf) -> None:
    raw = sparse_file(tmp_path / "disk.raw", 40 * MIB, [(3 * MIB, noise(MIB)), (20 * MIB, text(MIB))])
    path = tmp_path / "disk.vhdx"
    qemu_img("convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", raw, path)
    file = bytearray(path.read_bytes())
    header = bytearray(max((file[place : place + 4096] for place in (65536, 131072)), key=lambda h: h[8:16]))
    (log,) = struct.unpack_from("<Q", header, 72)
    bat = next(
        struct.unpack_from("<Q", file, place + 16)[0]
        for place in (196_624, 196_656)
        if file[place : place + 4] == b"\x66\x77\xc2\x2d"
    )
    table = list(struct.unpack_from("<512Q", file, bat))
    table[7], table[3] = table[3], 0
    length = len(file)
    header[8:16] = struct.pack("<Q", int.from_bytes(header[8:16], "little") + 1)
    header[48:64] = LOG_ID
    file[65536 : 65536 + 4096] = sealed(bytes(header))
    entry = Entry(1, [(bat, bat_sector(table))], flushed=length, last=length).pack()
    file[log : log + len(entry)] = entry
    path.write_bytes(file)
    found = read_all(image_of(path).blocks)
    assert found[7 * MIB : 8 * MIB] == noise(MIB)
    assert found[3 * MIB : 4 * MIB] == bytes(MIB)
    assert replayed_by_qemu(bytes(file), tmp_path) == found


@pytest.mark.parametrize(
    "writes",
    [
        [[], [(BAT, bat_sector(STALE))], [(BAT, bat_sector(NEW))]],
        [[(BAT, 4096)], [(BAT, bat_sector(NEW))], []],
        [[(BAT, bat_sector(NEW)), (DATA + 4096, 8192)], [(DATA + 4096, text(4096))]],
        [[(BAT, bat_sector(NEW)), (DATA, text(4096)), (DATA + MIB, 64 * 4096)], [(DATA + MIB + 8192, 4096)]],
        [[(DATA + 4096 * n, bytes([n]) * 4096) for n in range(130)] + [(BAT, bat_sector(NEW))]],
    ],
)
def test_entries_are_replayed_in_order(writes: Sequence[Sequence[Write]], tmp_path: Path) -> None:
    file = dirty(STALE, CONTENT, chain(writes))
    content = bytearray(CONTENT)
    for offset, change in (write for some in writes for write in some if write[0] >= DATA):
        plain = bytes(change) if isinstance(change, int) else change
        content[offset - DATA : offset - DATA + len(plain)] = plain
    assert read_all(opened(file).blocks) == disk_of(NEW, bytes(content))
    # QEMU 7.2 cannot open entries that have more than one sector of descriptors.
    assert len(writes[0]) > 126 or replayed_by_qemu(file, tmp_path) == disk_of(NEW, bytes(content))


WRITES: list[Write] = [(BAT, bat_sector(NEW))]
GOOD = Entry(5, WRITES).pack()
# What follows a whole sequence and is no part of it: written half, of another time, or of another file.
NO_PART = [
    Entry(6, [(BAT, 4096)], checksum=3),
    Entry(6, [(BAT, 4096)], signature=b"logs"),
    Entry(6, [(BAT, 4096)], log_id=bytes(16)),
    Entry(6, [(BAT, 4096)], log_id=b"\x77" * 16),
    Entry(7, [(BAT, 4096)], tail=4096),
    Entry(4, [(BAT, 4096)], tail=len(GOOD)),
    Entry(6, [(BAT, 4096)], descriptor_sequence=5),
    Entry(6, [(BAT, bytes(4096))], sector_sequence=5),
    Entry(6, [(BAT, bytes(4096))], sector_sequence=6 | 1 << 32),
    Entry(6, [(BAT, 4096)], length=4095),
    Entry(6, [(BAT, 4096)], length=0),
    Entry(6, [(BAT, 4096)], length=0xFFFF_F000),
    Entry(6, [(BAT, 4096)], count=2),
    Entry(6, [(BAT, 4096)], count=126),
    Entry(6, [(BAT, 4096)], count=0xFFFF_FFFF),
    Entry(6, [(BAT, 4096)], count=0x0800_0000),
]


@pytest.mark.parametrize("entry", NO_PART)
def test_what_is_no_part_of_the_newest_sequence_is_passed_over(entry: Entry) -> None:
    assert read_all(opened(dirty(STALE, CONTENT, GOOD + entry.pack())).blocks) == disk_of(NEW)


def test_an_entry_without_the_sectors_of_its_descriptors_is_passed_over() -> None:
    short = sealed(Entry(6, [(BAT, bytes(4096))], length=4096).pack()[:4096])
    assert read_all(opened(dirty(STALE, CONTENT, GOOD + short)).blocks) == disk_of(NEW)


def test_a_newer_sequence_counts_and_the_older_one_does_not() -> None:
    old = Entry(5, [(BAT, bat_sector([at(4), at(4), at(4)])), (DATA, 4096)]).pack()
    new = Entry(9, WRITES, tail=len(old)).pack()
    assert read_all(opened(dirty(STALE, CONTENT, old + new)).blocks) == disk_of(NEW)
    swapped = Entry(9, WRITES).pack() + Entry(5, [(BAT, 4096)], tail=len(new)).pack()
    assert read_all(opened(dirty(STALE, CONTENT, swapped)).blocks) == disk_of(NEW)


def test_a_sequence_begins_at_the_tail_of_its_last_entry() -> None:
    first = Entry(5, [(DATA, 4096)]).pack()
    file = dirty(STALE, CONTENT, first + Entry(6, WRITES, tail=len(first)).pack())
    assert read_all(opened(file).blocks) == disk_of(NEW)


def test_a_log_goes_around_its_end() -> None:
    last, entry = Entry(5, [(DATA, 4096)], tail=MIB - 4096), Entry(6, WRITES, tail=MIB - 4096)
    log = entry.pack().ljust(MIB - 4096, b"\0") + last.pack()
    content = bytes(4096) + CONTENT[4096:]
    assert read_all(opened(dirty(STALE, CONTENT, log)).blocks) == disk_of(NEW, content)
    split = Entry(5, WRITES, tail=MIB - 4096).pack()
    log = split[4096:].ljust(MIB - 4096, b"\0") + split[:4096]
    assert read_all(opened(dirty(STALE, CONTENT, log)).blocks) == disk_of(NEW)


def test_region_tables_and_metadata_may_be_in_the_log() -> None:
    table, disk = region_table(), Disk().pack()
    places = [(192 << 10, table), (256 << 10, table), (METADATA, disk.ljust(68 << 10, b"\0"))]
    writes: list[Write] = [
        (place + start, content[start : start + 4096])
        for place, content in places
        for start in range(0, len(content), 4096)
    ]
    file = bytearray(dirty(NEW, CONTENT, chain([writes])))
    for place, content in places:
        file[place : place + len(content)] = noise(len(content))
    assert read_all(opened(bytes(file)).blocks) == disk_of(NEW)


def test_a_file_may_grow_when_its_log_is_replayed() -> None:
    entry = Entry(5, [(BAT, bat_sector([at(4), at(5), ZERO]))], flushed=5 * MIB, last=6 * MIB)
    file = dirty(STALE, CONTENT[:MIB], entry.pack())
    assert read_all(opened(file).blocks) == CONTENT[:MIB] + bytes(2 * MIB)
    beyond = Entry(5, [(BAT, bat_sector([at(5), ZERO, ZERO])), (5 * MIB, text(4096))]).pack()
    disk = Disk(size=4096)
    assert read_all(opened(dirty([ZERO], CONTENT[:MIB], beyond, disk)).blocks) == text(4096)


@pytest.mark.parametrize(
    ("reason", "log"),
    [
        ("IMAGE_MALFORMED", b""),
        ("IMAGE_MALFORMED", Entry(5, WRITES, checksum=1).pack()),
        ("IMAGE_MALFORMED", Entry(0, WRITES).pack()),
        ("IMAGE_MALFORMED", Entry(5, WRITES, tail=8192).pack()),
        ("IMAGE_MALFORMED", Entry(5, WRITES, tail=3).pack()),
        ("IMAGE_MALFORMED", Entry(5, WRITES, tail=0xFFFF_F000).pack()),
        ("IMAGE_TRUNCATED", Entry(5, WRITES, flushed=7 * MIB).pack()),
        ("IMAGE_TRUNCATED", Entry(5, WRITES, flushed=(1 << 64) - 1).pack()),
        ("IMAGE_TRUNCATED", Entry(5, WRITES, last=(1 << 64) - 1).pack()),
        ("IMAGE_TRUNCATED", Entry(5, [*WRITES, (1 << 40, text(4096))]).pack()),
        ("IMAGE_TRUNCATED", Entry(5, [*WRITES, (DATA, 1 << 40)]).pack()),
        ("IMAGE_MALFORMED", Entry(5, [*WRITES, (DATA + 512, 4096)]).pack()),
        ("IMAGE_MALFORMED", Entry(5, [*WRITES, (DATA, 512)]).pack()),
        ("IMAGE_MALFORMED", Entry(5, [*WRITES, (1 << 63, 4096)]).pack()),
        ("IMAGE_MALFORMED", Entry(5, [*WRITES, (DATA, (1 << 64) - 4096)]).pack()),
    ],
)
def test_a_log_that_cannot_be_replayed_is_refused(reason: str, log: bytes) -> None:
    assert open_reason(dirty(STALE, CONTENT, log), "vhdx") == reason


def test_more_descriptors_than_32_bits_of_bytes_are_refused_qemu_3860() -> None:
    entry = Entry(5, WRITES, count=0x0800_0001).pack()
    assert open_reason(dirty(STALE, CONTENT, entry), "vhdx") == "IMAGE_MALFORMED"


def test_a_log_that_makes_too_many_changes_is_refused() -> None:
    writes: list[Write] = [(DATA, 4096)] * 6000
    assert open_reason(dirty(STALE, CONTENT, chain([writes] * 3)), "vhdx") == "IMAGE_MALFORMED"
    assert outcome(dirty(STALE, CONTENT, chain([writes] * 2)), "vhdx") == "read"


def test_a_log_that_is_too_long_is_refused_only_when_it_must_be_replayed() -> None:
    table = region_table([(region[0], region[1] + 16 * MIB, *region[2:]) for region in REGIONS])
    for log_id, found in ((LOG_ID, "FORMAT_UNSUPPORTED"), (bytes(16), "read")):
        header = Header(log_length=17 * MIB, log_id=log_id).pack()
        file = bytearray(crafted([], b"", Parts(headers=(header, header), tables=(table, table))))
        file[LOG:LOG] = bytes(16 * MIB)
        assert outcome(bytes(file), "vhdx") == found


def nested(levels: int, size: int) -> bytes:
    """Entries each of which contains all later ones, with right checksums."""
    content = b"\0" * size
    for level in range(levels):
        inner = content[: size - 4096]
        entry = Entry(1000 - level, [], tail=0xFFFF_F000, length=size).pack()[:4096]
        content = sealed(entry + inner)
    return content


def test_entries_that_overlap_are_refused_before_they_cost_time() -> None:
    assert open_reason(dirty(STALE, CONTENT, nested(200, MIB)), "vhdx") == "IMAGE_MALFORMED"


def test_a_log_full_of_entries_without_a_tail_is_looked_at_once() -> None:
    log = chain([[]] * 256, tail=0xFFFF_F000)
    assert len(log) == MIB
    assert open_reason(dirty(STALE, CONTENT, log), "vhdx") == "IMAGE_MALFORMED"


def test_replaying_takes_little_memory() -> None:
    writes: list[Write] = [(DATA + 4096 * n, text(4096)) for n in range(200)]
    file = dirty(STALE, CONTENT, chain([[*WRITES, *writes]]))
    tracemalloc.start()
    try:
        assert len(opened(file).blocks.extents(0, 3 * MIB)) == 3
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_a_log_that_comes_late_is_asked_for_once() -> None:
    source = LateSource(dirty(STALE, CONTENT, GOOD))
    image, rounds = with_fetches(source, lambda: open_image(source, "vhdx", LIMIT))
    assert rounds == 4  # signatures; headers and region tables; the log; metadata
    source.let_go()
    found, rounds = with_fetches(source, lambda: read_range(image.blocks, 0, 3 * MIB))
    assert rounds == 2
    assert found == disk_of(NEW)


@settings(max_examples=80)
@given(
    changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12), st.booleans()), max_size=12),
    size=st.integers(0, 200),
    grown=st.integers(0, 100),
    reads=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 100)), min_size=1, max_size=6),
)
def test_an_overlay_is_the_file_after_the_changes(
    changes: list[tuple[int, int, bool]], size: int, grown: int, reads: list[tuple[int, int]]
) -> None:
    file = bytearray(noise(size))
    made = [
        Change(ByteRange(start, length), None if is_zero else noise(length, number))
        for number, (start, length, is_zero) in enumerate(changes)
    ]
    whole = max([size + grown, *(change.end for change in made)])
    after = bytearray(bytes(file).ljust(whole, b"\0"))
    for change in made:
        after[change.place.offset : change.end] = change.part(*(change.place.offset, change.end))
    overlay = OverlaySource(MemorySource(bytes(file)), made, whole)
    for offset, length in reads:
        low = min(offset, whole)
        high = min(low + length, whole)
        overlay.require([ByteRange(low, high - low)] if high > low else [])
        assert bytes(overlay.read(low, high - low)) == after[low:high]
        buffer = bytearray(b"\xee" * (high - low))
        overlay.read_into(low, memoryview(buffer))
        assert buffer == after[low:high]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_logs_of_any_writes_are_replayed_as_qemu_does(seed: int, tmp_path: Path) -> None:
    chosen = random.Random(seed)

    def write() -> Write:
        place = DATA + 4096 * chosen.randrange(500)
        return place, (4096 * chosen.randrange(1, 12) if chosen.random() < 0.5 else chosen.randbytes(4096))

    writes = [[write() for _ in range(chosen.randrange(6))] for _ in range(chosen.randrange(1, 6))]
    file = dirty(STALE, CONTENT, chain([*writes, WRITES], first=chosen.randrange(1, 1 << 40)))
    shutil.rmtree(tmp_path / "qemu", ignore_errors=True)
    (tmp_path / "qemu").mkdir()
    assert read_all(opened(file).blocks) == replayed_by_qemu(file, tmp_path / "qemu")

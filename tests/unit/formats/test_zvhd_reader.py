"""ZVHD and ZVHD2 read at random: in any order, by many threads, and never with more work than is needed."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from imsd.contract import Buffer
from imsd.formats import zvhd as zvhd_module
from imsd.formats import zvhd_records
from imsd.formats.registry import READERS
from imsd.formats.source import BlockSource, MemorySource
from imsd.formats.zvhd_codec import inflate_piece
from tests.unit.formats.crafted_zvhd import (
    BLOCK,
    SOUND_FILES,
    ZVHD_HEADER,
    Fields,
    disk_of,
    frame,
    pieces_of_stream,
    record,
    zvhd,
    zvhd2,
    zvhd2_of,
    zvhd_of,
)
from tests.unit.formats.disk_files import (
    GIB,
    LIMIT,
    LateSource,
    check_cover,
    noise,
    read_all,
    read_range,
    text,
    with_fetches,
)

SIZE = 40 * BLOCK - 512
SHARED = noise(20_000)


def linked_blocks(numbers: list[int]) -> dict[int, bytes]:
    """Blocks each of which looks back at the one before it, and differs from it."""
    return {
        number: (SHARED + b"%d" % number).ljust(BLOCK - 512 - len(SHARED), b"\0") + SHARED
        for number in numbers
    }


NUMBERS = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 23, 24, 25, 38, 39]
LINKED = linked_blocks(NUMBERS)
FILE = zvhd_of(LINKED, replace(ZVHD_HEADER, size=SIZE))
DISK = disk_of(LINKED, SIZE)


def blocks_of(name: str, file: bytes, limit: int = LIMIT) -> BlockSource:
    return READERS[name].open(MemorySource(file), limit).blocks


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each payload that was decoded: whether that could be done."""
    done: list[bool] = []

    def counted(data: Buffer, history: Buffer) -> bytes | None:
        plain = inflate_piece(data, history)
        done.append(plain is not None)
        return plain

    monkeypatch.setattr(zvhd_module, "inflate_piece", counted)
    return done


def test_the_crafted_blocks_do_look_back() -> None:
    first, second = pieces_of_stream([LINKED[0], LINKED[1]])
    history = inflate_piece(first[2:], b"")
    assert history is not None
    assert inflate_piece(second, b"") is None
    assert inflate_piece(second, history[-(32 << 10) :]) == LINKED[1].ljust(BLOCK, b"\0")


@pytest.mark.parametrize("window", [BLOCK * 2, BLOCK // 4, 3 * BLOCK + 512])
def test_a_pass_in_order_decodes_each_block_once(window: int, work: list[bool]) -> None:
    assert read_all(blocks_of("zvhd", FILE), window) == DISK
    assert sum(work) == len(NUMBERS)


def test_windows_a_little_out_of_order_decode_each_block_once(work: list[bool]) -> None:
    blocks = blocks_of("zvhd", FILE)
    windows = list(range(0, SIZE, 2 * BLOCK))
    for pair in range(0, len(windows) - 1, 2):
        windows[pair], windows[pair + 1] = windows[pair + 1], windows[pair]
    for start in windows:
        length = min(2 * BLOCK, SIZE - start)
        assert read_range(blocks, start, length) == DISK[start : start + length]
    assert sum(work) == len(NUMBERS)


@pytest.mark.parametrize("limits", [{}, {"MAX_LATEST": 1, "MAX_SPREAD": 3, "MAX_DECODED": 1}])
def test_many_threads_read_in_any_order(limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(zvhd_module, name, value)
    monkeypatch.setattr(zvhd_records, "MAX_LANDMARKS", 4 if limits else 1 << 20)
    blocks = blocks_of("zvhd", FILE)
    chosen = random.Random(3)
    places = [(start, chosen.randrange(1, 3 * BLOCK)) for start in range(0, SIZE, BLOCK // 2)]
    chosen.shuffle(places)

    def is_right(place: tuple[int, int]) -> bool:
        start, length = place[0], min(place[1], SIZE - place[0])
        return read_range(blocks, start, length) == DISK[start : start + length]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, places[:60]))


def test_going_back_starts_at_a_checkpoint(work: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zvhd_module, "MAX_LATEST", 2)
    monkeypatch.setattr(zvhd_module, "MAX_SPREAD", 6)
    blocks = blocks_of("zvhd", FILE)
    assert read_range(blocks, 39 * BLOCK, 512) == DISK[39 * BLOCK :][:512]
    assert sum(work) == len(NUMBERS)
    work.clear()
    assert read_range(blocks, 22 * BLOCK, 512) == DISK[22 * BLOCK :][:512]
    assert sum(work) <= 5


def test_a_block_that_does_not_look_back_is_decoded_alone(work: list[bool]) -> None:
    payloads = [pieces_of_stream([text(9000, number)])[0][2:] for number in range(30)]
    records = [record(number, (b"\x78\x01" if not number else b"") + p) for number, p in enumerate(payloads)]
    blocks = blocks_of("zvhd", zvhd(records, replace(ZVHD_HEADER, size=30 * BLOCK)))
    assert read_range(blocks, 29 * BLOCK, 9000) == text(9000, 29)
    assert work == [True]


@pytest.mark.parametrize("name", ["zvhd", "zvhd2"])
def test_only_blocks_that_are_stored_are_data(name: str) -> None:
    file = FILE if name == "zvhd" else zvhd2_of(LINKED, Fields(size=SIZE))
    blocks = blocks_of(name, file)
    for start, length in (
        (0, SIZE),
        (3 * BLOCK + 5 * 512, 512),
        (BLOCK - 512, 9 * BLOCK),
        (38 * BLOCK, BLOCK),
    ):
        extents = blocks.extents(start, length)
        check_cover(extents, start, length)
        for extent in extents:
            touched = range(extent.start // BLOCK, -(-extent.end // BLOCK))
            assert all((number in LINKED) != extent.is_zero for number in touched)


def test_what_one_look_does_not_reach_counts_as_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zvhd_records, "MAX_LOOK_RECORDS", 4)
    blocks = blocks_of("zvhd", FILE)
    extents = blocks.extents(30 * BLOCK, 5 * BLOCK)
    assert [extent.is_zero for extent in extents] == [False]
    for _ in range(6):
        extents = blocks.extents(30 * BLOCK, 5 * BLOCK)
    assert [extent.is_zero for extent in extents] == [True]
    first = blocks.extents(0, 30 * BLOCK)
    check_cover(first, 0, 30 * BLOCK)
    told = [(extent.start // BLOCK, extent.is_zero) for extent in first]
    assert told == [(0, False), (1, False), (2, False), (3, True), (5, False), (6, False)]


def test_a_late_file_of_many_records_is_looked_at_in_time() -> None:
    payloads = pieces_of_stream([b"%d" % number for number in range(200)], level=1)
    size = 400 * BLOCK
    records = [record(2 * number, payload) for number, payload in enumerate(payloads)]
    source = LateSource(zvhd(records, replace(ZVHD_HEADER, size=size)))
    opened, _ = with_fetches(source, lambda: READERS["zvhd"].open(source, LIMIT))
    for _ in range(8):
        source.let_go()
        extents, _ = with_fetches(source, lambda: opened.blocks.extents(0, size))
        check_cover(extents, 0, size)
        assert not extents[0].is_zero
    assert sum(extent.is_zero for extent in extents) == 200
    source.let_go()
    buffer = bytearray(3)
    with_fetches(source, lambda: opened.blocks.read_into(20 * BLOCK, memoryview(buffer)))
    assert buffer == b"10\0"


@pytest.mark.parametrize("name", ["zvhd", "zvhd2"])
def test_a_huge_sparse_disk_costs_next_to_nothing(name: str) -> None:
    last = (LIMIT // BLOCK) - 1
    content = {0: b"first", 9: b"tenth", last: b"last"}
    if name == "zvhd":
        file = zvhd_of(content, replace(ZVHD_HEADER, size=LIMIT))
    else:
        records = [(number, record(number, frame(plain))) for number, plain in content.items()]
        file = zvhd2(records, Fields(size=LIMIT))
    tracemalloc.start()
    blocks = blocks_of(name, file)
    for start in (0, 30 << 40, LIMIT - GIB):
        extents = blocks.extents(start, GIB)
        assert len(extents) <= 4
        assert not all(extent.is_zero for extent in extents) or start == 30 << 40
    assert read_range(blocks, last * BLOCK, 5) == b"last\0"
    assert read_range(blocks, 9 * BLOCK - 2, 5) == b"\0\0ten"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 << 20


def test_the_whole_of_a_huge_disk_may_be_asked_for() -> None:
    blocks = blocks_of("zvhd2", zvhd2([], Fields(size=LIMIT)))
    extents = blocks.extents(0, LIMIT)
    check_cover(extents, 0, LIMIT)
    assert extents[0].is_zero


def test_a_late_zvhd2_is_read_in_few_fetches() -> None:
    source = LateSource(zvhd2_of(LINKED, Fields(size=SIZE)))
    opened, rounds = with_fetches(source, lambda: READERS["zvhd2"].open(source, LIMIT))
    assert rounds <= 4
    source.let_go()
    extents, rounds = with_fetches(source, lambda: opened.blocks.extents(0, SIZE))
    assert rounds == 0
    assert len(extents) > 5
    buffer = bytearray(8 * BLOCK)
    _, rounds = with_fetches(source, lambda: opened.blocks.read_into(5 * BLOCK, memoryview(buffer)))
    assert rounds <= 2
    assert buffer == DISK[5 * BLOCK : 13 * BLOCK]


@pytest.mark.parametrize("name", SOUND_FILES)
def test_sound_files_of_any_kind_are_read(name: str) -> None:
    make: Callable[[random.Random], bytes] = SOUND_FILES[name]
    for seed in range(12):
        blocks = blocks_of(name, make(random.Random(seed)))
        whole = read_all(blocks)
        assert len(whole) == blocks.size_bytes
        assert read_all(blocks, 512 * 777) == whole

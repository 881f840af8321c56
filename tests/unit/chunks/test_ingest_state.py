"""States and segments come back from the store as they went, or are refused."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.entry import ChunkEntry
from imsd.chunks.entry_rows import EntryRows
from imsd.chunks.index import Codec, Location
from imsd.chunks.ingest_state import IngestState
from imsd.chunks.segment import decode_segment, encode_segment
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import DataLoss

PACK = "00112233445566778899aabbccddeeff"


def state_at(position: int) -> IngestState:
    hasher = TreeHasher()
    hasher.zeros(position)
    return IngestState(
        position, hasher.state(), chunk_count=5, data_size=2**50, new_size=7, undecided=b"tail"
    )


@given(st.integers(0, 2**40))
def test_a_state_comes_back(block: int) -> None:
    state = state_at(block * 4096)
    assert IngestState.from_bytes(state.to_bytes()) == state


@given(st.data())
def test_a_damaged_state_is_refused(data: st.DataObject) -> None:
    raw = bytearray(state_at(5 * 65536 + 8192).to_bytes())
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    with pytest.raises(ValueError, match="damaged"):
        IngestState.from_bytes(bytes(raw))


def test_a_state_of_another_kind_is_refused() -> None:
    content = b"imsding9" + bytes(32)
    with pytest.raises(ValueError, match="another kind"):
        IngestState.from_bytes(content + blake3(content).digest(16))


@st.composite
def entry_lists(draw: st.DrawFn) -> list[ChunkEntry]:
    entries, position = [], 0
    for _ in range(draw(st.integers(0, 6))):
        position += draw(st.integers(0, 2**40))
        length = draw(st.integers(1, 512 << 10))
        stored = draw(st.integers(1, length))
        codec = Codec.RAW if stored == length else Codec.ZSTD
        pack = draw(st.sampled_from([PACK, "0" * 32, "f" * 30 + "00"]))
        check = draw(st.binary(min_size=16, max_size=16) | st.just(b"\1" + bytes(15)))
        place = Location(pack, draw(st.integers(0, 63 << 20)), stored, length, codec, check)
        if stored > 1 and codec is Codec.ZSTD and draw(st.booleans()):
            first = draw(st.integers(1, length - 1)), draw(st.integers(1, stored - 1))
            place = place._replace(first_length=first[0], first_stored=first[1])
        digest = draw(st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\1" + bytes(31)]))
        entries.append(ChunkEntry(position, length, digest, place))
        position += length
    return entries


@given(entry_lists())
def test_a_segment_comes_back(entries: list[ChunkEntry]) -> None:
    rows, expected = decode_segment(encode_segment(entries)), EntryRows.of(entries)
    assert rows.content.tolist() == expected.content.tolist()
    assert rows.locations.tolist() == expected.locations.tolist()
    assert rows.pack_ids == expected.pack_ids
    assert [row[0] for row in rows.content.tolist()] == [entry.start for entry in entries]


ENTRY = ChunkEntry(4096, 8192, bytes(range(32)), Location(PACK, 100, 50, 8192, Codec.ZSTD, bytes(16)))


@given(st.data())
def test_a_damaged_segment_is_refused(data: st.DataObject) -> None:
    raw = bytearray(encode_segment([ENTRY]))
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    with pytest.raises(DataLoss, match="segment of an upload is damaged"):
        decode_segment(bytes(raw))


def resealed(raw: bytes) -> bytes:
    return raw + blake3(raw).digest()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (16, 2**63),  # entries
        (16, 0),
        (24, 2**60),  # packs
        (24, 0),
        (0, 0),  # magic
    ],
)
def test_a_forged_header_is_refused(place: int, value: int) -> None:
    body = bytearray(encode_segment([ENTRY])[:-32])
    body[place : place + 8] = value.to_bytes(8, "little")
    with pytest.raises(DataLoss, match="header"):
        decode_segment(resealed(bytes(body)))


LONG = Location(PACK, 0, 1, 8192, Codec.ZSTD, bytes(16))


@pytest.mark.parametrize(
    "entries",
    [
        [ENTRY._replace(length=0)],
        [ENTRY._replace(length=(512 << 10) + 1)],
        [ENTRY._replace(location=Location(PACK, 100, 0, 8192, Codec.ZSTD, bytes(16)))],
        [ENTRY._replace(location=Location(PACK, 100, 8193, 8192, Codec.ZSTD, bytes(16)))],
        [ENTRY._replace(location=Location(PACK, (64 << 20) - 10, 50, 8192, Codec.ZSTD, bytes(16)))],
        [ENTRY._replace(location=Location(PACK, 100, 50, 8192, Codec.RAW, bytes(16)))],
        [ENTRY._replace(location=Location(PACK, 100, 50, 8192, Codec.ZSTD, bytes(16), 8192, 10))],
        [ENTRY._replace(location=Location(PACK, 100, 50, 8192, Codec.ZSTD, bytes(16), 4096, 50))],
        [ENTRY._replace(location=Location(PACK, 100, 50, 8192, Codec.ZSTD, bytes(16), 4096, 0))],
        [ENTRY._replace(location=Location(PACK, 100, 8192, 8192, Codec.RAW, bytes(16), 4096, 10))],
        [ENTRY._replace(location=Location(PACK, 100, 50, 8192, 7, bytes(16)))],  # type: ignore[arg-type]
        [ENTRY, ENTRY],
        [ENTRY, ENTRY._replace(start=0)],
    ],
)
def test_entries_that_cannot_be_are_refused(entries: list[ChunkEntry]) -> None:
    with pytest.raises(DataLoss, match=r"one of its chunks|overlap"):
        decode_segment(encode_segment(entries))


def test_a_pack_that_is_not_listed_is_refused() -> None:
    body = bytearray(encode_segment([ENTRY])[:-32])
    body[-40:-36] = (1).to_bytes(4, "little")
    with pytest.raises(DataLoss, match="one of its chunks"):
        decode_segment(resealed(bytes(body)))

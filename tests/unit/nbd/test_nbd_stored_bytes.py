"""The cache on the disk: kept over restarts, proved when read, bounded, and never in the way."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imsd.contract import BlobId, ByteRange
from imsd.nbd.stored_bytes import MAX_RECORD_BYTES, StoredBytes

BLOB = BlobId("packs/ab/abc")
OTHER = BlobId("packs/cd/cde")
KIB = 1 << 10


def opened(folder: Path, limit: int = 1 << 30) -> StoredBytes:
    cache = StoredBytes(folder, limit)
    cache.open()
    return cache


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


CONTENT = noise(1, 3 * MAX_RECORD_BYTES + 1000)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_was_written_is_read_in_any_pieces(tmp_path: Path, is_restarted: bool) -> None:
    cache = opened(tmp_path)
    assert cache.write(BLOB, [(5000, CONTENT), (0, noise(2, 5000))])
    assert cache.write(OTHER, [(0, noise(3, 10))])
    if is_restarted:
        cache = opened(tmp_path)
    whole = noise(2, 5000) + CONTENT
    generator = random.Random(4)
    for _ in range(50):
        start = generator.randrange(len(whole))
        length = generator.randrange(1, len(whole) - start + 1)
        assert cache.read(BLOB, [ByteRange(start, length)]) == [whole[start : start + length]]
    assert cache.read(OTHER, [ByteRange(0, 10), ByteRange(0, 11)]) == [noise(3, 10), None]


def test_what_was_not_written_is_not_there(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.write(BLOB, [(1000, noise(1, 1000))])
    wanted = [ByteRange(0, 10), ByteRange(999, 2), ByteRange(1999, 2), ByteRange(5000, 1)]
    assert cache.read(BLOB, wanted) == [None] * 4
    assert cache.read(OTHER, wanted) == [None] * 4


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_were_altered_or_torn_are_not_given(tmp_path: Path, seed: int) -> None:
    cache = opened(tmp_path)
    pieces = [(number * 10_000, noise(number, 10_000)) for number in range(20)]
    cache.write(BLOB, pieces)
    (file,) = tmp_path.iterdir()
    generator = random.Random(seed)
    raw = bytearray(file.read_bytes())
    for _ in range(3):
        raw[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
    file.write_bytes(raw[: generator.randrange(len(raw))] if seed % 2 else raw)
    if seed % 3:
        cache = opened(tmp_path)
    found = cache.read(BLOB, [ByteRange(offset, len(content)) for offset, content in pieces])
    assert all(piece in (None, content) for piece, (_, content) in zip(found, pieces, strict=True))
    assert None in found
    # What is lacking is written again, and there again.
    assert cache.write(BLOB, pieces)
    assert opened(tmp_path).read(BLOB, [ByteRange(0, 10_000)]) == [pieces[0][1]]


def test_a_file_of_another_blob_is_none(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.write(BLOB, [(0, b"abc")])
    (file,) = tmp_path.iterdir()
    cache.write(OTHER, [(0, b"xyz")])
    (other,) = set(tmp_path.iterdir()) - {file}
    os.replace(file, other)
    assert opened(tmp_path).read(OTHER, [ByteRange(0, 3)]) == [None]


def test_the_cache_takes_no_more_room_than_it_may(tmp_path: Path) -> None:
    cache = opened(tmp_path, 1 << 20)
    for number in range(30):
        blob = BlobId(f"packs/{number}")
        assert cache.write(blob, [(0, noise(number, 100 * KIB))])
        assert cache.read(blob, [ByteRange(0, 100 * KIB)]) == [noise(number, 100 * KIB)]
        assert cache.read(BlobId("packs/0"), [ByteRange(0, 10)]) == [
            noise(0, 100 * KIB)[:10]  # used, so kept
        ]
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20
    assert cache.read(BlobId("packs/1"), [ByteRange(0, 10)]) == [None]
    smaller = opened(tmp_path, 300 * KIB)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 300 * KIB
    assert smaller.read(BlobId("packs/29"), [ByteRange(0, 10)]) == [noise(29, 100 * KIB)[:10]]


def test_many_small_files_count_more_than_their_bytes(tmp_path: Path) -> None:
    cache = opened(tmp_path, 1 << 20)
    for number in range(100):
        cache.write(BlobId(f"packs/{number}"), [(0, b"x")])
    assert len(list(tmp_path.iterdir())) == 16


def test_one_file_larger_than_all_room_goes_too(tmp_path: Path) -> None:
    cache = opened(tmp_path, 200 * KIB)
    cache.write(BLOB, [(0, noise(1, 300 * KIB))])
    assert cache.used_bytes == 0
    assert cache.read(BLOB, [ByteRange(0, 10)]) == [None]
    assert cache.write(OTHER, [(0, b"abc")])


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    cache = opened(folder)
    cache.write(BLOB, [(0, b"abc")])
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert cache.read(BLOB, [ByteRange(0, 3)]) == [None]
    monkeypatch.setattr("imsd.nbd.stored_bytes.PAUSE_SECONDS", 0.0)
    assert not cache.write(BLOB, [(0, b"abc")])
    assert cache.write(BLOB, [(0, b"abc")])
    assert cache.read(BLOB, [ByteRange(0, 3)]) == [b"abc"]


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = opened(tmp_path / "file" / "cache")
    assert not cache.is_usable
    assert cache.read(BLOB, [ByteRange(0, 3)]) == [None]
    assert not cache.write(BLOB, [(0, b"abc")])


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    """A limit on the length of files stands in for a disk without room: both fail in a write."""
    import resource
    import signal

    cache = opened(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        assert not cache.write(BLOB, [(0, noise(1, 200_000))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not cache.is_usable
    assert cache.read(BLOB, [ByteRange(0, 200_000)]) == [None]
    assert list(tmp_path.iterdir()) == []


def test_without_room_nothing_is_kept(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache", 0)
    assert not cache.is_usable
    assert not cache.write(BLOB, [(0, b"abc")])
    assert not (tmp_path / "cache").exists()


def test_files_are_for_nobody_else(tmp_path: Path) -> None:
    cache = opened(tmp_path / "cache")
    cache.write(BLOB, [(0, b"abc")])
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    """An operator may take a folder for it in which other files are."""
    (tmp_path / "thesis.odt").write_bytes(bytes(200 * KIB))
    (tmp_path / "0123456789abcdef0123456789abcdef").symlink_to(tmp_path / "thesis.odt")
    cache = opened(tmp_path, limit=100 * KIB)
    assert cache.used_bytes == 0
    cache.write(BLOB, [(0, noise(1, 50 * KIB))])
    cache.write(OTHER, [(0, noise(2, 80 * KIB))])
    assert (tmp_path / "thesis.odt").stat().st_size == 200 * KIB
    assert len([*tmp_path.iterdir()]) == 3


def at_hand(cache: StoredBytes) -> int:
    """The records of which the places are in memory."""
    return sum(len(blob.records or ()) for blob in cache._blobs.values())


@pytest.mark.parametrize("limit", [3, 25, 60])
def test_no_more_places_of_records_are_remembered_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("imsd.nbd.stored_bytes.MAX_RECORDS", limit)
    cache = opened(tmp_path)
    blobs = [BlobId(f"packs/{number}") for number in range(6)]
    generator = random.Random(limit)
    for place in range(10):
        for number, blob in enumerate(blobs):
            assert cache.write(blob, [(place * 1000, noise(100 * number + place, 1000))])
            assert at_hand(cache) <= limit
    for each in (cache, opened(tmp_path)):
        for _ in range(100):
            number, place = generator.randrange(6), generator.randrange(10)
            found = each.read(blobs[number], [ByteRange(1000 * place, 1000)])
            assert found == [noise(100 * number + place, 1000)]
            assert at_hand(each) <= limit
    assert len(list(tmp_path.iterdir())) == 6


def test_places_of_what_was_used_last_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imsd.nbd.stored_bytes.MAX_RECORDS", 4)
    cache = opened(tmp_path)
    third = BlobId("packs/ef/efg")
    for blob in (BLOB, OTHER):
        cache.write(blob, [(0, b"abc"), (5, b"def")])
    cache.read(BLOB, [ByteRange(0, 3)])
    cache.write(third, [(0, b"xyz")])
    assert [blob.records is None for blob in cache._blobs.values()] == [True, False, False]
    cache.forget(BLOB)
    cache.read(OTHER, [ByteRange(0, 3)])  # there is room again
    assert [blob.records is None for blob in cache._blobs.values()] == [False, False]


def test_places_are_forgotten_and_found_again_under_those_who_read_and_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imsd.nbd.stored_bytes.MAX_RECORDS", 10)
    cache = opened(tmp_path)
    blobs = [BlobId(f"packs/{number}") for number in range(4)]
    content = noise(1, 100_000)
    for blob in blobs:
        cache.write(blob, [(0, content[:1000])])

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for place in range(1, 100):
            blob = generator.choice(blobs)
            start = 1000 * place
            assert cache.write(blob, [(start, content[start : start + 1000])])
            found = cache.read(blob, [ByteRange(start, 1000), ByteRange(0, 1000)])
            assert found == [content[start : start + 1000], content[:1000]]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert at_hand(cache) <= 10

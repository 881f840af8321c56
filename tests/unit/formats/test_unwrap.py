"""Files that were compressed whole."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from itertools import chain

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imsd.contract import ImageRefused
from imsd.formats import unwrap
from imsd.formats.unwrap import FIRST_BYTES, HEAD_BYTES, PIECE_BYTES, WRAPPERS, Unwrapper, wrapper_of
from imsd.formats.wrapped_members import Decompressor

PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
}
PLAIN = random.Random(1).randbytes(200_000) + bytes(3 << 20) + b"x" * 70_000
LIMIT = 1 << 30


def unpacked(wrapper: str, file: bytes, step: int = 1 << 20, limit: int = LIMIT) -> bytes:
    unwrapper = Unwrapper(wrapper, limit)
    pieces = [piece for at in range(0, len(file), step) for piece in unwrapper.feed(file[at : at + step])]
    unwrapper.finish()
    assert max(map(len, pieces)) <= PIECE_BYTES
    return b"".join(pieces)


def refusal(wrapper: str, file: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(ImageRefused) as refused:
        unpacked(wrapper, file, limit=limit)
    assert refused.value.hint
    return refused.value.reason


def test_every_wrapper_is_tried() -> None:
    assert set(PACK) == set(WRAPPERS)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_members_that_follow_one_another_are_one_file(wrapper: str, step: int) -> None:
    first, second = PLAIN[-100_000 if step == 1 else 0 :], b"second" * 1000
    file = PACK[wrapper](first) + PACK[wrapper](second) + bytes(8)
    assert wrapper_of(file) == wrapper
    assert unpacked(wrapper, file, step) == first + second


class Counting:
    """A decompressor; ``given`` hears the length of whatever it is given."""

    def __init__(self, inner: Decompressor, given: list[int]) -> None:
        self._inner = inner
        self._given = given

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._given.append(len(data))
        return self._inner.decompress(data, max_length)


def counting(monkeypatch: pytest.MonkeyPatch, wrapper: str) -> list[int]:
    """The lengths of all that decompressors are given from now on."""
    given: list[int] = []
    magic, new = WRAPPERS[wrapper]
    monkeypatch.setitem(unwrap.WRAPPERS, wrapper, (magic, lambda: Counting(new(), given)))
    return given


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_each_of_many_small_members_is_given_little_more_than_itself(
    wrapper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, member = counting(monkeypatch, wrapper), PACK[wrapper](b"x")
    assert unpacked(wrapper, member * 4000) == b"x" * 4000
    assert sum(given) <= 4000 * FIRST_BYTES


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_member_between_others_is_given_twice_what_it_takes_at_most(
    wrapper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, member = counting(monkeypatch, wrapper), PACK[wrapper](PLAIN[:10_000])
    assert unpacked(wrapper, member * 40) == PLAIN[:10_000] * 40
    assert sum(given) <= 40 * 2 * len(member)


@pytest.mark.parametrize("another", WRAPPERS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("length", [1, 5000])
def test_what_was_packed_twice_is_refused_before_any_of_it_is_given(
    wrapper: str, another: str, length: int
) -> None:
    inner = PACK[another](PLAIN[:5000])
    members = [inner[at : at + length] for at in range(0, 100, length)]
    file = b"".join(map(PACK[wrapper], members))
    pieces: list[bytes] = []
    with pytest.raises(ImageRefused) as refused:
        pieces.extend(Unwrapper(wrapper, LIMIT).feed(file))
    assert refused.value.reason == "FORMAT_UNSUPPORTED"
    assert f"{wrapper} file holds a {another} file" in refused.value.message
    assert len(b"".join(pieces)) < HEAD_BYTES


def gzip_member(plain: bytes, extra: bytes, name: bytes, comment: bytes, *, has_checksum: bool) -> bytes:
    """A member with any fields in its header, by the letter of RFC 1952."""
    flags = bool(extra) * 4 | bool(name) * 8 | bool(comment) * 16 | has_checksum * 2
    head = struct.pack("<HBBIBB", 0x8B1F, 8, flags, 0, 0, 255)
    head += struct.pack("<H", len(extra)) + extra if extra else b""
    head += b"".join(text + b"\0" for text in (name, comment) if text)
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if has_checksum else b""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return head + packer.compress(plain) + packer.flush() + struct.pack("<II", zlib.crc32(plain), len(plain))


@given(
    extra=st.binary(max_size=400),
    name=st.binary(max_size=30),
    comment=st.binary(max_size=30),
    has_checksum=st.booleans(),
    step=st.sampled_from([1, 2, 7, 100, 1000, 1 << 20]),
)
def test_a_gzip_header_with_anything_in_it_may_come_in_pieces(
    extra: bytes, name: bytes, comment: bytes, has_checksum: bool, step: int
) -> None:
    plains = [b"one" * 300, b"two" * 400, PLAIN[:500]]
    texts = (extra, name.replace(b"\0", b"n"), comment.replace(b"\0", b"c"))
    file = b"".join(gzip_member(plain, *texts, has_checksum=has_checksum) for plain in plains)
    assert gzip.decompress(file) == unpacked("gzip", file, step) == b"".join(plains)


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("at", "content"),
    [(3, b"\x20"), (3, b"\x80"), (2, b"\x07"), (20, b"\x01"), (10, b"\xff\xff")],
)
def test_a_gzip_header_that_is_wrong_is_refused_in_any_pieces(at: int, content: bytes, step: int) -> None:
    file = bytearray(gzip_member(PLAIN[:99], b"extra field", b"name", b"", has_checksum=True))
    file[at : at + len(content)] = content
    with pytest.raises(ImageRefused) as refused:
        unpacked("gzip", bytes(file), step)
    assert refused.value.reason == ("IMAGE_TRUNCATED" if at == 10 else "IMAGE_MALFORMED")


@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_a_gzip_header_without_an_end_is_refused(step: int) -> None:
    file = b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * (1 << 20)
    with pytest.raises(ImageRefused, match="too long"):
        unpacked("gzip", file, step)


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_a_zstd_frame_of_another_length_than_it_says_is_refused_in_any_pieces(step: int) -> None:
    # Two bytes of content size, one block of 5 bytes as they are, an empty last block.
    frame = b"\x28\xb5\x2f\xfd\x60\x2c\x01" + b"\x28\x00\x00" + b"12345" + b"\x01\x00\x00"
    with pytest.raises(ImageRefused) as refused:
        unpacked("zstd", frame, step)
    assert refused.value.reason == "IMAGE_MALFORMED"


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_zstd_frames_to_be_skipped_are_skipped(step: int) -> None:
    skipped = b"\x53\x2a\x4d\x18" + struct.pack("<I", 40) + b"anything" * 5
    file = skipped + zstandard.compress(PLAIN[:5000]) + skipped
    assert wrapper_of(file) == "zstd"
    assert unpacked("zstd", file, step) == PLAIN[:5000]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_file_that_is_cut_short_is_refused(wrapper: str) -> None:
    file = PACK[wrapper](PLAIN)
    assert {refusal(wrapper, file[:length]) for length in (20, len(file) // 2, len(file) - 1)} == {
        "IMAGE_TRUNCATED"
    }


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_follows_the_end_is_refused(wrapper: str) -> None:
    assert refusal(wrapper, PACK[wrapper](PLAIN) + b"something else") == "IMAGE_MALFORMED"


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_file_that_holds_nothing_is_refused(wrapper: str) -> None:
    unwrapper = Unwrapper(wrapper, LIMIT)
    assert not list(unwrapper.feed(PACK[wrapper](b"")))
    with pytest.raises(ImageRefused) as refused:
        unwrapper.finish()
    assert refused.value.reason == "IMAGE_EMPTY"


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_more_than_the_largest_file_is_refused(wrapper: str) -> None:
    assert refusal(wrapper, PACK[wrapper](PLAIN), limit=len(PLAIN) - 1) == "IMAGE_TOO_LARGE"
    assert unpacked(wrapper, PACK[wrapper](PLAIN), limit=len(PLAIN)) == PLAIN


def test_a_bomb_is_refused_by_its_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwrap, "FREE_BYTES", 8 << 20)
    bomb = zstandard.compress(bytes(64 << 20))
    assert len(bomb) * unwrap.MAX_RATIO < 64 << 20
    assert refusal("zstd", bomb) == "IMAGE_EXPANDS_TOO_MUCH"


@pytest.mark.parametrize("wrapper", ["gzip", "zstd"])
def test_a_bomb_of_data_is_refused_by_its_ratio(wrapper: str) -> None:
    member = PACK[wrapper](b"A" * (64 << 20))
    unwrapper = Unwrapper(wrapper, 1 << 40)
    pieces = chain.from_iterable(unwrapper.feed(member) for _ in range(20))
    with pytest.raises(ImageRefused) as refused:
        deque(pieces, maxlen=0)
    assert refused.value.reason == "IMAGE_EXPANDS_TOO_MUCH"
    assert unwrapper.given_bytes <= unwrap.FREE_DATA_BYTES + PIECE_BYTES


def test_a_sparse_disk_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwrap, "FREE_DATA_BYTES", 64 << 10)
    disk = bytearray(64 << 20)
    for start in range(0, len(disk), 2 << 20):
        disk[start : start + 4096] = random.Random(start).randbytes(4096)
    packed = zstandard.compress(disk)
    assert len(packed) * unwrap.MAX_DATA_RATIO < len(disk)
    assert unpacked("zstd", packed) == disk


def test_only_blocks_that_hold_something_count_as_data() -> None:
    unwrapper = Unwrapper("zstd", LIMIT)
    plain = bytes(8192) + b"x" + bytes(4095) + bytes(100) + b"y"
    assert b"".join(unwrapper.feed(zstandard.compress(plain))) == plain
    assert unwrapper.data_bytes == 4096 + 101


def test_an_xz_file_that_wants_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]
    assert refusal("xz", lzma.compress(b"x" * 1000, lzma.FORMAT_XZ, filters=filters)) == "IMAGE_MALFORMED"


def test_a_zstd_file_that_wants_much_memory_is_refused() -> None:
    # A frame header with a window of 1 GiB: magic, no single segment, window log 30.
    frame = (
        b"\x28\xb5\x2f\xfd"
        + b"\x00"
        + bytes([(30 - 10) << 3])
        + (1 | 8 << 3).to_bytes(3, "little")
        + b"x" * 8
    )
    assert refusal("zstd", frame) == "IMAGE_MALFORMED"


@pytest.mark.parametrize("wrapper", WRAPPERS)
@given(seed=st.integers(0, 1 << 30))
def test_damage_is_refused_or_harmless(wrapper: str, seed: int) -> None:
    chosen = random.Random(seed)
    file = bytearray(PACK[wrapper](PLAIN[:50_000]))
    for _ in range(chosen.randrange(1, 4)):
        file[chosen.randrange(len(file))] ^= 1 << chosen.randrange(8)
    try:
        ending = f"{len(unpacked(wrapper, bytes(file)))} bytes"  # a name or a time in the header is wrong
    except ImageRefused as refused:
        ending = refused.reason
    assert ending in {"50000 bytes", "IMAGE_MALFORMED", "IMAGE_TRUNCATED"}


@pytest.mark.parametrize(
    "head", [b"", b"BZh9", b"BZhello wor", b"\x1f\x8b", b"PK\x03\x04" + bytes(9), b"QFI\xfb" + bytes(9)]
)
def test_other_files_have_no_wrapper(head: bytes) -> None:
    assert wrapper_of(head) is None

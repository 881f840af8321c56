"""The tree digest against its definition, and its resumable hasher."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from imsd.chunks.tree_digest import LEAF_BYTES, TreeHasher, leaf_digests, parse_digest

SIZES = [
    0,
    1,
    511,
    LEAF_BYTES - 1,
    LEAF_BYTES,
    LEAF_BYTES + 1,
    3 * LEAF_BYTES,
    5 * LEAF_BYTES + 7,
    8 * LEAF_BYTES,
]


def by_definition(content: bytes) -> str:
    def digest(context: str, data: bytes) -> bytes:
        return blake3(data, derive_key_context=context).digest()

    leaves = [
        content[i : i + LEAF_BYTES].ljust(LEAF_BYTES, b"\0") for i in range(0, len(content), LEAF_BYTES)
    ]
    row = [digest("imsd tree leaf v1", leaf) for leaf in leaves or [bytes(LEAF_BYTES)]]
    while len(row) & (len(row) - 1):
        row.append(digest("imsd tree leaf v1", bytes(LEAF_BYTES)))
    while len(row) > 1:
        row = [digest("imsd tree node v1", row[i] + row[i + 1]) for i in range(0, len(row), 2)]
    return "b3t:" + digest("imsd tree root v1", len(content).to_bytes(8, "little") + row[0]).hex()


def content_of(size: int) -> bytes:
    return (b"imsd block of a disk " * (size // 21 + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
def test_the_digest_is_the_one_of_the_definition(size: int) -> None:
    hasher = TreeHasher()
    hasher.update(content_of(size))
    assert hasher.digest() == by_definition(content_of(size))


@pytest.mark.parametrize("size", SIZES)
def test_zeros_are_worth_as_much_as_their_bytes(size: int) -> None:
    hasher = TreeHasher()
    hasher.zeros(size)
    assert hasher.digest() == by_definition(bytes(size))


pieces = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.integers(0, 3 * LEAF_BYTES),
            st.sampled_from([0, 1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 2 * LEAF_BYTES]),
        ),
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(pieces, st.data())
def test_pieces_and_restarts_do_not_matter(parts: list[tuple[bool, int]], data: st.DataObject) -> None:
    hasher = TreeHasher()
    content = b""
    for is_zero, size in parts:
        if is_zero:
            hasher.zeros(size)
            content += bytes(size)
        else:
            hasher.update(content_of(size))
            content += content_of(size)
        if data.draw(st.booleans()):
            hasher = TreeHasher.from_state(hasher.state())
        assert hasher.position == len(content)
    assert hasher.digest() == by_definition(content)
    assert hasher.digest() == by_definition(content), "asking changes nothing"


def test_leaves_hashed_elsewhere_count_the_same() -> None:
    content = content_of(6 * LEAF_BYTES + 100)
    hasher = TreeHasher()
    hasher.add_leaves(leaf_digests(memoryview(content)[: 6 * LEAF_BYTES]))
    hasher.update(content[6 * LEAF_BYTES :])
    assert hasher.digest() == by_definition(content)
    with pytest.raises(ValueError, match="inside a leaf"):
        hasher.add_leaves([bytes(32)])


def test_the_size_is_part_of_the_identity() -> None:
    digests = set()
    for size in (0, 1, 512, LEAF_BYTES, LEAF_BYTES + 512):
        hasher = TreeHasher()
        hasher.zeros(size)
        digests.add(hasher.digest())
    assert len(digests) == 5


def test_the_largest_disk_is_hashed_at_once_and_a_larger_one_refused() -> None:
    hasher = TreeHasher()
    hasher.update(b"boot")
    hasher.zeros(2**63 - 5)
    assert hasher.position == 2**63 - 1
    assert TreeHasher.from_state(hasher.state()).digest() == hasher.digest()
    with pytest.raises(ValueError, match="out of range"):
        hasher.zeros(1)
    with pytest.raises(ValueError, match="out of range"):
        TreeHasher().zeros(-1)


def saved_state() -> bytes:
    hasher = TreeHasher()
    hasher.update(content_of(5 * LEAF_BYTES + 1000))
    return hasher.state()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 31, 32, 100, -1])
def test_a_state_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="state of a tree hasher"):
        TreeHasher.from_state(saved_state()[:length])


@given(st.integers(0, len(saved_state()) - 1), st.integers(1, 255))
def test_a_state_with_an_altered_byte_is_refused(place: int, change: int) -> None:
    state = bytearray(saved_state())
    state[place] ^= change
    with pytest.raises(ValueError, match="state of a tree hasher"):
        TreeHasher.from_state(bytes(state))


@pytest.mark.parametrize(
    ("position", "magic"),
    [(2**64 - 1, b"imsdtre1"), (LEAF_BYTES, b"imsdtre1"), (5, b"imsdtre1"), (0, b"imsdtre2")],
)
def test_a_forged_state_is_refused(position: int, magic: bytes) -> None:
    content = magic + position.to_bytes(8, "little")
    with pytest.raises(ValueError, match="of another kind"):
        TreeHasher.from_state(content + blake3(content).digest(16))


@pytest.mark.parametrize("text", ["", "b3t:", "b3t:" + "0" * 63, "sha256:" + "0" * 64, "b3t:" + "g" * 64])
def test_a_digest_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tree digest|hexadecimal"):
        parse_digest(text)

"""What a data key does: each thing for one purpose, one image and one place; and it is told to nobody."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.chunks.cipher import NONCE_BYTES, SEAL_BYTES, ChunkCipher, ChunkPlace
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import Codec
from imsd.chunks.ingest import DiskIngest
from imsd.chunks.manifest_writer import ManifestWriter
from imsd.chunks.tree_digest import TreeHasher, parse_digest
from imsd.contract import DataLoss
from tests.unit.chunks.ingest_world import ListSink, World, noise

KEY = noise(1, 32)
CIPHER = ChunkCipher(KEY, "image-1")
PLACE = ChunkPlace(bytes(range(32)), 4096, 8192, Codec.SEALED_ZSTD, 4096, 20)
OTHERS = [ChunkCipher(KEY, "image-2"), ChunkCipher(noise(2, 32), "image-1"), ChunkCipher(KEY, "image-11")]


def sealed(content: bytes, place: ChunkPlace = PLACE, cipher: ChunkCipher = CIPHER, seed: int = 3) -> bytes:
    result = bytearray(len(content) + SEAL_BYTES)
    cipher.seal_chunk(place, content, noise(seed, NONCE_BYTES), memoryview(result))
    return bytes(result)


def opened(stored: bytes, place: ChunkPlace = PLACE, cipher: ChunkCipher = CIPHER) -> bytes | None:
    content = bytearray(max(0, len(stored) - SEAL_BYTES))
    is_opened = cipher.open_chunk(place, memoryview(stored), memoryview(content))
    return bytes(content) if is_opened else None


@given(st.binary(max_size=300))
def test_what_was_sealed_is_opened_and_is_longer_by_the_seal(content: bytes) -> None:
    stored = sealed(content)
    assert opened(stored) == content
    assert len(stored) == len(content) + SEAL_BYTES


def test_no_bit_of_a_sealed_chunk_can_be_changed() -> None:
    stored = sealed(b"a chunk")
    for bit in range(8 * len(stored)):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        assert opened(bytes(changed)) is None
    for length in range(len(stored)):
        assert opened(stored[:length]) is None
    assert opened(stored + b"\0") is None


@pytest.mark.parametrize("field", ChunkPlace._fields)
def test_a_sealed_chunk_is_good_at_its_place_only(field: str) -> None:
    value = getattr(PLACE, field)
    other = value[::-1] if isinstance(value, bytes) else value ^ 1
    moved = ChunkPlace(**{**PLACE._asdict(), field: other})
    assert opened(sealed(b"a chunk"), moved) is None


@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_nothing_of_one_image_is_good_for_another(other: ChunkCipher) -> None:
    assert opened(sealed(b"a chunk"), cipher=other) is None
    assert other.chunk_digest(0, b"a chunk") != CIPHER.chunk_digest(0, b"a chunk")
    plain = TreeHasher().digest()
    assert other.tree_digest(plain) != CIPHER.tree_digest(plain)
    assert not other.proves("manifest", b"footer", CIPHER.mac("manifest", b"footer"))
    with pytest.raises(DataLoss, match="another key") as refused:
        other.open("state", CIPHER.seal("state", b"where it stands"))
    assert refused.value.reason == "KEY_MISMATCH"
    piece = memoryview(bytearray(4 + SEAL_BYTES))
    CIPHER.seal_part(b"part", b"data", piece)
    assert not other.open_part(b"part", piece, memoryview(bytearray(4)))


def test_the_same_bytes_elsewhere_on_the_disk_have_another_digest() -> None:
    digests = {CIPHER.chunk_digest(start, b"same") for start in (0, 4096, 1 << 40)}
    assert len(digests) == 3
    assert CIPHER.chunk_digest(4096, b"same") in digests


def test_a_tree_digest_with_a_key_can_be_compared_by_who_has_the_key() -> None:
    plain = TreeHasher().digest()
    keyed = CIPHER.tree_digest(plain)
    assert keyed.startswith("b3k:")
    assert keyed == ChunkCipher(KEY, "image-1").tree_digest(plain)
    assert plain.removeprefix("b3t:") not in keyed
    for parse in (parse_digest, CIPHER.tree_digest):
        with pytest.raises(ValueError, match="b3t:"):
            parse(keyed)


def test_a_proof_is_good_for_its_label_only() -> None:
    proof = CIPHER.mac("segment 1", b"rows")
    assert CIPHER.proves("segment 1", b"rows", proof)
    assert not CIPHER.proves("segment ", b"1rows", proof)
    assert not CIPHER.proves("segment 11", b"rows", proof)
    assert not CIPHER.proves("segment 1", b"rows", proof[:-1])


def test_what_is_kept_is_good_for_its_label_only_and_never_the_same_twice() -> None:
    kept = CIPHER.seal("upload 1", b"where it stands")
    assert CIPHER.open("upload 1", kept) == b"where it stands"
    assert CIPHER.seal("upload 1", b"where it stands") != kept
    for label, content in [("upload 2", kept), ("upload 1", kept[:-1]), ("upload 1", b""), ("upload 1", KEY)]:
        with pytest.raises(DataLoss, match="altered"):
            CIPHER.open(label, content)


@pytest.mark.parametrize("tell", [repr, str, "{}".format])
def test_a_cipher_does_not_tell_its_key(tell: Callable[[ChunkCipher], str]) -> None:
    told = tell(CIPHER)
    assert KEY.hex() not in told
    assert repr(KEY) not in told


def test_a_target_does_not_tell_the_key(pool: DecodePool) -> None:
    told = repr(World(pool, cipher=CIPHER).target)
    assert "<ChunkCipher of image-1>" in told
    assert "AESGCM" not in told


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_cipher_is_not_copied(take: Callable[[ChunkCipher], object]) -> None:
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        take(CIPHER)


@pytest.mark.parametrize(("key", "binding"), [(KEY[:31], "image"), (KEY + b"x", "image"), (KEY, "")])
def test_a_data_key_has_32_bytes_and_an_image(key: bytes, binding: str) -> None:
    with pytest.raises(ValueError, match="data key"):
        ChunkCipher(key, binding)


def test_threads_may_share_a_cipher() -> None:
    contents = [noise(seed, 50_000) for seed in range(4)]
    stored = [sealed(content) for content in contents]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            if opened(stored[number]) != contents[number] or sealed(contents[number]) != stored[number]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_stored_in_the_domain_of_an_encrypted_image_without_its_cipher(pool: DecodePool) -> None:
    target = World(pool, cipher=CIPHER).target
    for wrong in (
        replace(target, cipher=None),
        replace(target, cipher=OTHERS[0]),
        replace(target, domain="project-1"),
    ):
        with pytest.raises(ValueError, match="is not sealed"):
            DiskIngest(pool, wrong, ListSink())
        with pytest.raises(ValueError, match="is not sealed"):
            ManifestWriter(wrong)

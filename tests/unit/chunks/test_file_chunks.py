"""A file is cut by a client as the daemon cuts it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from blake3 import blake3

from imsd.chunks.chunker import Chunker, scan_blocks
from imsd.chunks.file_chunks import FileChunk, FileChunks
from imsd.chunks.known_chunks import proof_of
from imsd.chunks.tree_digest import TreeHasher

KEY = bytes(range(32))
BLOCK = 4096


def a_disk(seed: int, blocks: int, tail: int = 0) -> bytes:
    """Runs of data and of zeros, of all lengths."""
    chance = random.Random(seed)
    disk = bytearray()
    while len(disk) < blocks * BLOCK:
        count = chance.choice([1, 2, 7, 8, 9, 40, 200])
        disk += bytes(count * BLOCK) if chance.random() < 0.4 else chance.randbytes(count * BLOCK)
    return bytes(disk[: blocks * BLOCK]) + chance.randbytes(tail)


def cut_at_once(disk: bytes) -> list[tuple[int, int]]:
    padded = disk + bytes(-len(disk) % BLOCK)
    chunker = Chunker()
    chunks = chunker.feed(scan_blocks(memoryview(padded))) + chunker.end()
    places = [(first * BLOCK, blocks * BLOCK) for first, blocks in chunks]
    return [(start, length) for start, length in places if start + length <= len(disk)]


def cut_in_pieces(disk: bytes, chance: random.Random) -> tuple[list[FileChunk], str]:
    """As a file comes: pieces of any length, zeros told as such or not."""
    chunks, position = FileChunks(KEY), 0
    found: list[FileChunk] = []
    while position < len(disk):
        length = min(chance.choice([1, 511, 4096, 5000, 70_000, 1 << 20]), len(disk) - position)
        piece = disk[position : position + length]
        is_told = not any(piece) and chance.random() < 0.7
        found += chunks.zeros(length) if is_told else chunks.data(piece)
        position += length
    found += chunks.end()
    return found, chunks.digest()


@pytest.mark.parametrize("seed", range(12))
def test_pieces_do_not_matter(seed: int) -> None:
    disk = a_disk(seed, 900, tail=0 if seed % 2 else 777)
    found, digest = cut_in_pieces(disk, random.Random(seed))
    assert [(chunk.start, chunk.length) for chunk in found] == cut_at_once(disk)
    for chunk in found:
        content = disk[chunk.start : chunk.start + chunk.length]
        assert chunk.digest == blake3(content).digest()
        assert chunk.proof == proof_of(content, KEY)
    hasher = TreeHasher()
    hasher.update(disk)
    assert digest == hasher.digest()


def test_a_proof_depends_on_the_key() -> None:
    assert proof_of(b"boot sector", KEY) != proof_of(b"boot sector", bytes(32))


def test_a_file_of_holes_only_has_no_chunk(tmp_path: Path) -> None:
    chunks = FileChunks(KEY)
    assert list(chunks.zeros(1 << 40)) + list(chunks.end()) == []

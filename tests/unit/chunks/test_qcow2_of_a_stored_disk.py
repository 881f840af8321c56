"""A QCOW2 file of what is stored: frames at every place around the borders of clusters, read by qemu."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.render import render
from imsd.formats.output import held_bytes
from imsd.formats.qcow2_writer import Qcow2Writer
from imsd.formats.raw_writer import RawWriter
from tests.unit.chunks.ingest_world import KIB, MIB, SparseDisk, World, noise, text
from tests.unit.formats.disk_files import bytes_of, qemu_img

BORDER = 2 * MIB


def a_piece(chance: random.Random) -> bytes:
    length = chance.choice([chance.randrange(1, 40), chance.randrange(1, 300)]) * 4 * KIB
    kind = chance.choice(["noise", "constant", "mixed", "text", "text"])
    if kind == "noise":
        return noise(chance.randrange(1000), length)
    if kind == "constant":
        return bytes([chance.randrange(1, 256)]) * length
    if kind == "mixed":
        return noise(chance.randrange(1000), length // 2) + text(chance.randrange(1000), length - length // 2)
    return text(chance.randrange(1000), length)


def a_disk(chance: random.Random, shared: list[bytes]) -> SparseDisk:
    """Pieces of ``shared``, many of them across a border: stored in two frames, and used elsewhere."""
    size = chance.choice([12 * MIB, 64 * MIB]) + chance.randrange(8000) * 512
    pieces: dict[int, bytes] = {}
    position = 0
    while position < size and len(pieces) < 40:
        piece = chance.choice(shared)
        position += chance.choice([0, 0, 4 * KIB, chance.randrange(300) * 4 * KIB])
        if chance.random() < 0.4:
            border = (position // BORDER + 1) * BORDER
            position = max(position, border - chance.randrange(1, 140) * 4 * KIB)
        piece = piece[: max(0, size - position)]
        if piece:
            pieces[position] = piece
        position += len(piece)
    return SparseDisk(size, pieces)


@pytest.mark.parametrize("seed", range(6))
async def test_qemu_reads_the_disk_that_was_stored(seed: int, pool: DecodePool, tmp_path: Path) -> None:
    cipher = ChunkCipher(noise(seed, 32), "image-1") if seed % 2 else None
    chance, world = random.Random(seed), World(pool, cipher=cipher)
    shared = [a_piece(chance) for _ in range(5)]
    for _ in range(2):
        disk = a_disk(chance, shared)
        content = disk.content()
        raw, qcow2 = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
        raw.write_bytes(content)
        _, stored = await world.store_disk(disk)
        async with open_chunk_reader(world.store, stored.manifest_id, pool, cipher=cipher) as reader:
            for writer in (RawWriter(reader), RawWriter(reader, may_frame=True)):
                assert bytes_of([o async for piece in render(writer, pool) for o in piece]) == content
            for bits in (None, 21, chance.choice([12, 13, 16])):
                compressed = Qcow2Writer(reader, chance.choice(["zstd", "zstd", "zlib"]), bits)
                written = bytes_of([o async for piece in render(compressed, pool) for o in piece])
                assert len(written) == compressed.file_size_bytes()
                qcow2.write_bytes(written)
                qemu_img("check", "-q", "-f", "qcow2", qcow2)
                qemu_img("compare", "-q", "-f", "qcow2", "-F", "raw", qcow2, raw)
    assert await world.budget_is_whole()


async def test_many_frames_across_borders_of_small_clusters_are_fetched_at_once(pool: DecodePool) -> None:
    """One fetch for each of them would be refused as without end, and slow."""
    size, world = 12 * MIB, World(pool)
    borders = range(64 * KIB, size, 64 * KIB)
    disk = SparseDisk(size, {border - 4 * KIB: text(border, 8 * KIB) for border in borders})
    _, stored = await world.store_disk(disk)
    async with open_chunk_reader(world.store, stored.manifest_id, pool) as reader:
        writer = Qcow2Writer(reader, "zstd")
        written = bytes_of([o async for piece in render(writer, pool) for o in piece])
        assert len(written) == writer.file_size_bytes()


async def test_a_frame_that_waits_does_not_keep_what_lay_beside_it(pool: DecodePool) -> None:
    """Small chunks between large ones of another disk: what is read is not much more than what is sent."""
    world = World(pool)
    small = [text(n, 4 * KIB) for n in range(1, 200)]
    lying = {n * 128 * KIB: piece + noise(n, 60 * KIB) for n, piece in enumerate(small)}
    await world.store_disk(SparseDisk(200 * 128 * KIB, lying))
    alone = SparseDisk(200 * 128 * KIB, {n * 128 * KIB: piece for n, piece in enumerate(small)})
    _, stored = await world.store_disk(alone)
    async with open_chunk_reader(world.store, stored.manifest_id, pool) as reader:
        frames = [o async for piece in render(RawWriter(reader, may_frame=True), pool) for o in piece]
        assert held_bytes(frames) < 3 * len(small) * 4 * KIB

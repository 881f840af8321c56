"""Disks that are stored sealed: they come back, are found again, and show nothing to who has no key."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest
import zstandard

from imsd.chunks.chunk_reader import ChunkReader, open_chunk_reader
from imsd.chunks.cipher import NONCE_BYTES, ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.index import Codec, pack_blob
from imsd.chunks.manifest_reader import StoredChunk, open_manifest
from imsd.chunks.verify import verify
from imsd.contract import BlobId, DataLoss
from tests.unit.chunks.ingest_world import KIB, MIB, SparseDisk, World, noise, text
from tests.unit.chunks.stored_disk import get

KEY = noise(1, 32)
MARK = b"this must not be seen in the store "


def cipher(binding: str = "image-1", key: bytes = KEY) -> ChunkCipher:
    return ChunkCipher(key, binding)


def disk(seed: int = 1) -> SparseDisk:
    """Frames, two frames at 2 MiB, plain bytes, a long run of zeros, an end inside a block."""
    return SparseDisk(
        9 * MIB + 5 * KIB,
        {
            0: text(seed, 600 * KIB) + MARK * 4000,
            2 * MIB - 50 * KIB: text(seed + 1, 200 * KIB),
            4 * MIB: noise(seed + 2, 300 * KIB),
            9 * MIB: text(seed + 3, 5 * KIB),
        },
    )


async def stored_chunks(world: World, manifest_id: str) -> list[StoredChunk]:
    manifest = await open_manifest(world.store, manifest_id, world.pool)
    return await world.pool.run(manifest.chunks, 0, manifest.size_bytes)


async def packs_of(world: World) -> bytes:
    return b"".join([await get(world.store, BlobId(blob)) for blob in await world.blobs("packs/")])


async def test_an_encrypted_disk_comes_back(pool: DecodePool) -> None:
    world = World(pool, cipher=cipher())
    result, written = await world.store_disk(disk())
    assert await world.read_back(written.manifest_id) == disk().content()
    assert result.digest == cipher().tree_digest(disk().digest())
    chunks = await stored_chunks(world, written.manifest_id)
    assert {Codec(chunk.codec) for chunk in chunks} == {Codec.SEALED_RAW, Codec.SEALED_ZSTD}
    assert any(chunk.first_length for chunk in chunks)


async def test_verify_of_an_encrypted_disk_compares_keyed_digests(pool: DecodePool) -> None:
    world = World(pool, cipher=cipher())
    result, written = await world.store_disk(disk())
    async with open_chunk_reader(
        world.store, written.manifest_id, pool, digests=True, cipher=cipher()
    ) as reader:
        found = await verify(reader, pool)
        assert (found.damage, found.digest) == ([], result.digest)
        assert reader.digest == result.digest


async def test_the_store_holds_nothing_of_the_disk_that_could_be_seen(pool: DecodePool) -> None:
    world = World(pool, cipher=cipher())
    _, written = await world.store_disk(disk())
    chunks = await stored_chunks(world, written.manifest_id)
    packs = await packs_of(world)
    everything = b"".join([await get(world.store, BlobId(blob)) for blob in await world.blobs()])
    assert MARK not in everything
    assert zstandard.FRAME_HEADER not in packs
    assert len(zlib.compress(packs, 9)) > 0.999 * len(packs)
    assert not any(content in everything for content in (KEY, KEY.hex().encode()))
    plain = World(pool)
    await plain.store_disk(disk())
    assert zstandard.FRAME_HEADER in await packs_of(plain)
    assert len(packs) == len(await packs_of(plain)) + 28 * len(chunks)


async def test_equal_disks_of_two_images_have_nothing_in_common(pool: DecodePool) -> None:
    world = World(pool)
    written = []
    for binding, key in [("image-1", KEY), ("image-2", KEY), ("image-3", noise(9, 32))]:
        world.cipher = cipher(binding, key)
        written.append((await world.store_disk(disk()))[1].manifest_id)
    images = [await stored_chunks(world, manifest_id) for manifest_id in written]
    digests = [{chunk.digest for chunk in chunks} for chunks in images]
    assert sum(map(len, digests)) == len(set.union(*digests))
    assert len({len(chunks) for chunks in images}) == 1


async def test_equal_chunks_of_a_disk_do_not_look_equal(pool: DecodePool) -> None:
    same = text(5, 64 * KIB)
    world = World(pool, cipher=cipher())
    _, written = await world.store_disk(SparseDisk(8 * MIB, dict.fromkeys((0, MIB, 3 * MIB), same)))
    chunks = await stored_chunks(world, written.manifest_id)
    assert len({chunk.digest for chunk in chunks}) == len(chunks)
    assert len({chunk.offset for chunk in chunks}) == len(chunks)


async def test_another_run_finds_the_chunks_of_the_one_before(pool: DecodePool) -> None:
    world = World(pool, cipher=cipher())
    first, old = await world.store_disk(disk())
    second, new = await world.store_disk(disk())
    assert first.new_size > 0
    assert second.new_size == 0
    assert second.digest == first.digest
    places = [
        [(chunk.pack, chunk.offset) for chunk in await stored_chunks(world, manifest_id)]
        for manifest_id in (old.manifest_id, new.manifest_id)
    ]
    assert places[0] == places[1]
    assert await world.read_back(new.manifest_id) == disk().content()


async def test_no_nonce_is_used_twice_though_chunks_are_stored_again(pool: DecodePool) -> None:
    world = World(pool, cipher=cipher())
    nonces: list[bytes] = []
    for run in range(3):
        _, written = await world.store_disk(disk())
        pack_ids = (await open_manifest(world.store, written.manifest_id, pool)).pack_ids
        chunks = await stored_chunks(world, written.manifest_id)
        for chunk in chunks:
            pack = await get(world.store, pack_blob(pack_ids[chunk.pack]))
            nonces.append(pack[chunk.offset :][:NONCE_BYTES])
        await world.index.distrust(pack_ids)  # so all of it is stored again
        assert len(set(nonces)) == len(nonces) == (run + 1) * len(chunks)


async def frames_of(reader: ChunkReader, pool: DecodePool) -> Sequence[tuple[int, int, bytes | None]]:
    frames = await pool.run(reader.frames, 0, reader.size_bytes)
    return [(frame.start, frame.length, bytes(frame.frame) if frame.frame else None) for frame in frames]


async def test_frames_travel_as_those_of_a_plain_image(pool: DecodePool) -> None:
    sealed, plain = World(pool, cipher=cipher()), World(pool)
    _, one = await sealed.store_disk(disk())
    _, two = await plain.store_disk(disk())
    async with (
        open_chunk_reader(sealed.store, one.manifest_id, pool, cipher=cipher()) as first,
        open_chunk_reader(plain.store, two.manifest_id, pool) as second,
    ):
        assert await frames_of(first, pool) == await frames_of(second, pool)
        tables = [await pool.run(reader.frame_table, 0, reader.size_bytes) for reader in (first, second)]
        assert tables[0] == tables[1]


@pytest.mark.parametrize("other", [cipher("image-2"), cipher(key=noise(2, 32))], ids=repr)
async def test_the_key_of_another_image_opens_nothing(pool: DecodePool, other: ChunkCipher) -> None:
    world = World(pool, cipher=cipher())
    _, written = await world.store_disk(disk())
    with pytest.raises(DataLoss, match="was not written with the data key of") as refused:
        async with open_chunk_reader(world.store, written.manifest_id, pool, cipher=other):
            pass
    assert refused.value.reason == "KEY_MISMATCH"


async def test_an_encrypted_manifest_is_not_read_without_a_key_nor_a_plain_one_with(pool: DecodePool) -> None:
    world = World(pool, cipher=cipher())
    _, sealed = await world.store_disk(disk())
    world.cipher = None
    _, plain = await world.store_disk(disk())
    with pytest.raises(DataLoss, match="it is that of an encrypted image"):
        await world.read_back(sealed.manifest_id)
    world.cipher = cipher()
    with pytest.raises(DataLoss, match="it is that of an image without encryption"):
        await world.read_back(plain.manifest_id)

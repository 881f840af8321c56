"""What who can write to the store may do to an encrypted image: damage it, and nothing that goes unnoticed.

He has no key, but he can compute every digest that has none, and knows where all chunks lie.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from imsd.chunks.chunk_reader import open_chunk_reader
from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.entry_rows import Rows
from imsd.chunks.index import Codec, content_blob, locations_blob, pack_blob
from imsd.chunks.layout import CONTENT_ENTRY, CONTENT_MAGIC, FOOTER, LOCATION_ENTRY
from imsd.chunks.manifest_reader import Footer, open_manifest
from imsd.chunks.verify import verify
from imsd.contract import BlobId, DataLoss
from tests.unit.chunks.ingest_world import KIB, MIB, SparseDisk, World, noise, text
from tests.unit.chunks.stored_disk import get, part, put

KEY = noise(1, 32)


def disk(seed: int = 1) -> SparseDisk:
    """One of any seed has its chunks where those of the others are, and as long: too short to be cut."""
    pieces = {
        0: text(seed, 28 * KIB),
        128 * KIB: noise(seed, 16 * KIB),
        2 * MIB - 8 * KIB: text(seed + 9, 24 * KIB),
    }
    return SparseDisk(4 * MIB, pieces)


@dataclass
class Attacked:
    """A stored image, its blobs as the attacker has them."""

    world: World
    manifest_id: str
    digest: str
    blobs: dict[BlobId, bytes] = field(default_factory=dict)

    @classmethod
    async def made(cls, world: World, seed: int = 1) -> Attacked:
        result, written = await world.store_disk(disk(seed))
        made = cls(world, written.manifest_id, result.digest)
        made.blobs = {blob: await get(world.store, blob) for blob in (made.content, made.locations)}
        return made

    @property
    def content(self) -> BlobId:
        return content_blob(self.manifest_id)

    @property
    def locations(self) -> BlobId:
        return locations_blob(self.manifest_id)

    def footer(self, blob: BlobId) -> Footer:
        return Footer(*FOOTER.unpack(self.blobs[blob][-FOOTER.size :]))

    def rows(self, blob: BlobId) -> Rows:
        entry = CONTENT_ENTRY if blob == self.content else LOCATION_ENTRY
        return np.frombuffer(self.blobs[blob], entry, self.footer(blob).entries).copy()

    async def rewrite(self, blob: BlobId, rows: Rows | None = None, **fields: Any) -> None:
        """Put other rows or fields of the footer in place, with true digests; the proof is what it was."""
        old = self.footer(blob)._replace(**fields)
        rows = self.rows(blob) if rows is None else rows
        is_content = blob == self.content
        starts = rows["start"] if is_content else np.zeros(len(rows), np.uint64)
        packs = self.blobs[blob][old.tables_at :][: 16 * old.packs]
        made = part(old.magic, rows, starts, packs, old.size_bytes, old.tree_digest)
        if is_content:
            proof = self.blobs[blob][-FOOTER.size - 32 : -FOOTER.size]
            made = made[: -FOOTER.size] + proof + made[-FOOTER.size :]
        await put(self.world.store, blob, made)

    async def read(self) -> bytes:
        return await self.world.read_back(self.manifest_id)


@pytest.fixture
def world(pool: DecodePool) -> World:
    return World(pool, cipher=ChunkCipher(KEY, "image-1"))


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


async def test_rewriting_without_a_change_changes_nothing(world: World) -> None:
    image = await Attacked.made(world)
    for blob in image.blobs:
        await image.rewrite(blob)
        assert await get(world.store, blob) == image.blobs[blob]
    assert await image.read() == disk().content()


@pytest.mark.parametrize("part_name", ["content", "locations"])
async def test_no_byte_of_a_manifest_can_be_changed(world: World, part_name: str) -> None:
    image = await Attacked.made(world)
    blob = getattr(image, part_name)
    whole = image.blobs[blob]
    for at in range(len(whole)):
        await put(world.store, blob, flipped(whole, at))
        with pytest.raises(DataLoss):
            await image.read()
    for length in (0, 1, len(whole) - 1, len(whole) - 32, len(whole) - FOOTER.size, len(whole) // 2):
        await put(world.store, blob, whole[:length])
        with pytest.raises(DataLoss):
            await image.read()


async def test_no_bit_of_a_stored_chunk_can_be_changed(world: World) -> None:
    image = await Attacked.made(world)
    (pack_id,) = (await open_manifest(world.store, image.manifest_id, world.pool)).pack_ids
    pack = await get(world.store, pack_blob(pack_id))
    rows = image.rows(image.locations)
    ends = [int(row["offset"]) + at for row in rows for at in (0, 11, 12, 13, int(row["stored_length"]) - 1)]
    for at in [*ends, *random.Random(1).sample(range(len(pack)), 30)]:
        await put(world.store, pack_blob(pack_id), flipped(pack, at))
        with pytest.raises(DataLoss, match="not those that were written"):
            await image.read()


@pytest.mark.parametrize("name", CONTENT_ENTRY.names or ())
async def test_no_field_of_the_content_can_be_changed(world: World, name: str) -> None:
    image = await Attacked.made(world)
    for number in range(image.footer(image.content).entries):
        rows = image.rows(image.content)
        value = rows[name][number]
        rows[name][number] = np.void(flipped(value.tobytes(), 0)) if name == "digest" else value ^ 4096
        await image.rewrite(image.content, rows)
        with pytest.raises(DataLoss, match="was not written with the data key of image-1, or altered"):
            await image.read()


@pytest.mark.parametrize("name", LOCATION_ENTRY.names or ())
async def test_a_changed_location_leads_nowhere(world: World, name: str) -> None:
    image = await Attacked.made(world)
    for number in range(image.footer(image.locations).entries):
        for bit in (0, 1, 2, 5):
            rows = image.rows(image.locations)
            value = rows[name][number]
            rows[name][number] = (
                np.void(flipped(value.tobytes(), bit)) if name == "check" else value ^ (1 << bit)
            )
            await image.rewrite(image.locations, rows)
            if name == "check":  # what is opened needs no check
                assert await image.read() == disk().content()
                assert await damage_count(image) == 1
                continue
            with pytest.raises(DataLoss):
                await image.read()


async def damage_count(image: Attacked) -> int:
    world = image.world
    async with open_chunk_reader(
        world.store, image.manifest_id, world.pool, digests=True, cipher=world.cipher
    ) as reader:
        return (await verify(reader, world.pool)).damage_count


async def test_chunks_cannot_be_swapped_or_repeated(world: World) -> None:
    image = await Attacked.made(world)
    count = image.footer(image.locations).entries
    for one in range(count):
        for other in range(count):
            rows = image.rows(image.locations)
            rows[one] = image.rows(image.locations)[other]
            await image.rewrite(image.locations, rows)
            if one == other:
                assert await image.read() == disk().content()
                continue
            with pytest.raises(DataLoss):
                await image.read()
    assert count >= 3


async def test_entries_cannot_be_left_out(world: World) -> None:
    image = await Attacked.made(world)
    for blob in image.blobs:
        await image.rewrite(blob, image.rows(blob)[:-1])
    with pytest.raises(DataLoss) as refused:
        await image.read()
    assert refused.value.reason == "KEY_MISMATCH"


@pytest.mark.parametrize("fields", [{"size_bytes": 5 * MIB}, {"tree_digest": bytes(32)}], ids=str)
async def test_the_disk_cannot_be_said_to_be_another(world: World, fields: dict[str, Any]) -> None:
    image = await Attacked.made(world)
    for blob in image.blobs:
        await image.rewrite(blob, **fields)
    with pytest.raises(DataLoss) as refused:
        await image.read()
    assert refused.value.reason == "KEY_MISMATCH"


async def test_a_manifest_cannot_be_said_to_be_plain(world: World) -> None:
    image = await Attacked.made(world)
    await image.rewrite(image.content, magic=CONTENT_MAGIC)
    made = await get(world.store, image.content)
    await put(world.store, image.content, made[: -FOOTER.size - 32] + made[-FOOTER.size :])
    with pytest.raises(DataLoss, match="without encryption, and this image is encrypted"):
        await image.read()


async def test_a_chunk_that_is_not_sealed_is_not_taken(world: World) -> None:
    image = await Attacked.made(world)
    foreign = noise(3, 8 * KIB)
    await put(world.store, pack_blob("f" * 32), foreign)
    rows = image.rows(image.locations)
    rows["codec"][0] = Codec.RAW
    rows["stored_length"][0] = len(foreign)
    rows["check"][0] = np.void(blake3(foreign).digest(16))
    await image.rewrite(image.locations, rows)
    with pytest.raises(DataLoss, match="lists places that cannot be"):
        await image.read()


@pytest.mark.parametrize(
    "cipher",
    [ChunkCipher(KEY, "image-2"), ChunkCipher(noise(2, 32), "image-1"), ChunkCipher(KEY, "image-1")],
    ids=["of another image", "of another data key", "of an earlier run"],
)
async def test_chunks_of_elsewhere_are_not_taken(world: World, cipher: ChunkCipher) -> None:
    """The locations of a disk that is laid out in the same way, in the place of the image's."""
    right = world.cipher
    world.cipher = cipher
    foreign = await Attacked.made(world, seed=5)
    world.cipher = right
    image = await Attacked.made(world)
    for name in ("start", "length"):
        assert (image.rows(image.content)[name] == foreign.rows(foreign.content)[name]).all()
    others = foreign.blobs[foreign.locations]
    await put(world.store, image.locations, others)
    with pytest.raises(DataLoss, match="does not belong to"):
        await image.read()
    footer = foreign.footer(foreign.locations)._replace(tree_digest=image.footer(image.content).tree_digest)
    await put(world.store, image.locations, others[: -FOOTER.size] + FOOTER.pack(*footer))
    with pytest.raises(DataLoss, match="it is not what was sealed for this place of this disk"):
        await image.read()


async def test_an_older_manifest_of_the_image_is_known_by_its_digest(world: World) -> None:
    older = await Attacked.made(world, seed=5)
    image = await Attacked.made(world)
    await put(world.store, image.content, older.blobs[older.content])
    await put(world.store, image.locations, older.blobs[older.locations])
    async with open_chunk_reader(world.store, image.manifest_id, world.pool, cipher=world.cipher) as reader:
        reader.require_digest(older.digest)
        with pytest.raises(DataLoss, match=f"{older.digest}, not {image.digest}"):
            reader.require_digest(image.digest)


async def test_damage_of_an_encrypted_image_is_found_by_verify(world: World) -> None:
    image = await Attacked.made(world)
    assert await damage_count(image) == 0
    rows = image.rows(image.locations)
    rows[0], rows[1] = image.rows(image.locations)[1], image.rows(image.locations)[0]
    await image.rewrite(image.locations, rows)
    assert await damage_count(image) >= 1

"""Chunks that the index knows, read without a manifest: found by digest, proved, and decoded.

Who names a chunk by its digest does not show that he has it. A *proof* does: the BLAKE3 of the plain bytes
under a key that is made for one upload, which only the bytes themselves give.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3

from imsd.contract import BlobId, Buffer, ByteRange, DataLoss
from imsd.formats.zvhd_codec import unzstd_frames

from .codec import check_of
from .decode_pool import DecodePool
from .frames import decode_frame
from .index import Codec, Location, pack_blob
from .pack_writer import IngestTarget
from .store_read import read_blob

PROOF_KEY_BYTES = 32


class NamedChunk(NamedTuple):
    """What a client says it has: ``length`` bytes with ``digest`` (BLAKE3) and ``proof`` (keyed)."""

    digest: bytes
    length: int
    proof: bytes


def proof_of(plain: Buffer, key: bytes) -> bytes:
    """The proof of having ``plain``: 32 bytes. ``key`` has `PROOF_KEY_BYTES`."""
    return blake3(plain, key=key).digest()


class KnownChunks:
    """Reads what an ingest into ``target`` would find.

    Packs in which a chunk is not what was written answer no look-up any more.
    """

    def __init__(self, target: IngestTarget, pool: DecodePool) -> None:
        self._target = target
        self._pool = pool

    async def read(self, named: Sequence[NamedChunk], key: bytes) -> list[bytes | None]:
        """The plain bytes of each; None for one that is not known, or not proved.

        The holder references the packs of all that were looked up. All plain bytes are in memory at once: who
        calls bounds them. Raises Conflict (stale fence), Unavailable.
        """
        target = self._target
        digests = [each.digest for each in named]
        found = await target.index.find(target.holder, target.store_name, target.domain, digests)
        # Of those only that can be proved: who says that a long chunk is short makes nobody read it.
        claimed = {(each.digest, each.length) for each in named}
        wanted = [place for digest, place in found.items() if (digest, place.length) in claimed]
        stored = await self._stored(wanted)
        damaged: set[str] = set()

        def prove() -> list[bytes | None]:
            plain: list[bytes | None] = []
            for each in named:
                place = found.get(each.digest)
                if place is None or place.length != each.length:
                    plain.append(None)
                    continue
                content = _decoded(stored.get(place), place, each.digest)
                if content is None:
                    damaged.add(place.pack_id)
                is_proved = content is not None and hmac.compare_digest(proof_of(content, key), each.proof)
                plain.append(content if is_proved else None)
            return plain

        try:
            return await self._pool.run(prove)
        finally:
            if damaged:
                await target.index.distrust(damaged)

    async def _stored(self, places: Sequence[Location]) -> dict[Location, bytes]:
        """The stored bytes of each place, but of those whose pack is lost."""
        packs: dict[BlobId, list[Location]] = {}
        for place in places:
            packs.setdefault(pack_blob(place.pack_id), []).append(place)
        stored: dict[Location, bytes] = {}
        for blob, inside in packs.items():
            ranges = [ByteRange(place.offset, place.stored_length) for place in inside]
            try:
                stored.update(zip(inside, await read_blob(self._target.store, blob, ranges), strict=True))
            except DataLoss:
                continue  # `read` finds that they are not there
        return stored


def _decoded(stored: bytes | None, place: Location, digest: bytes) -> bytes | None:
    """The chunk's bytes; None when what is stored is not what was written."""
    if stored is None or check_of(stored) != place.check:
        return None
    plain = _plain(stored, place)
    return plain if plain is not None and blake3(plain).digest() == digest else None


def _plain(stored: bytes, place: Location) -> bytes | None:
    if place.codec == Codec.RAW:
        return stored
    if place.codec == Codec.RECORD:
        return unzstd_frames(memoryview(stored), place.length)
    cut, first = place.first_stored, place.first_length
    frames = (
        [(stored[:cut], first), (stored[cut:], place.length - first)] if first else [(stored, place.length)]
    )
    try:
        return b"".join(decode_frame(frame, length) for frame, length in frames)
    except ValueError:
        return None

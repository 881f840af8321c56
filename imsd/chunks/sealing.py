"""Chunks of an encrypted image on their way into packs and out of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imsd.contract import Buffer

from .cipher import NONCE_BYTES, SEAL_BYTES, ChunkCipher, ChunkPlace
from .codec import EncodedChunk, check_of
from .cutter import Cut
from .index import SEALED, Codec

if TYPE_CHECKING:
    from .manifest_reader import StoredChunk

_SEALED_CODECS = {codec: Codec(codec | SEALED) for codec in Codec if not codec & SEALED}


def seal_chunks(
    cipher: ChunkCipher, cut: Cut, chunks: Sequence[tuple[bytes, int, int]], encoded: Sequence[EncodedChunk]
) -> list[EncodedChunk]:
    """``encoded`` sealed and with checks: the ``chunks`` (digest, start, length) of ``cut``, one by one.

    A chunk is sealed into the memory of its plain bytes, where that is the ingest's own and large enough: it
    needs none besides, it is warm, and the plain bytes are gone. So the content of ``cut`` is used up.
    """
    nonces = os.urandom(NONCE_BYTES * len(encoded))
    sealed = []
    for number, (made, (digest, start, length)) in enumerate(zip(encoded, chunks, strict=True)):
        size = len(made.stored) + SEAL_BYTES
        has_room = cut.is_spare and made.codec is not Codec.RAW and size <= length
        target = cut.chunk(start, length)[:size] if has_room else memoryview(bytearray(size))
        codec = _SEALED_CODECS[made.codec]
        place = ChunkPlace(digest, start, length, codec, made.first_length, made.first_stored)
        cipher.seal_chunk(place, made.stored, nonces[NONCE_BYTES * number :][:NONCE_BYTES], target)
        sealed.append(made._replace(codec=codec, stored=target, check=check_of(target)))
    return sealed


def open_chunk(cipher: ChunkCipher, chunk: StoredChunk, stored: Buffer, content: memoryview) -> bool:
    """Fill ``content`` with the frames or plain bytes of ``chunk``; False if that is not what was sealed."""
    place = ChunkPlace(
        chunk.digest, chunk.start, chunk.length, chunk.codec, chunk.first_length, chunk.first_stored
    )
    return cipher.open_chunk(place, memoryview(stored), content)

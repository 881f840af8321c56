"""Bytes of an upload that need not be sent, because images of the same project hold them already.

A client names chunks by their digests and proves that it has them; see `imsd.chunks.known_chunks`. What is
proved is read from the store and goes the way of bytes that were sent: it is counted, digested, and cut
anew. So nothing depends on what the client says of its file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from blake3 import blake3

from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.known_chunks import KnownChunks, NamedChunk
from imsd.chunks.layout import MAX_CHUNK_BYTES
from imsd.chunks.pack_writer import IngestTarget
from imsd.contract import FailedPrecondition, InvalidRequest
from imsd.metadata.records import UploadRecord, UploadState

from . import limits
from .runtime import Runtime

# What is asked for at once; its proofs are checked in pieces of BATCH_BYTES.
MAX_ASKED = 512
# What one message of a writer names.
MAX_NAMED = 64

# Plain bytes read at once for a question; they are counted by the pool's budget while they are checked.
BATCH_BYTES = 4 << 20

# Calls that read at once. Each reads half a gigabyte at most: others wait for it.
CALLS_AT_ONCE = 4

DIGEST_BYTES = 32


class UploadChunks:
    """Finds and reads the chunks that clients name for their uploads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._secret = runtime.tokens.key("proofs of upload chunks")
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)

    def proof_key(self, record: UploadRecord) -> bytes:
        """The key of the proofs of this upload; empty when nothing more is written to it."""
        if record.state is not UploadState.OPEN:
            return b""
        return blake3(record.id.encode(), key=self._secret).digest()

    async def find(self, record: UploadRecord, named: Sequence[NamedChunk]) -> list[bool]:
        """Which of ``named`` are known, and proved; ``record`` is open. Raises InvalidRequest, Conflict."""
        _check(named, MAX_ASKED)
        if record.is_fast:
            return [False] * len(named)
        known: list[bool] = []
        async with self._places:
            for batch in _batches(named, BATCH_BYTES):
                size = sum(each.length for each in batch)
                async with self._runtime.pool.budget.reserve(size):
                    plain = await self._read(record, batch)
                    known += [content is not None for content in plain]
                    del plain
        return known

    async def read(self, record: UploadRecord, named: Sequence[NamedChunk]) -> AsyncGenerator[bytes, None]:
        """The bytes of ``named``, in pieces that a writer may send.

        Raises InvalidRequest; FailedPrecondition (CHUNK_UNKNOWN) for one that is not known any more;
        Conflict.
        """
        _check(named, MAX_NAMED)
        # Like bytes that come, a message at a time: a writer that waited here for the budget could hold a
        # window of it, for which others wait.
        for batch in _batches(named, limits.MAX_WRITE_BYTES):
            for content in await self._read(record, batch):
                if content is None:
                    raise FailedPrecondition(
                        "a chunk that was named is not known, or its proof is not right",
                        reason="CHUNK_UNKNOWN",
                        hint="send its bytes, from the committed offset on",
                    )
                for start in range(0, len(content), limits.MAX_WRITE_BYTES):
                    yield content[start : start + limits.MAX_WRITE_BYTES]

    async def _read(self, record: UploadRecord, named: Sequence[NamedChunk]) -> list[bytes | None]:
        runtime = self._runtime
        holder = Holder(HolderKind.UPLOAD, record.id, record.fence)
        store = runtime.stores.get(record.store)
        target = IngestTarget(store, record.store, runtime.index, record.project_id, holder)
        return await KnownChunks(target, runtime.pool).read(named, self.proof_key(record))


def _batches(named: Sequence[NamedChunk], most_bytes: int) -> list[list[NamedChunk]]:
    """``named`` in order, ``most_bytes`` at a time; a chunk alone may have more."""
    batches: list[list[NamedChunk]] = []
    room = 0
    for each in named:
        if each.length > room:
            batches.append([])
            room = most_bytes
        batches[-1].append(each)
        room -= each.length
    return batches


def _check(named: Sequence[NamedChunk], most: int) -> None:
    """Raises InvalidRequest."""
    if not 1 <= len(named) <= most:
        raise InvalidRequest(f"1 to {most} chunks are named at once, not {len(named)}", field="chunks")
    for number, each in enumerate(named):
        if not 1 <= each.length <= MAX_CHUNK_BYTES:
            raise InvalidRequest(
                f"chunk {number} has {each.length} bytes: 1 to {MAX_CHUNK_BYTES} are allowed", field="chunks"
            )
        if len(each.digest) != DIGEST_BYTES or len(each.proof) != DIGEST_BYTES:
            raise InvalidRequest(f"digest and proof of chunk {number} must have 32 bytes", field="chunks")

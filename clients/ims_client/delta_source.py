"""A file of which the daemon has some chunks: they are named, and all else is sent."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from imsd.v1.upload_pb2 import UploadChunk

from .upload_source import FileSource, Step, UploadSource

# What one message may name. The daemon reads them before it answers: few, so that progress is seen.
MAX_NAMED_CHUNKS = 64
MAX_NAMED_BYTES = 8 << 20


# What is known beyond is sent like all else: 76 bytes each, of half a TiB of a disk on average.
MAX_KNOWN_CHUNKS = 4 << 20

_DIGEST_BYTES = 32


class KnownChunks:
    """Chunks of a file that the daemon has, in order; packed, because a message of each takes 640 bytes."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._lengths = array("I")
        self._names = bytearray()  # digest and proof of each
        self.total_bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self._starts) >= MAX_KNOWN_CHUNKS

    def add(self, start: int, chunk: UploadChunk) -> None:
        """``chunk`` begins at ``start``, at the end of the last one or later."""
        self._starts.append(start)
        self._lengths.append(chunk.length)
        self._names += chunk.digest
        self._names += chunk.proof
        self.total_bytes += chunk.length

    def first_from(self, offset: int) -> int | None:
        """Where the first chunk begins that begins at ``offset`` or later."""
        number = bisect_left(self._starts, offset)
        return self._starts[number] if number < len(self._starts) else None

    def at(self, offset: int) -> list[UploadChunk]:
        """Those from ``offset`` on, one after the other, as many as one message names."""
        chunks: list[UploadChunk] = []
        number, end = bisect_left(self._starts, offset), offset
        while len(chunks) < MAX_NAMED_CHUNKS and number < len(self._starts):
            if self._starts[number] != end or end + self._lengths[number] - offset > MAX_NAMED_BYTES:
                break
            chunks.append(self._chunk(number))
            end += self._lengths[number]
            number += 1
        return chunks

    def _chunk(self, number: int) -> UploadChunk:
        at = number * 2 * _DIGEST_BYTES
        names = bytes(self._names[at : at + 2 * _DIGEST_BYTES])
        digest, proof = names[:_DIGEST_BYTES], names[_DIGEST_BYTES:]
        return UploadChunk(digest=digest, length=self._lengths[number], proof=proof)


class DeltaSource(UploadSource):
    """``file``, of which the daemon has ``known``; ``digest``: of the whole file."""

    def __init__(self, file: FileSource, known: KnownChunks, digest: str) -> None:
        self._file = file
        self._known = known
        self._position = 0
        self._is_interrupted = False
        self.name = file.name
        self.size_bytes = file.size_bytes
        self.fingerprint = file.fingerprint
        self.digest = digest

    @property
    def known_bytes(self) -> int:
        """Bytes that are named rather than sent."""
        return self._known.total_bytes

    def seek(self, offset: int) -> None:
        following = self._known.first_from(offset)
        self._file.stop_at = self.size_bytes if following is None else following
        self._file.seek(offset)
        self._position = offset

    def next_step(self) -> Step | None:
        if self._is_interrupted:
            return None
        start = self._position
        if chunks := self._known.at(start):
            self.seek(start + sum(chunk.length for chunk in chunks))
            return Step(start, self._position - start, None, chunks)
        step = self._file.next_step()
        if step is not None:
            self._position = step.end
        return step

    def forget(self, offset: int) -> None:
        self._file.forget(offset)

    def forget_chunks(self) -> None:
        self._known = KnownChunks()

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._file.interrupt()

"""A file of which the daemon has some chunks: they are named, and all else is sent."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from imsd.v1.upload_pb2 import UploadChunk

from .upload_source import FileSource, Step, UploadSource

# What one message may name. The daemon reads them before it answers: few, so that progress is seen.
MAX_NAMED_CHUNKS = 64
MAX_NAMED_BYTES = 8 << 20


class KnownChunk(NamedTuple):
    """A chunk that the daemon has, and where in the file it lies."""

    start: int
    chunk: UploadChunk

    @property
    def end(self) -> int:
        return self.start + self.chunk.length


class DeltaSource(UploadSource):
    """``file``, of which the daemon has ``known`` chunks, in order; ``digest``: of the whole file."""

    def __init__(self, file: FileSource, known: Sequence[KnownChunk], digest: str) -> None:
        self._file = file
        self._known = list(known)
        self._starts = [each.start for each in known]
        self._position = 0
        self._is_interrupted = False
        self.name = file.name
        self.size_bytes = file.size_bytes
        self.fingerprint = file.fingerprint
        self.digest = digest

    @property
    def known_bytes(self) -> int:
        """Bytes that are named rather than sent."""
        return sum(each.chunk.length for each in self._known)

    def seek(self, offset: int) -> None:
        following = bisect_left(self._starts, offset)
        self._file.stop_at = self._starts[following] if following < len(self._starts) else self.size_bytes
        self._file.seek(offset)
        self._position = offset

    def next_step(self) -> Step | None:
        if self._is_interrupted:
            return None
        start = self._position
        if chunks := self._chunks_at(bisect_left(self._starts, start)):
            self.seek(start + sum(chunk.length for chunk in chunks))
            return Step(start, self._position - start, None, chunks)
        step = self._file.next_step()
        if step is not None:
            self._position = step.end
        return step

    def forget(self, offset: int) -> None:
        self._file.forget(offset)

    def forget_chunks(self) -> None:
        self._known, self._starts = [], []

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._file.interrupt()

    def _chunks_at(self, number: int) -> list[UploadChunk]:
        """The known chunks from the position on, one after the other, as many as one message names."""
        chunks: list[UploadChunk] = []
        end = self._position
        for each in self._known[number : number + MAX_NAMED_CHUNKS]:
            if each.start != end or each.end - self._position > MAX_NAMED_BYTES:
                break
            chunks.append(each.chunk)
            end = each.end
        return chunks

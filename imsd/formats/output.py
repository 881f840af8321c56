"""What a disk or a file is given out in: bytes, runs of zeros, and frames that need not be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from imsd.contract import Buffer

# Zeros inside data are looked for in pieces of this size.
GRANULE_BYTES = 64 << 10
# Shorter buffers cost more to hand on than to copy.
SHORT_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Zeros:
    """A run of ``length`` zero bytes; 1 or more."""

    length: int


@dataclass(frozen=True, slots=True)
class Framed:
    """The next ``length`` bytes as zstd frames with content sizes, most often one with a checksum."""

    length: int
    frame: Buffer


@dataclass(frozen=True, slots=True)
class Packed:
    """The next bytes of a disk and the zstd frames that they came in; no frames if there are none to keep."""

    plain: memoryview
    frames: bytes


# The next bytes of a disk; of a file.
PlainOutput = Buffer | Zeros
Output = PlainOutput | Framed


def length_of(output: Output) -> int:
    """How many bytes of the disk or file ``output`` is."""
    return output.length if isinstance(output, Zeros | Framed) else len(output)


def held_bytes(outputs: Iterable[Output]) -> int:
    """How many bytes of memory ``outputs`` keep: of a buffer of which one is a part, all."""
    held: dict[int, int] = {}
    for output in outputs:
        if not isinstance(output, Zeros):
            buffer = output.frame if isinstance(output, Framed) else output
            whole = buffer.obj if isinstance(buffer, memoryview) else buffer
            held[id(whole)] = memoryview(whole).nbytes
    return sum(held.values())


def joined(outputs: Iterable[Output]) -> Iterator[Output]:
    """``outputs`` with short buffers that follow one another as one."""
    short: list[Buffer] = []
    for output in outputs:
        if not isinstance(output, Zeros | Framed) and len(output) < SHORT_BYTES:
            short.append(output)
            continue
        yield from _as_one(short)
        short.clear()
        yield output
    yield from _as_one(short)


def _as_one(buffers: Sequence[Buffer]) -> Iterator[Output]:
    if buffers:
        yield buffers[0] if len(buffers) == 1 else b"".join(buffers)


def only_zeros(length: int) -> Sequence[Output]:
    return [Zeros(length)]


def without_zeros(data: memoryview) -> Iterator[PlainOutput]:
    """``data`` with its granules of zeros as runs."""
    whole = len(data) // GRANULE_BYTES * GRANULE_BYTES
    words = np.frombuffer(data[:whole], np.uint64).reshape(-1, GRANULE_BYTES // 8)
    is_data = np.append(words.any(axis=1), True).tolist()  # what is no whole granule is not looked at
    start = 0
    for index in range(1, len(is_data)):
        if is_data[index] != is_data[index - 1]:
            yield _run(data, start, index * GRANULE_BYTES, is_data[index - 1])
            start = index * GRANULE_BYTES
    if start < len(data):
        yield _run(data, start, len(data), is_data[-1])


def _run(data: memoryview, start: int, end: int, is_data: bool) -> PlainOutput:
    return data[start:end] if is_data else Zeros(end - start)

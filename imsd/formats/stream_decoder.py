"""Formats that can be read in one forward pass: decoded while they arrive, without staging.

The bytes of the file go in, front to back; the disk's blocks come out in guest order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from .output import Packed, PlainOutput
from .reader import Finding

# No unit of a file (a header, a record, a table page) is longer. Whoever feeds a decoder holds as much.
MAX_UNIT_BYTES = 5 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """What one unit gave: bytes of the file it took, and the next bytes of the disk (at most about 4 MiB).

    ``consumed`` 0: more bytes of the file are needed first. ``record``: what follows ``outputs``, from a
    decoder of which the records are kept.
    """

    consumed: int
    outputs: Sequence[PlainOutput] = ()
    record: Packed | None = None


@dataclass(frozen=True, slots=True)
class StreamedDisk:
    """A disk that came whole. ``size_bytes``: a multiple of 512.

    ``zeros_at_end``: so many of its last bytes are zeros that no step gave, the file ending before them.
    """

    size_bytes: int
    findings: Sequence[Finding] = ()
    zeros_at_end: int = 0


class StreamDecoder(ABC):
    """One file on its way in. Runs in the decode pool, one call at a time.

    ``position``: bytes of the file that are done with. Whoever goes on later sends the bytes from here on.
    """

    name: ClassVar[str]
    position: int = 0

    @abstractmethod
    def step(self, data: memoryview) -> Step:
        """Take at most one unit from ``data``, the file's bytes from `position` that are at hand.

        Raises `ImageRefused`. With `MAX_UNIT_BYTES` at hand it always takes something or raises.
        """

    @abstractmethod
    def state(self) -> bytes:
        """All that is needed to go on from `position`."""

    @classmethod
    def can_decode(cls, head: bytes) -> bool:
        """Whether the file that starts with ``head``, of this format, can be read in one pass."""
        return True

    @classmethod
    @abstractmethod
    def begin(cls, max_virtual_size_bytes: int) -> Self:
        """A decoder at the start of a file."""

    @classmethod
    @abstractmethod
    def resume(cls, state: bytes, max_virtual_size_bytes: int) -> Self:
        """Go on from what `state` returned. Raises ValueError if it is something else."""

    @abstractmethod
    def finish(self, file_size_bytes: int) -> StreamedDisk:
        """The file has come whole, and `position` is its end.

        Raises `ImageRefused` (IMAGE_TRUNCATED, IMAGE_MALFORMED).
        """

"""What every writer of a disk format is: a plan whose pieces are rendered in order.

A writer never sees the whole disk and never seeks: the file's length and every table are known from
the *measuring* pass (free for formats whose layout follows from the extents), then `pieces` come out
front to back, so that any output will do: a stream, a pipe, a bucket. A format that has its tables after
its data needs no measuring: it finds out where things are as they come, `in_turn`.

All callables run in the decode pool and may raise `NeedBytes`; the driver of the writer fetches and
calls again. Tasks and pieces may be rendered in parallel, ahead of their turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from imsd.contract import Buffer

from .output import Output

Piece = Callable[[], Sequence[Output]]


class Spool(ABC):
    """Keeps what was found out by measuring until it is written, as far as there is room. Thread-safe."""

    @abstractmethod
    def keep(self, key: int, content: Sequence[Buffer]) -> None:
        """Keep ``content``, at most 1024 parts, or forget it when there is no room. Each key is used once."""

    @abstractmethod
    def kept(self, key: int) -> bytes | None:
        """The content that was kept, as one piece; None if there was no room."""


class FormatWriter(ABC):
    """Writes one `BlockSource` as a file of one format, once.

    ``is_length_known``: otherwise the length of the file is known only after `closing`.
    """

    is_length_known: ClassVar[bool] = True

    @abstractmethod
    def measure(self) -> Iterator[Callable[[], None]]:
        """Tasks to run, in any order and in parallel, before `file_size_bytes` and `pieces`."""

    @abstractmethod
    def file_size_bytes(self) -> int:
        """Length of the whole file; valid once every task of `measure` has run, if `is_length_known`."""

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """The file, front to back; each piece renders at most about 4 MiB."""

    def in_turn(self, outputs: Sequence[Output]) -> Sequence[Output]:
        """What comes next in the file when a piece rendered ``outputs``.

        Asked once for each piece, in the order of `pieces`: for what depends on the pieces before it, such as
        places in the file. Takes little time. Raises InvalidRequest for a disk that the format cannot hold.
        """
        return outputs

    def closing(self) -> Sequence[Output]:
        """What ends the file, after all pieces."""
        return ()

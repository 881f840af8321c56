"""Files that come from elsewhere than a client: the interface, and how their bytes get into an upload.

A `Feed` names a file; opening it at an offset gives an `OpenedFeed`, which hands the bytes on in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing

from imsd.contract import Buffer

from .file_blocks import FileRange
from .limits import MAX_WRITE_BYTES
from .upload_session import UploadSession

_ZEROS = bytes(MAX_WRITE_BYTES)

# The next bytes of a file: as they are, a number of zeros, or a range of an open file.
FeedStep = Buffer | int | FileRange


class OpenedFeed(ABC):
    """A file that is open at an offset.

    ``size_bytes``: of the whole file, None when that shows only at its end. ``mark``: up to 128 printable
    characters that are others when the file is; empty when nothing tells, and nobody can go on later.
    """

    size_bytes: int | None
    mark: str

    @abstractmethod
    def require_same(self, mark: str) -> None:
        """Raises `ImsError` when this is not surely the file that had ``mark`` when it was opened before."""

    def progress(self, received: int) -> tuple[int, int]:
        """Bytes done, and in all (0: not known), when the bytes up to offset ``received`` were handed on."""
        return received, self.size_bytes or 0

    @abstractmethod
    def steps(self) -> AsyncGenerator[FeedStep, None]:
        """The bytes from the offset to the end of the file, once; at most 64 MiB in a step.

        It ends only when all of the file was handed on: what is cut, or changes meanwhile, raises `ImsError`.
        """


class Feed(ABC):
    """A file that may be opened more than once. ``name`` is shown, without a folder."""

    name: str

    async def known_size(self) -> int:
        """Bytes of the file, as far as that can be told before a job opens it; 0: not known.

        Raises what is wrong with the file already, as `ImsError`.
        """
        return 0

    @abstractmethod
    def open(self, offset: int) -> AbstractAsyncContextManager[OpenedFeed]:
        """Open the file; the first byte is that at ``offset``. Raises `ImsError`."""


async def pump(feed: OpenedFeed, session: UploadSession, advance: Callable[[int], None]) -> None:
    """Take all of ``feed`` into an upload and make it durable; ``advance`` hears the bytes done."""
    async with aclosing(feed.steps()) as steps:
        async for step in steps:
            if isinstance(step, FileRange):
                await session.copy(step)
            elif isinstance(step, int):
                await session.write_zeros(step)
            else:
                for piece in _writes(step):
                    await session.write(piece)
            advance(feed.progress(session.received_offset)[0])
    await session.flush()


def with_zeros(piece: bytes | memoryview) -> FeedStep:
    """``piece``, of 1 to `MAX_WRITE_BYTES`, as it is or, if all of it is zero, as their number."""
    # As bytes: views are compared byte by byte.
    return piece if piece[0] or bytes(piece) != _ZEROS[: len(piece)] else len(piece)


def _writes(content: Buffer) -> Iterator[memoryview]:
    """``content`` in pieces that a session takes."""
    view = memoryview(content)
    for start in range(0, len(view), MAX_WRITE_BYTES):
        yield view[start : start + MAX_WRITE_BYTES]

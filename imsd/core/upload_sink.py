"""Where the bytes of an upload go: the interface of the two ways."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

import structlog

from imsd.contract import Buffer, ImsError, InvalidRequest
from imsd.metadata.records import UploadRecord

from .file_blocks import FileRange, file_pieces
from .runtime import Runtime

log = structlog.get_logger(__name__)

# A checkpoint that runs when its writer goes is worth waiting for; a store that hangs is not.
CLOSING_SECONDS = 2.0


class UploadSink(ABC):
    """Takes an upload's bytes in order, while those that came before are made durable.

    If the daemon died now, ``unsaved_bytes`` and ``saving_bytes`` were lost: those that no checkpoint
    covers, and those of the one that runs.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.unsaved_bytes = 0
        self.saving_bytes = 0
        self._saving: asyncio.Task[None] | None = None

    @abstractmethod
    async def write(self, data: Buffer) -> None:
        """The next bytes, which may be kept for a while: nobody changes them."""

    @abstractmethod
    async def write_zeros(self, length: int) -> None: ...

    async def copy(self, range_: FileRange) -> None:
        """The next bytes, read from an open file; they begin and end where a block of 4 KiB does."""
        async for piece in file_pieces(self._runtime.pool, range_):
            if isinstance(piece, int):
                await self.write_zeros(piece)
            else:
                await self.write(piece)

    @abstractmethod
    def _save(self) -> Coroutine[Any, Any, None] | None:
        """What makes everything written so far durable and records it; None if there is nothing to do.

        More may be written while it runs.
        """

    async def begin_checkpoint(self) -> None:
        """Begin to make everything written durable, once an earlier checkpoint has ended.

        Raises what the earlier one raised.
        """
        await self.saved()
        if work := self._save():
            self.saving_bytes, self.unsaved_bytes = self.unsaved_bytes, 0
            self._saving = asyncio.create_task(work)

    @property
    def has_saved(self) -> bool:
        """Whether a checkpoint has ended, well or not, and `saved` will say how."""
        return self._saving is not None and self._saving.done()

    async def saved(self) -> None:
        """Wait for the checkpoint that runs; raises what it raised."""
        if saving := self._saving:
            await asyncio.wait([saving])  # unlike awaiting it, does not cancel it with us
            self._saving, self.saving_bytes = None, 0
            saving.result()

    async def checkpoint(self) -> None:
        """Make everything written durable and record it."""
        await self.begin_checkpoint()
        await self.saved()

    @abstractmethod
    async def seal(self, digest: str) -> UploadRecord:
        """Make the complete upload COMMITTED. Raises InvalidRequest (DIGEST_MISMATCH)."""

    async def close(self, patience_seconds: float = 0.0) -> None:
        """Let go, once the checkpoint that runs has ended or patience has; what is not durable is dropped."""
        try:
            if saving := self._saving:
                await asyncio.wait([saving], timeout=patience_seconds)
                saving.cancel()
            await self.saved()
        except asyncio.CancelledError:
            log.warning("the last bytes of an upload were not stored in time")
        except ImsError as error:  # its writer is gone, or hears of something else
            log.warning("the last bytes of an upload were not stored", error=str(error))
        finally:
            await self._drop()

    @abstractmethod
    async def _drop(self) -> None:
        """Drop what no checkpoint covers."""


def require_digest(vouched: str, actual: str) -> None:
    """Raises InvalidRequest (DIGEST_MISMATCH); an empty ``vouched`` vouches for nothing."""
    if vouched and vouched != actual:
        raise InvalidRequest(
            f"the bytes that arrived have the digest {actual}, not {vouched}",
            reason="DIGEST_MISMATCH",
            field="digest",
            hint="the file changed while it was sent, or was damaged on the way: upload it again",
        )

"""Where the bytes of an upload go: the interface of the two ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from imsd.contract import Buffer, InvalidRequest
from imsd.metadata.records import UploadRecord

from .runtime import Runtime
from .upload_progress import UploadProgress


class UploadSink(ABC):
    """Takes an upload's bytes in order. ``unsaved_bytes``: sent, and lost if the daemon died now."""

    unsaved_bytes: int = 0

    @classmethod
    @abstractmethod
    async def open(cls, runtime: Runtime, progress: UploadProgress) -> Self:
        """Go on where the upload's durable state ends."""

    @abstractmethod
    async def write(self, data: Buffer) -> None:
        """The next bytes, which may be kept for a while: nobody changes them."""

    @abstractmethod
    async def write_zeros(self, length: int) -> None: ...

    @abstractmethod
    async def checkpoint(self) -> None:
        """Make everything written durable and record it."""

    @abstractmethod
    async def seal(self, digest: str) -> UploadRecord:
        """Make the complete upload COMMITTED. Raises InvalidRequest (DIGEST_MISMATCH)."""

    @abstractmethod
    async def close(self) -> None:
        """Let go; what was not made durable is dropped."""


def require_digest(vouched: str, actual: str) -> None:
    """Raises InvalidRequest (DIGEST_MISMATCH); an empty ``vouched`` vouches for nothing."""
    if vouched and vouched != actual:
        raise InvalidRequest(
            f"the bytes that arrived have the digest {actual}, not {vouched}",
            reason="DIGEST_MISMATCH",
            field="digest",
            hint="the file changed while it was sent, or was damaged on the way: upload it again",
        )

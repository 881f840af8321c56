"""Receiving a download, checked for completeness."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from imsd.v1 import image_pb2 as pb
from imsd.wire import ReceivedBytes

from .errors import CallFailed, damaged_download
from .file_output import OnProgress, Piece, ignore_progress, write_file, write_stream
from .images import ImageCalls

Header = pb.DownloadImageResponse.Header


class Download:
    """The bytes of one download, in order.

    ``header`` is there after the first piece, or after the end of an empty file.
    """

    def __init__(
        self,
        images: ImageCalls,
        image_id: str,
        disk_format: pb.DiskFormat.ValueType = pb.DISK_FORMAT_UNSPECIFIED,
        compression: pb.Compression.ValueType = pb.COMPRESSION_UNSPECIFIED,
    ) -> None:
        self._messages = images.download(image_id, disk_format, compression)
        self.header = Header()
        self.position = 0

    @property
    def size_bytes(self) -> int:
        """Of the file; 0 until the header is there, or until the end if the header does not say it."""
        return self.header.file_size_bytes

    async def pieces(self) -> AsyncIterator[Piece]:
        """The whole file, once. Raises `CallFailed`; what came before an error is worthless."""
        async for message in self._messages:
            if (piece := self._piece(message)) is not None:
                if not self._may_follow(piece):
                    raise damaged_download(f"{piece.length} bytes are announced where they cannot be")
                self.position += piece.length
                yield piece
                continue
            assert isinstance(message, pb.DownloadImageResponse)
            step = message.WhichOneof("step")
            if step == "header":
                self.header = message.header
            elif step == "complete":
                self._check(message.complete.file_size_bytes)
                return
        raise CallFailed("UNAVAILABLE", "the download was cut off", "start it again")

    def _piece(self, message: pb.DownloadImageResponse | ReceivedBytes) -> Piece | None:
        """The piece that a message is, None for one that is none."""
        if isinstance(message, pb.DownloadImageResponse):
            step = message.WhichOneof("step")
            if step == "zero_length":
                return Piece(self.position, message.zero_length, None)
            if step != "data":
                return None
            message = ReceivedBytes(memoryview(message.data), message.decoded_length)
        length = message.decoded_length or len(message.content)
        return Piece(self.position, length, message.content, is_framed=message.decoded_length != 0)

    def _may_follow(self, piece: Piece) -> bool:
        size = self.header.file_size_bytes
        return piece.length >= 0 and (not size or piece.length <= size - self.position)

    def _check(self, sent_bytes: int) -> None:
        size = self.header.file_size_bytes or sent_bytes
        if not self.position == sent_bytes == size:
            raise damaged_download(f"{self.position} bytes arrived of a file of {size}")


async def download_to_file(
    download: Download, path: Path, on_progress: OnProgress = ignore_progress, *, must_sync: bool = False
) -> Header:
    """Write a download to ``path``; see `write_file`. Raises `CallFailed`, `LocalFileFailed`."""
    await write_file(download, path, on_progress, must_sync=must_sync)
    return download.header


async def download_to_stream(
    download: Download, fd: int, on_progress: OnProgress = ignore_progress
) -> Header:
    """Write a download to ``fd``; see `write_stream`.

    Raises `CallFailed`, `BrokenPipeError` when nobody reads any more, `LocalFileFailed`.
    """
    await write_stream(download, fd, on_progress)
    return download.header

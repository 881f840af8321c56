"""A download as messages: small pieces joined, long runs of zeros as a number."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from imsd import wire
from imsd.contract import Buffer
from imsd.core.downloads import Download
from imsd.formats.zeros import Zeros
from imsd.v1 import image_pb2 as pb

from . import convert

# Measured best for grpc.aio on loopback and unix sockets: 0.5 to 2 MiB a message.
MESSAGE_BYTES = 1 << 20
# Shorter runs of zeros travel as bytes: a message costs more than they do.
SHORT_ZEROS = 16 << 10


class MessageBuffer:
    """Collects pieces of a file until they make a message; longer pieces make several."""

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self._length = 0

    def add(self, piece: Buffer) -> Iterator[wire.FileBytes]:
        """Take a piece; returns the messages that are full."""
        rest = memoryview(piece)
        while rest:
            taken = rest[: MESSAGE_BYTES - self._length]
            self._pieces.append(taken)
            self._length += len(taken)
            rest = rest[len(taken) :]
            if self._length == MESSAGE_BYTES and (message := self.take()):
                yield message

    def take(self) -> wire.FileBytes | None:
        """The message so far, or None when it is empty."""
        if not self._length:
            return None
        message = wire.FileBytes(self._pieces)
        self._pieces, self._length = [], 0
        return message


async def download_messages(download: Download) -> AsyncIterator[pb.DownloadImageResponse | wire.FileBytes]:
    """Header, the file's bytes in order, and `complete`."""
    image = download.image
    yield pb.DownloadImageResponse(
        header=pb.DownloadImageResponse.Header(
            file_size_bytes=download.file_size_bytes,
            virtual_size_bytes=image.virtual_size,
            digest=image.digest,
            disk_format=convert.format_to_pb(download.disk_format),
        )
    )
    pending = MessageBuffer()
    sent = 0
    async for outputs in download.pieces:
        for output in outputs:
            if isinstance(output, Zeros) and output.length > SHORT_ZEROS:
                if message := pending.take():
                    yield message
                yield pb.DownloadImageResponse(zero_length=output.length)
                sent += output.length
                continue
            piece = bytes(output.length) if isinstance(output, Zeros) else output
            sent += len(piece)
            for message in pending.add(piece):
                yield message
    if message := pending.take():
        yield message
    yield pb.DownloadImageResponse(complete=pb.DownloadImageResponse.Complete(file_size_bytes=sent))

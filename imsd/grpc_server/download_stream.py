"""A download as messages: small pieces joined, long runs of zeros as a number, stored frames as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from imsd import wire
from imsd.contract import Buffer
from imsd.core.downloads import Download
from imsd.formats.cluster_codec import zero_frame
from imsd.formats.output import Framed, Output, Zeros, length_of
from imsd.v1 import image_pb2 as pb

from . import convert

# Measured best for grpc.aio on loopback and unix sockets: 0.5 to 2 MiB a message.
MESSAGE_BYTES = 1 << 20
# What the frames of a message decode to at most: a receiver holds it, best in its processor's cache.
MAX_DECODED_BYTES = 2 << 20
# Shorter runs of zeros travel as bytes: a message costs more than they do.
SHORT_ZEROS = 16 << 10

Message = pb.DownloadImageResponse | wire.FileBytes


class MessageBuffer:
    """Collects pieces of a file until they make a message; longer pieces make several.

    A message holds either bytes of the file or frames of it.
    """

    def __init__(self) -> None:
        self._pieces: list[Buffer] = []
        self._length = 0
        self._decoded_length = 0  # of frames

    def add(self, output: Output) -> Iterator[Message]:
        """Take the next bytes of the file; returns the messages that are complete."""
        if isinstance(output, Framed):
            yield from self._add_frame(output)
        elif isinstance(output, Zeros):
            yield from self._add_zeros(output)
        else:
            yield from self._add_bytes(memoryview(output))

    def take(self) -> Iterator[Message]:
        """The message so far, if there is one."""
        if self._length:
            yield wire.FileBytes(self._pieces, self._decoded_length)
        self._pieces, self._length, self._decoded_length = [], 0, 0

    def _add_zeros(self, zeros: Zeros) -> Iterator[Message]:
        if zeros.length <= SHORT_ZEROS:
            if self._decoded_length:
                yield from self._add_frame(Framed(zeros.length, zero_frame(zeros.length)))
            else:
                yield from self._add_bytes(memoryview(bytes(zeros.length)))
            return
        yield from self.take()
        yield pb.DownloadImageResponse(zero_length=zeros.length)

    def _add_bytes(self, rest: memoryview) -> Iterator[Message]:
        if self._decoded_length:
            yield from self.take()
        while rest:
            taken = rest[: MESSAGE_BYTES - self._length]
            self._pieces.append(taken)
            self._length += len(taken)
            rest = rest[len(taken) :]
            if self._length == MESSAGE_BYTES:
                yield from self.take()

    def _add_frame(self, framed: Framed) -> Iterator[Message]:
        is_full = (
            self._length + len(framed.frame) > MESSAGE_BYTES
            or self._decoded_length + framed.length > MAX_DECODED_BYTES
        )
        if is_full or not self._decoded_length:
            yield from self.take()
        self._pieces.append(framed.frame)
        self._length += len(framed.frame)
        self._decoded_length += framed.length


async def download_messages(download: Download) -> AsyncIterator[Message]:
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
            sent += length_of(output)
            for message in pending.add(output):
                yield message
    for message in pending.take():
        yield message
    yield pb.DownloadImageResponse(complete=pb.DownloadImageResponse.Complete(file_size_bytes=sent))

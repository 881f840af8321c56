"""The messages that carry the bytes of a file, packed and unpacked without a copy to spare.

`WriteUploadRequest` and `DownloadImageResponse` are each one step: ``bytes data = 2``, or something short.
protobuf copies such bytes into the message and out of it again, at either end: a third of what a transfer
costs. So a message of nothing but data is a sequence of buffers before it is sent and a memoryview after it
came; every other message is protobuf's own. The bytes on the wire are the same, see
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

Buffer = bytes | bytearray | memoryview

# Field 2, of a length and that many bytes.
DATA_TAG = b"\x12"

# A length below 2 GiB, which is the longest message there is, in groups of seven bits.
MAX_LENGTH_BYTES = 5


MessageT = TypeVar("MessageT", bound=Message)


class FileBytes:
    """A message of nothing but data, which lies in ``pieces``; ``length`` bytes in all."""

    __slots__ = ("length", "pieces")

    def __init__(self, pieces: Sequence[Buffer]) -> None:
        self.pieces = pieces
        self.length = sum(len(piece) for piece in pieces)

    def SerializeToString(self) -> bytes:  # noqa: N802
        """As protobuf would."""
        return b"".join((DATA_TAG, _varint(self.length), *self.pieces))

    def ByteSize(self) -> int:  # noqa: N802
        return len(DATA_TAG) + len(_varint(self.length)) + self.length


def serialize(message: Message | FileBytes) -> bytes:
    """The bytes of any message of these streams."""
    return message.SerializeToString()


def reader_of(kind: type[MessageT]) -> Callable[[bytes], MessageT | memoryview]:
    """A function that reads messages of ``kind``: a memoryview for one of nothing but data.

    It raises what protobuf raises for bytes that are no message.
    """

    def read(serialized: bytes) -> MessageT | memoryview:
        start = _data_start(serialized)
        return memoryview(serialized)[start:] if start else kind.FromString(serialized)

    return read


def _data_start(serialized: bytes) -> int:
    """Where the data starts if it is all that follows; else 0."""
    if not serialized.startswith(DATA_TAG):
        return 0
    length = shift = 0
    for at, group in enumerate(serialized[1 : 1 + MAX_LENGTH_BYTES], 2):
        length |= (group & 0x7F) << shift
        if group < 0x80:
            return at if at + length == len(serialized) else 0
        shift += 7
    return 0


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)

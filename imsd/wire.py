"""The messages that carry the bytes of a file, packed and unpacked without a copy to spare.

`WriteUploadRequest` and `DownloadImageResponse` are each one step: ``bytes data = 2``, or something short.
protobuf copies such bytes into the message and out of it again, at either end: a third of what a transfer
costs. So a message of nothing but data is a sequence of buffers before it is sent and a view of what came
after that; every other message is protobuf's own. The bytes on the wire are the same, see
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

Buffer = bytes | bytearray | memoryview

# Field 2, a length and that many bytes; field 5, a number.
DATA_TAG = 0x12
DECODED_LENGTH_TAG = 0x28

# A length below 2 GiB, which is the longest message there is, in groups of seven bits.
MAX_LENGTH_BYTES = 5

MessageT = TypeVar("MessageT", bound=Message)


class FileBytes:
    """A message of nothing but data, which lies in ``pieces``, ``length`` bytes in all.

    ``decoded_length``: they are zstd frames of so many bytes of the file; 0: they are the file's bytes.
    """

    __slots__ = ("decoded_length", "length", "pieces")

    def __init__(self, pieces: Sequence[Buffer], decoded_length: int = 0) -> None:
        self.pieces = pieces
        self.decoded_length = decoded_length
        self.length = sum(len(piece) for piece in pieces)

    def SerializeToString(self) -> bytes:  # noqa: N802
        """A message that protobuf reads; what is short comes first."""
        return b"".join((self._head(), *self.pieces))

    def ByteSize(self) -> int:  # noqa: N802
        return len(self._head()) + self.length

    def _head(self) -> bytes:
        head = bytearray()
        if self.decoded_length:
            head.append(DECODED_LENGTH_TAG)
            _append_varint(head, self.decoded_length)
        head.append(DATA_TAG)
        _append_varint(head, self.length)
        return bytes(head)


class ReceivedBytes(NamedTuple):
    """The data of a message of nothing else; ``decoded_length`` as in `FileBytes`."""

    content: memoryview
    decoded_length: int


def serialize(message: Message | FileBytes) -> bytes:
    """The bytes of any message of these streams."""
    return message.SerializeToString()


def reader_of(kind: type[MessageT]) -> Callable[[bytes], MessageT | ReceivedBytes]:
    """A function that reads messages of ``kind``; raises what protobuf raises for bytes that are none."""
    may_be_frames = "decoded_length" in kind.DESCRIPTOR.fields_by_name

    def read(serialized: bytes) -> MessageT | ReceivedBytes:
        return _received(serialized, may_be_frames=may_be_frames) or kind.FromString(serialized)

    return read


def _received(serialized: bytes, *, may_be_frames: bool) -> ReceivedBytes | None:
    """What a message holds that is written as `FileBytes` writes it; None for any other."""
    position = decoded_length = 0
    if may_be_frames and serialized[:1] == bytes([DECODED_LENGTH_TAG]):
        decoded_length, position = _varint_at(serialized, 1)
    if position < 0 or serialized[position : position + 1] != bytes([DATA_TAG]):
        return None
    length, start = _varint_at(serialized, position + 1)
    if start < 0 or start + length != len(serialized):
        return None
    return ReceivedBytes(memoryview(serialized)[start:], decoded_length)


def _varint_at(serialized: bytes, start: int) -> tuple[int, int]:
    """The number at ``start``, and where it ends; an end of -1 if it is too long or cut short."""
    number = shift = 0
    for position in range(start, min(start + MAX_LENGTH_BYTES, len(serialized))):
        group = serialized[position]
        number |= (group & 0x7F) << shift
        if group < 0x80:
            return number, position + 1
        shift += 7
    return 0, -1


def _append_varint(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)

"""The messages of a download: joined, cut, and never more than a receiver was promised."""

from __future__ import annotations

import random
from collections.abc import Iterable

import zstandard

from imsd import wire
from imsd.formats.output import Framed, Output, Zeros
from imsd.grpc_server.download_stream import (
    MAX_DECODED_BYTES,
    MESSAGE_BYTES,
    SHORT_ZEROS,
    Message,
    MessageBuffer,
)
from tests.unit.formats.disk_files import KIB, MIB, bytes_of, noise, text

COMPRESSOR = zstandard.ZstdCompressor(1, write_checksum=True)


def framed(plain: bytes) -> Framed:
    return Framed(len(plain), COMPRESSOR.compress(plain))


def messages_of(outputs: Iterable[Output]) -> list[Message]:
    buffer = MessageBuffer()
    messages = [message for output in outputs for message in buffer.add(output)]
    return messages + list(buffer.take())


def content_of(messages: Iterable[Message]) -> bytes:
    content = bytearray()
    for message in messages:
        if not isinstance(message, wire.FileBytes):
            content += bytes(message.zero_length)
        elif message.decoded_length:
            frames = b"".join(message.pieces)
            reader = zstandard.ZstdDecompressor().stream_reader(frames, read_across_frames=True)
            plain = reader.read()
            assert len(plain) == message.decoded_length
            content += plain
        else:
            content += b"".join(message.pieces)
    return bytes(content)


def test_pieces_become_messages_of_one_mib() -> None:
    messages = messages_of([text(300 * KIB), noise(3 * MIB), text(1)])
    sizes = [message.length for message in messages if isinstance(message, wire.FileBytes)]
    assert sizes == [MIB, MIB, MIB, 300 * KIB + 1]


def test_short_zeros_are_bytes_and_long_ones_a_number() -> None:
    messages = messages_of([b"a", Zeros(SHORT_ZEROS), b"b", Zeros(SHORT_ZEROS + 1), b"c"])
    assert [type(message) for message in messages[::2]] == [wire.FileBytes] * 2
    assert len(messages) == 3
    assert content_of(messages) == b"a" + bytes(SHORT_ZEROS) + b"b" + bytes(SHORT_ZEROS + 1) + b"c"


def test_frames_of_long_runs_do_not_make_a_message_that_cannot_be_held() -> None:
    """512 KiB of one letter are a frame of some bytes: 100 of them would decode to 50 MiB."""
    messages = messages_of([framed(b"x" * (512 * KIB))] * 100)
    lengths = [message.decoded_length for message in messages if isinstance(message, wire.FileBytes)]
    assert max(lengths) == MAX_DECODED_BYTES
    assert sum(lengths) == 50 * MIB


def test_any_mixture_arrives_as_it_was() -> None:
    chance = random.Random(1)
    for _ in range(30):
        outputs: list[Output] = []
        for _ in range(chance.randrange(30)):
            length = chance.choice([1, 4096, 70 * KIB, 512 * KIB])
            make = chance.choice(["bytes", "zeros", "frame", "frame"])
            if make == "zeros":
                outputs.append(Zeros(length))
            else:
                plain = noise(length) if chance.random() < 0.3 else text(length)
                outputs.append(plain if make == "bytes" else framed(plain))
        messages = messages_of(outputs)
        assert content_of(messages) == bytes_of(outputs)
        for message in messages:
            if isinstance(message, wire.FileBytes):
                assert 1 <= message.length <= MESSAGE_BYTES
                assert message.decoded_length <= MAX_DECODED_BYTES

"""Files fed to decoders as they may arrive: in pieces of any length, with the state taken up again."""

from __future__ import annotations

import random

from imsd.formats.output import PlainOutput, Zeros
from imsd.formats.stream_decoder import MAX_UNIT_BYTES, StreamDecoder, StreamedDisk
from tests.unit.formats.disk_files import LIMIT, bytes_of


def decoded(
    kind: type[StreamDecoder], file: bytes, chosen: random.Random | None = None, resumes: float = 0.0
) -> tuple[bytes, StreamedDisk]:
    """The disk of a file that comes as in `fed`."""
    outputs, disk = fed(kind, file, chosen, resumes)
    content = bytes_of(outputs) + bytes(disk.zeros_at_end)
    assert len(content) == disk.size_bytes
    return content, disk


def fed(
    kind: type[StreamDecoder], file: bytes, chosen: random.Random | None = None, resumes: float = 0.0
) -> tuple[list[PlainOutput], StreamedDisk]:
    """What a decoder gives; ``resumes``: how likely it is made anew from its state before a step.

    With ``chosen`` the bytes come in pieces of any length, otherwise all at once.
    """
    decoder = kind.begin(LIMIT)
    outputs: list[PlainOutput] = []
    at_hand = 0
    while decoder.position < len(file):
        if chosen and chosen.random() < resumes:
            decoder, at_hand = resumed(decoder), decoder.position
        more = chosen.choice([1, 100, 5000, 1 << 16, 1 << 20]) if chosen else MAX_UNIT_BYTES
        at_hand = min(max(at_hand, decoder.position) + more, len(file))
        step = decoder.step(memoryview(file)[decoder.position : at_hand])
        assert step.consumed or at_hand - decoder.position < MAX_UNIT_BYTES
        if not step.consumed and at_hand == len(file):
            break
        assert sum(len(output) for output in step.outputs if not isinstance(output, Zeros)) <= 4 << 20
        outputs += step.outputs
    return outputs, decoder.finish(len(file))


def resumed(decoder: StreamDecoder) -> StreamDecoder:
    """A decoder that goes on where another one stopped."""
    position = decoder.position
    other = type(decoder).resume(decoder.state(), LIMIT)
    assert other.position == position
    return other

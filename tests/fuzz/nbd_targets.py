"""Targets of `imsd.nbd`: what a client says before it may read a disk."""

from __future__ import annotations

import random
import struct
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, cast

from imsd.contract import Buffer
from imsd.nbd.channel import Channel, ClientGone
from imsd.nbd.handshake import MAX_OPTIONS, Export, Handshake
from tests.fuzz.target import ACCEPTED, Answer, Target
from tests.unit.nbd.raw_client import ABORT, GO, LIST, LIST_META, SET_META, STRUCTURED, named, wanted

# An answer to an option has a few hundred bytes at most.
MAX_SAID_BYTES = 1024 * (MAX_OPTIONS + 1)


class SaidBefore:
    """A channel of a client that has said all it says, and hears nothing."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self.heard: list[bytes] = []

    async def read_exactly(self, length: int) -> bytes:
        if length > len(self._said):
            raise ClientGone
        taken, self._said = self._said[:length], self._said[length:]
        return taken

    async def discard(self, length: int) -> None:
        await self.read_exactly(length)

    async def send(self, buffers: Sequence[Buffer]) -> None:
        self.heard += map(bytes, buffers)


def _run(coroutine: Coroutine[Any, Any, object]) -> object:
    """What it returns: it never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")


def _handshake(said: bytes, _chosen: random.Random) -> Answer:
    channel = SaidBefore(said)
    try:
        chosen = _run(Handshake(cast(Channel, channel), Export("disk", 1 << 30)).run())
    except ClientGone:
        return Answer("gone", channel.heard)
    heard = sum(map(len, channel.heard))
    assert heard <= MAX_SAID_BYTES, f"{heard} bytes were answered"
    return Answer(ACCEPTED, (repr(chosen), channel.heard))


def _option(number: int, content: bytes) -> bytes:
    return struct.pack(">8sII", b"IHAVEOPT", number, len(content)) + content


def _seeds() -> Iterable[bytes]:
    before = {LIST: b"", STRUCTURED: b"", LIST_META: named("disk"), SET_META: named("", "base:allocation")}
    said = b"\0\0\0\3"
    for number, content in before.items():
        said += _option(number, content)
        yield said + _option(GO, wanted("disk", 0, 1, 3))
    yield b"\0\0\0\1" + _option(1, b"disk")
    yield b"\0\0\0\3" + _option(ABORT, b"")


TARGETS = {target.name: target for target in (Target("nbd-handshake", _seeds, _handshake),)}

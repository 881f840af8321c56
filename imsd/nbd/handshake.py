"""The beginning of a connection: greeting and options, until the client has chosen the disk or left.

A client gets so much time, so many options and so long ones; beyond that it is cut off. Nothing it says
here costs more than the bytes of one option.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .channel import Channel, ClientGone
from .wire import (
    ALLOCATION,
    ALLOCATION_ID,
    EXPORT,
    EXPORT_PADDING,
    GREETING,
    HANDSHAKE_FLAGS,
    NO_ZEROES,
    OPTION,
    OPTION_MAGIC,
    InfoType,
    Option,
    OptionReply,
    Transmission,
    option_reply,
)

# From connecting to the first request: a client needs milliseconds.
HANDSHAKE_SECONDS = 10.0

# Clients send ten or so, of a few hundred bytes. Longer ones are skipped and refused; much longer ones end it
# all.
MAX_OPTIONS = 256
MAX_OPTION_BYTES = 64 << 10
MAX_SKIPPED_BYTES = 1 << 20

MAX_QUERIES = 64

MAX_READ_BYTES = 32 << 20
PREFERRED_BYTES = 64 << 10

_COUNT = struct.Struct(">H")
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Export:
    """What is offered. ``name``: of the disk, which the empty name means too."""

    name: str
    size_bytes: int


@dataclass(slots=True)
class Negotiated:
    """What the client chose."""

    is_structured: bool = False
    has_allocation: bool = False
    has_no_zeroes: bool = False
    is_in_transmission: bool = False


class _Malformed(Exception):
    """What came with an option is not what the option has."""


async def shake_hands(channel: Channel, export: Export) -> Negotiated | None:
    """None: the client left, as it may. Raises `ClientGone` also for one that is cut off."""
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            return await Handshake(channel, export).run()
    except TimeoutError:
        raise ClientGone from None


class Handshake:
    """See `shake_hands`, which also sees to the time."""

    def __init__(self, channel: Channel, export: Export) -> None:
        self._channel = channel
        self._export = export
        self._chosen = Negotiated()
        self._answers: dict[int, Callable[[int, bytes], Sequence[bytes]]] = {
            Option.LIST: self._list,
            Option.INFO: self._inform,
            Option.GO: self._inform,
            Option.STRUCTURED_REPLY: self._structured_reply,
            Option.LIST_META_CONTEXT: self._meta_context,
            Option.SET_META_CONTEXT: self._meta_context,
        }

    async def run(self) -> Negotiated | None:
        await self._channel.send([GREETING, _COUNT.pack(HANDSHAKE_FLAGS)])
        (flags,) = _LENGTH.unpack(await self._channel.read_exactly(_LENGTH.size))
        if flags & ~HANDSHAKE_FLAGS:
            raise ClientGone
        self._chosen.has_no_zeroes = bool(flags & NO_ZEROES)
        for _ in range(MAX_OPTIONS):
            magic, option, length = OPTION.unpack(await self._channel.read_exactly(OPTION.size))
            if magic != OPTION_MAGIC or length > MAX_SKIPPED_BYTES:
                raise ClientGone
            if option == Option.ABORT:
                await self._channel.send([option_reply(option, OptionReply.ACK)])
                return None
            if option == Option.EXPORT_NAME:
                await self._by_name(length)
            else:
                await self._channel.send(await self._answered(option, length))
            if self._chosen.is_in_transmission:
                return self._chosen
        raise ClientGone

    async def _answered(self, option: int, length: int) -> Sequence[bytes]:
        if length > MAX_OPTION_BYTES:
            await self._channel.discard(length)
            return [
                _refused(option, OptionReply.ERR_TOO_BIG, f"an option has {MAX_OPTION_BYTES} bytes at most")
            ]
        content = await self._channel.read_exactly(length)
        answer = self._answers.get(option)
        if answer is None:
            return [_refused(option, OptionReply.ERR_UNSUP, "this option is not known here")]
        try:
            return answer(option, content)
        except _Malformed as error:
            return [_refused(option, OptionReply.ERR_INVALID, str(error))]

    async def _by_name(self, length: int) -> None:
        """The old way, which has no way to say no."""
        if length > MAX_OPTION_BYTES or not self._is_known(await self._channel.read_exactly(length)):
            raise ClientGone
        padding = b"" if self._chosen.has_no_zeroes else EXPORT_PADDING
        await self._channel.send([EXPORT.pack(self._export.size_bytes, self._flags), padding])
        self._chosen.is_in_transmission = True

    def _list(self, option: int, content: bytes) -> Sequence[bytes]:
        if content:
            raise _Malformed("LIST has nothing with it")
        name = self._export.name.encode()
        entry = _LENGTH.pack(len(name)) + name
        return [option_reply(option, OptionReply.SERVER, entry), option_reply(option, OptionReply.ACK)]

    def _inform(self, option: int, content: bytes) -> Sequence[bytes]:
        """INFO and GO."""
        name, rest = _text(content)
        if len(rest) < _COUNT.size or len(rest) != _COUNT.size * (1 + _COUNT.unpack_from(rest)[0]):
            raise _Malformed("the length of the option and the number of its requests differ")
        if not self._is_known(name):
            return [_refused(option, OptionReply.ERR_UNKNOWN, "there is no export of this name here")]
        asked = {number for (number,) in _COUNT.iter_unpack(rest[_COUNT.size :])}
        told = [
            struct.pack(">HQH", InfoType.EXPORT, self._export.size_bytes, self._flags),
            # Told to everybody: whoever does not ask would take 512 bytes for what it may read.
            struct.pack(">HIII", InfoType.BLOCK_SIZE, 1, PREFERRED_BYTES, MAX_READ_BYTES),
        ]
        if InfoType.NAME in asked:
            told.append(_COUNT.pack(InfoType.NAME) + self._export.name.encode())
        self._chosen.is_in_transmission = option == Option.GO
        return [
            *(option_reply(option, OptionReply.INFO, each) for each in told),
            option_reply(option, OptionReply.ACK),
        ]

    def _structured_reply(self, option: int, content: bytes) -> Sequence[bytes]:
        if content:
            raise _Malformed("STRUCTURED_REPLY has nothing with it")
        self._chosen.is_structured = True
        return [option_reply(option, OptionReply.ACK)]

    def _meta_context(self, option: int, content: bytes) -> Sequence[bytes]:
        """LIST and SET: there is one context, `ALLOCATION`."""
        if not self._chosen.is_structured:
            raise _Malformed("structured replies come first")
        name, rest = _text(content)
        queries = _queries(rest)
        if option == Option.SET_META_CONTEXT:
            self._chosen.has_allocation = False
        if not self._is_known(name):
            return [_refused(option, OptionReply.ERR_UNKNOWN, "there is no export of this name here")]
        if option == Option.SET_META_CONTEXT:
            is_found = self._chosen.has_allocation = ALLOCATION in queries
            number = ALLOCATION_ID
        else:
            is_found = not queries or ALLOCATION in queries or b"base:" in queries
            number = 0
        found = [option_reply(option, OptionReply.META_CONTEXT, _LENGTH.pack(number) + ALLOCATION)]
        return [*(found if is_found else ()), option_reply(option, OptionReply.ACK)]

    @property
    def _flags(self) -> int:
        flags = Transmission.HAS_FLAGS | Transmission.READ_ONLY | Transmission.CAN_MULTI_CONN
        flags |= Transmission.SEND_CACHE
        return flags | Transmission.SEND_DF if self._chosen.is_structured else flags

    def _is_known(self, name: bytes) -> bool:
        return name in (b"", self._export.name.encode())


def _text(content: bytes) -> tuple[bytes, bytes]:
    """A text after its length, and the rest."""
    if len(content) < _LENGTH.size:
        raise _Malformed("the option is too short")
    (length,) = _LENGTH.unpack_from(content)
    end = _LENGTH.size + length
    if end > len(content):
        raise _Malformed("a text ends beyond the option")
    return content[_LENGTH.size : end], content[end:]


def _queries(content: bytes) -> Sequence[bytes]:
    """Texts after their number."""
    if len(content) < _LENGTH.size:
        raise _Malformed("the option is too short")
    (count,) = _LENGTH.unpack_from(content)
    if count > MAX_QUERIES:
        raise _Malformed(f"an option has {MAX_QUERIES} queries at most")
    rest, found = content[_LENGTH.size :], []
    for _ in range(count):
        query, rest = _text(rest)
        found.append(query)
    if rest:
        raise _Malformed("something stands after the last query")
    return found


def _refused(option: int, kind: OptionReply, why: str) -> bytes:
    return option_reply(option, kind, why.encode())

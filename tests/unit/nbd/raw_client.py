"""An NBD client that says what it is told to, also what no client should."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

OPTION_MAGIC = b"IHAVEOPT"
LIST, ABORT, INFO, GO, STRUCTURED, LIST_META, SET_META = 3, 2, 6, 7, 8, 9, 10
ACK, SERVER, INFO_REPLY, META = 1, 2, 3, 4
UNSUP, INVALID, UNKNOWN, TOO_BIG = 0x80000001, 0x80000003, 0x80000006, 0x80000009
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
DF, REQ_ONE = 4, 8
EPERM, EIO, EINVAL, EOVERFLOW = 1, 5, 22, 75

PATIENCE_SECONDS = 30.0


class OptionReply(NamedTuple):
    kind: int
    content: bytes


class Chunk(NamedTuple):
    flags: int
    kind: int
    content: bytes


@dataclass
class Answer:
    """All of a reply, put together. ``extents``: of a block status."""

    error: int = 0
    message: str = ""
    data: bytearray = field(default_factory=bytearray)
    holes: list[tuple[int, int]] = field(default_factory=list)
    extents: list[tuple[int, int]] = field(default_factory=list)
    pieces: int = 0


def request(kind: int, cookie: int, start: int = 0, length: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, start, length)


def named(name: str, *queries: str) -> bytes:
    """The content of LIST and SET_META_CONTEXT."""
    parts = [name.encode(), *(query.encode() for query in queries)]
    texts = [struct.pack(">I", len(part)) + part for part in parts]
    return texts[0] + struct.pack(">I", len(queries)) + b"".join(texts[1:])


def wanted(name: str, *informations: int) -> bytes:
    """The content of INFO and GO."""
    return struct.pack(
        f">I{len(name.encode())}sH", len(name.encode()), name.encode(), len(informations)
    ) + b"".join(struct.pack(">H", each) for each in informations)


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.is_structured = False
        self.size_bytes = 0
        self.flags = 0
        self._cookie = 0

    # -- handshake -------------------------------------------------------------------------------------

    async def greet(self, flags: int = 3) -> int:
        """The server's flags."""
        greeting = await self.exactly(18)
        assert greeting[:16] == b"NBDMAGIC" + OPTION_MAGIC
        self.writer.write(struct.pack(">I", flags))
        return int.from_bytes(greeting[16:], "big")

    async def option(self, number: int, content: bytes = b"") -> list[OptionReply]:
        """All replies up to the last."""
        self.writer.write(struct.pack(">8sII", OPTION_MAGIC, number, len(content)) + content)
        replies: list[OptionReply] = []
        while not replies or replies[-1].kind in (SERVER, INFO_REPLY, META):
            magic, option, kind, length = struct.unpack(">QIII", await self.exactly(20))
            assert (magic, option) == (0x0003E889045565A9, number)
            replies.append(OptionReply(kind, await self.exactly(length)))
        return replies

    async def go(self, name: str = "", *, structured: bool = True, allocation: bool = True) -> None:
        """Greet and begin transmission."""
        await self.greet()
        if structured:
            assert [reply.kind for reply in await self.option(STRUCTURED)] == [ACK]
            self.is_structured = True
            if allocation:
                replies = await self.option(SET_META, named(name, "base:allocation"))
                assert [reply.kind for reply in replies] == [META, ACK]
        replies = await self.option(GO, wanted(name))
        assert replies[-1].kind == ACK, replies
        export = next(reply.content for reply in replies if reply.content[:2] == b"\0\0")
        self.size_bytes, self.flags = struct.unpack(">QH", export[2:])

    # -- transmission ----------------------------------------------------------------------------------

    def send(self, kind: int, start: int = 0, length: int = 0, flags: int = 0, content: bytes = b"") -> int:
        """The cookie."""
        self._cookie += 1
        self.writer.write(request(kind, self._cookie, start, length, flags) + content)
        return self._cookie

    async def ask(
        self, kind: int, start: int = 0, length: int = 0, flags: int = 0, content: bytes = b""
    ) -> Answer:
        """One request and its answer."""
        cookie = self.send(kind, start, length, flags, content)
        return (await self.answers({cookie: (kind, start, length)}))[cookie]

    async def read(self, start: int, length: int) -> bytes:
        answer = await self.ask(READ, start, length)
        assert answer.error == 0, answer.message
        return bytes(answer.data)

    async def answers(self, asked: dict[int, tuple[int, int, int]]) -> dict[int, Answer]:
        """The answers of all cookies; ``asked``: (kind, start, length) of each."""
        answers = {cookie: Answer() for cookie in asked}
        for cookie, (kind, _, length) in asked.items():
            if kind == READ:
                answers[cookie].data = bytearray(length)
        open_ones = set(asked)
        while open_ones:
            cookie, is_last = await self._one_reply(asked, answers)
            assert cookie in open_ones, "an answer to nothing"
            if is_last:
                open_ones.discard(cookie)
        return answers

    async def _one_reply(
        self, asked: dict[int, tuple[int, int, int]], answers: dict[int, Answer]
    ) -> tuple[int, bool]:
        (magic,) = struct.unpack(">I", await self.exactly(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", await self.exactly(12))
            kind, _, length = asked[cookie]
            assert not (self.is_structured and kind == READ and not error)
            answers[cookie].error = error
            if kind == READ and not error:
                answers[cookie].data[:] = await self.exactly(length)
            return cookie, True
        assert magic == 0x668E33EF
        flags, kind, cookie, length = struct.unpack(">HHQI", await self.exactly(16))
        self._put(answers[cookie], asked[cookie], Chunk(flags, kind, await self.exactly(length)))
        return cookie, bool(flags & 1)

    def _put(self, answer: Answer, asked: tuple[int, int, int], chunk: Chunk) -> None:
        _, first, length = asked
        answer.pieces += chunk.kind != 0
        if chunk.kind == 1:
            (start,) = struct.unpack_from(">Q", chunk.content)
            content = chunk.content[8:]
            assert first <= start
            assert start + len(content) <= first + length
            answer.data[start - first : start - first + len(content)] = content
        elif chunk.kind == 2:
            answer.holes.append(struct.unpack(">QI", chunk.content))
        elif chunk.kind == 5:
            assert struct.unpack_from(">I", chunk.content) == (1,)
            answer.extents = list(struct.iter_unpack(">II", chunk.content[4:]))
        elif chunk.kind == 0x8001:
            answer.error, size = struct.unpack_from(">IH", chunk.content)
            answer.message = chunk.content[6 : 6 + size].decode()
        else:
            assert (chunk.kind, chunk.content) == (0, b"")

    # -- both --------------------------------------------------------------------------------------------

    async def exactly(self, length: int) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.readexactly(length)

    async def is_cut_off(self) -> bool:
        """Whether the server ends the connection; what it says before counts for nothing."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await self.reader.read(1 << 16):
                    pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 22)
    client = RawClient(reader, writer)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def reading(path: str, name: str = "") -> AsyncIterator[RawClient]:
    """In transmission, with structured replies."""
    async with connected(path) as client:
        await client.go(name)
        yield client

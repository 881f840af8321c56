"""One client after the handshake: its requests, answered as soon as each can be.

Requests are read while no more than `MAX_REQUESTS` are unanswered. A read is cut into parts; parts are
loaded while no more than `WINDOW_BYTES` are under way, and each is answered when it is in memory. One task
sends. What is loaded is not held for the client: if it does not read, it keeps one part, and no memory of the
others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from imsd.contract import Buffer, ImsError

from .channel import Channel, ClientGone
from .disk import Disk
from .handshake import MAX_READ_BYTES, Negotiated
from .replies import PART_BYTES, plain_pieces, read_chunks, status_extents
from .wire import (
    CHUNK_DONE,
    FLAG_DF,
    FLAG_FUA,
    FLAG_REQ_ONE,
    REQUEST,
    REQUEST_MAGIC,
    Command,
    Error,
    RequestHead,
    block_status,
    data_head,
    done,
    error_chunk,
    simple_reply,
)

MAX_REQUESTS = 128
WINDOW_BYTES = 2 << 20

# A client that wrote so much at once is not one of a read-only disk.
MAX_WRITE_BYTES = MAX_READ_BYTES

_RECEIVE_BYTES = 32 << 10

_KNOWN_FLAGS = {
    Command.READ: FLAG_DF | FLAG_FUA,
    Command.BLOCK_STATUS: FLAG_REQ_ONE,
    Command.CACHE: 0,
    Command.FLUSH: 0,
}
_CHANGING = (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES, Command.RESIZE)


class Served(Protocol):
    """What a connection needs of the attachment that it reads."""

    @property
    def disk(self) -> Disk:
        """The one to read now; another one with the same content may follow."""

    def touched(self, start: int, length: int) -> None:
        """A client reads this."""

    def warm(self, start: int, length: int) -> None:
        """A client will read this."""

    def sent(self, read_bytes: int) -> None:
        """So many bytes of the disk went to a client."""

    def answered(self, *, has_failed: bool) -> None:
        """A request has its answer."""


@dataclass(eq=False, slots=True)
class _Read:
    """A read request. ``parts_left``: how many have no answer yet."""

    cookie: int
    is_whole: bool  # its content goes in one piece
    parts_left: int = 1
    failure: str = ""  # why the first part that failed did


@dataclass(eq=False, slots=True)
class _Part:
    read: _Read
    start: int
    length: int
    waits_for: int = 0
    waits_for_places: bool = False
    error: BaseException | None = None


class _Allocation(bytes):
    """The answer to a block status; the next one is made when this one was sent."""


class Connection:
    def __init__(self, channel: Channel, served: Served, chosen: Negotiated) -> None:
        self._channel = channel
        self._served = served
        self._chosen = chosen
        self._received = bytearray(_RECEIVE_BYTES)
        self._filled = 0
        self._to_skip = 0  # what a write brought, and nobody wants
        self._skipping_for: RequestHead | None = None
        self._unanswered = 0
        self._is_reading = False
        self._is_ending = False  # the client said so: what it asked before is answered
        self._is_gone = False
        self._under_way = 0  # bytes of parts
        self._parts: deque[_Part] = deque()  # those that are not begun
        self._ready: deque[_Part | bytes] = deque()
        self._has_news = asyncio.Event()
        self._statuses: set[asyncio.Task[None]] = set()
        self._status_turn = asyncio.Lock()

    async def serve(self) -> None:
        """Until the client leaves. Raises `ClientGone` when it left without a word."""
        self._read_on()
        try:
            while not (self._is_gone or (self._is_ending and not self._unanswered)):
                while self._ready and not self._is_gone:
                    await self._answer(self._ready.popleft())
                self._has_news.clear()
                if not self._is_gone and not (self._is_ending and not self._unanswered):
                    await self._has_news.wait()
        finally:
            self._is_gone = True
            self._channel.stop_reading()
            for task in self._statuses:
                task.cancel()
            await asyncio.gather(*self._statuses, return_exceptions=True)

    # -- requests ------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        is_wanted = self._unanswered < MAX_REQUESTS and not self._is_ending and not self._is_gone
        if is_wanted and not self._is_reading:
            self._channel.start_reading(self._on_readable)
        elif not is_wanted and self._is_reading:
            self._channel.stop_reading()
        self._is_reading = is_wanted

    def _on_readable(self) -> None:
        try:
            count = self._channel.receive_into(memoryview(self._received)[self._filled :])
            self._filled += count
            self._take_requests()
        except ClientGone:
            self._is_gone = True
            self._has_news.set()
        self._read_on()

    def _take_requests(self) -> None:
        position = 0
        while self._unanswered < MAX_REQUESTS and not self._is_ending:
            if self._to_skip:
                skipped = min(self._to_skip, self._filled - position)
                position += skipped
                self._to_skip -= skipped
                if self._to_skip:
                    break
            if self._skipping_for is not None:
                head, self._skipping_for = self._skipping_for, None
                self._refuse(head, Error.EPERM, "the disk is read-only")
            if self._filled - position < REQUEST.size:
                break
            head = RequestHead(*REQUEST.unpack_from(self._received, position))
            position += REQUEST.size
            self._take(head)
        self._received[: self._filled - position] = self._received[position : self._filled]
        self._filled -= position

    def _take(self, head: RequestHead) -> None:
        if head.magic != REQUEST_MAGIC:
            raise ClientGone
        if head.kind == Command.DISC:
            self._is_ending = True
            self._has_news.set()
        elif head.kind == Command.WRITE:
            if head.length > MAX_WRITE_BYTES:
                raise ClientGone
            self._to_skip, self._skipping_for = head.length, head
        elif head.kind in _CHANGING:
            self._refuse(head, Error.EPERM, "the disk is read-only")
        elif head.kind not in _KNOWN_FLAGS:
            self._refuse(head, Error.EINVAL, "this command is not known here")
        elif head.flags & ~_KNOWN_FLAGS[Command(head.kind)]:
            self._refuse(head, Error.EINVAL, "a flag of this request is not known here")
        elif head.kind == Command.FLUSH:
            self._say(self._success(head.cookie))
        elif not head.length or head.start + head.length > self._served.disk.size_bytes:
            self._refuse(head, Error.EINVAL, "the request is empty, or ends beyond the disk")
        else:
            self._begin(head)

    def _begin(self, head: RequestHead) -> None:
        if head.kind == Command.READ:
            self._begin_read(head)
        elif head.kind == Command.CACHE:
            self._served.warm(head.start, head.length)
            self._say(self._success(head.cookie))
        elif not self._chosen.has_allocation:
            self._refuse(head, Error.EINVAL, "no metadata context was chosen")
        else:
            self._unanswered += 1
            task = asyncio.ensure_future(self._status(head))
            self._statuses.add(task)
            task.add_done_callback(self._statuses.discard)

    def _begin_read(self, head: RequestHead) -> None:
        is_whole = not self._chosen.is_structured or bool(head.flags & FLAG_DF)
        if head.length > MAX_READ_BYTES:
            self._refuse(head, Error.EOVERFLOW, f"a read has {MAX_READ_BYTES} bytes at most")
            return
        if is_whole and self._chosen.is_structured and head.length > PART_BYTES:
            self._refuse(head, Error.EOVERFLOW, f"without fragments a read has {PART_BYTES} bytes at most")
            return
        self._unanswered += 1
        read = _Read(head.cookie, is_whole)
        end = head.start + head.length
        step = head.length if is_whole else PART_BYTES
        parts = [_Part(read, start, min(step, end - start)) for start in range(head.start, end, step)]
        read.parts_left = len(parts)
        self._parts += parts
        self._admit()

    # -- loading -------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Begin to load parts, as many as may be under way; several at a time, if there are several.

        Neighbours are loaded together: what one run of chunks costs hardly depends on its length.
        """
        if self._under_way > WINDOW_BYTES // 2:
            return
        begun: list[_Part] = []
        while self._parts and (
            not self._under_way or self._under_way + self._parts[0].length <= WINDOW_BYTES
        ):
            begun.append(self._parts.popleft())
            self._under_way += begun[-1].length
        for start, length in _joined(begun):
            self._served.disk.load(start, min(length, WINDOW_BYTES))
            self._served.touched(start, length)
        for part in begun:
            self._load(part)

    def _load(self, part: _Part) -> None:
        # A long read in one piece is loaded while it is sent.
        length = min(part.length, PART_BYTES)
        disk = self._served.disk
        part.waits_for_places = not disk.knows_places(part.start, length)
        futures = disk.lacking(part.start, length)
        part.waits_for = len(futures)
        for future in futures:
            future.add_done_callback(partial(self._loaded, part))
        if not futures:
            self._ready.append(part)
            self._has_news.set()

    def _loaded(self, part: _Part, future: asyncio.Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()):
            part.error = error
        part.waits_for -= 1
        if self._is_gone or part.waits_for:
            return
        if part.error is None and part.waits_for_places:
            self._load(part)  # now the chunks
        else:
            self._ready.append(part)
            self._has_news.set()

    # -- answers -------------------------------------------------------------------------------------------

    def _say(self, answer: bytes) -> None:
        """An answer that needs nothing any more."""
        self._unanswered += 1
        self._ready.append(answer)
        self._has_news.set()

    def _refuse(self, head: RequestHead, error: Error, why: str) -> None:
        self._say(self._failure(head.cookie, error, why))

    def _success(self, cookie: int) -> bytes:
        return done(cookie) if self._chosen.is_structured else simple_reply(cookie)

    def _failure(self, cookie: int, error: Error, why: str) -> bytes:
        return error_chunk(cookie, error, why) if self._chosen.is_structured else simple_reply(cookie, error)

    async def _answer(self, answer: _Part | bytes) -> None:
        if isinstance(answer, bytes):
            await self._channel.send([answer])
            if isinstance(answer, _Allocation):
                self._status_turn.release()
            self._answered()
            return
        read = answer.read
        if read.is_whole:
            await self._answer_whole(answer)
        else:
            await self._answer_part(answer)
        self._under_way -= answer.length
        self._admit()
        if not read.parts_left:
            self._answered(has_failed=bool(read.failure))

    def _answered(self, *, has_failed: bool = False) -> None:
        self._unanswered -= 1
        self._served.answered(has_failed=has_failed)
        if not self._is_reading:
            self._go_on()

    def _go_on(self) -> None:
        """Take what was received already, and then more."""
        try:
            self._take_requests()
        except ClientGone:
            self._is_gone = True
        self._read_on()

    async def _answer_part(self, part: _Part) -> None:
        read = part.read
        read.parts_left -= 1
        try:
            content = [] if read.failure else await self._content(part, part.start, part.length)
        except ImsError as error:
            read.failure = error.message
        if not read.failure:
            flags = 0 if read.parts_left else CHUNK_DONE
            await self._channel.send(read_chunks(read.cookie, part.start, content, flags))
            self._served.sent(part.length)
        elif not read.parts_left:
            await self._channel.send([error_chunk(read.cookie, Error.EIO, read.failure)])

    async def _answer_whole(self, part: _Part) -> None:
        """Data without fragments, or in a simple reply."""
        read, cookie = part.read, part.read.cookie
        read.parts_left = 0
        length = min(part.length, PART_BYTES)
        try:
            content = await self._content(part, part.start, length)
        except ImsError as error:
            read.failure = error.message
            await self._channel.send([self._failure(cookie, Error.EIO, error.message)])
            return
        head = (
            data_head(cookie, part.start, part.length, CHUNK_DONE)
            if self._chosen.is_structured
            else simple_reply(cookie)
        )
        await self._channel.send([head, *plain_pieces(content)])
        end = part.start + part.length
        for start in range(part.start + length, end, PART_BYTES):
            disk = self._served.disk
            disk.load_ahead(start, min(WINDOW_BYTES, end - start))
            try:
                content = await disk.read(start, min(PART_BYTES, end - start))
            except ImsError:
                raise ClientGone from None  # it was told that all is well: there is no way to take that back
            await self._channel.send(plain_pieces(content))
        self._served.sent(part.length)

    async def _content(self, part: _Part, start: int, length: int) -> list[Buffer | int]:
        if isinstance(part.error, Exception):
            raise part.error
        disk = self._served.disk
        content = disk.at_hand(start, length)
        return await disk.read(start, length) if content is None else content

    async def _status(self, head: RequestHead) -> None:
        """One at a time, until it was sent: each may need much of the manifest, and be long."""
        await self._status_turn.acquire()
        try:
            extents = await self._served.disk.extents(head.start, head.length)
        except ImsError as error:
            answer = error_chunk(head.cookie, Error.EIO, error.message)
        else:
            told = status_extents(extents)
            answer = block_status(head.cookie, told[:1] if head.flags & FLAG_REQ_ONE else told)
        self._ready.append(_Allocation(answer))
        self._has_news.set()


def _joined(parts: Sequence[_Part]) -> list[tuple[int, int]]:
    """(start, length) of the ranges that neighbours among ``parts`` make."""
    found: list[tuple[int, int]] = []
    for part in parts:
        if found and sum(found[-1]) == part.start:
            found[-1] = (found[-1][0], found[-1][1] + part.length)
        else:
            found.append((part.start, part.length))
    return found

"""A file of the web that is open: pieces fetched side by side, or one stream, through cuts and stalls.

A server that answers ranges and proves with a validator which content they are of is asked for several
pieces at once. Any other is read in one stream; if that is cut, it begins anew and what is there already is
skipped, provided the server proves that it is the same content.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

from imsd.contract import ImsError

from .feeds import FeedStep, OpenedFeed
from .limits import MAX_WRITE_BYTES
from .url_answer import Answer, AskedRange, AttemptFailed, changed, unreachable
from .url_client import UrlClient
from .url_policy import CheckedUrl
from .url_settings import UrlLimits

# The longest pause between two attempts.
MAX_PAUSE_SECONDS = 15.0


@asynccontextmanager
async def open_url(client: UrlClient, url: CheckedUrl, offset: int) -> AsyncIterator[OpenedFeed]:
    """Holds one of the places for connections. Raises `ImsError`."""
    async with client.places, AsyncExitStack() as connection:
        opened = _OpenedUrl(client, url, offset, connection)
        await opened.begin()
        yield opened


class _OpenedUrl(OpenedFeed):
    def __init__(self, client: UrlClient, url: CheckedUrl, offset: int, connection: AsyncExitStack) -> None:
        self._client = client
        self._url = url
        self._offset = offset
        self._connection = connection  # of the first answer, or of the one stream
        self._answer: Answer
        # Where the redirects led: asked first, until that fails.
        self._shortcut: CheckedUrl | None = None

    async def begin(self) -> None:
        """Ask for the first piece, and learn by the answer what the server can do."""
        patience = self._patience()
        end = self._offset + self._client.limits.piece_bytes
        self._answer = await self._ask_until_answered(AskedRange(self._offset, end), patience)
        if self._answer.is_partial and not self._has_ranges:
            await self._connection.aclose()
            self._answer = await self._ask_until_answered(None, patience)
        self.size_bytes, self.mark = self._answer.size_bytes, self._answer.mark

    def require_same(self, mark: str) -> None:
        if not self.mark or not mark:
            raise self._unproved()
        if mark != self.mark:
            raise changed(self._url)

    async def steps(self) -> AsyncGenerator[FeedStep, None]:
        async with aclosing(self._pieces() if self._has_ranges else self._stream()) as coming:
            async for piece in coming:
                yield piece

    @property
    def _has_ranges(self) -> bool:
        answer = self._answer
        return answer.is_partial and bool(answer.validator) and answer.size_bytes is not None

    async def _pieces(self) -> AsyncGenerator[FeedStep, None]:
        """Pieces in order, while those that follow are fetched.

        One is fetched on the place that this feed has, each other on one that is free; after every piece a
        place goes to who waits for one.
        """
        limits, places, size = self._client.limits, self._client.places, self.size_bytes or 0
        start, more_places = self._answer.end or size, 0
        coming = deque([asyncio.create_task(self._piece(self._answer.first, start, self._answer))])
        try:
            while coming or start < size:
                while start < size and len(coming) < limits.connections:
                    if len(coming) > more_places:
                        if places.locked():
                            break
                        await places.acquire()
                        more_places += 1
                    end = min(start + limits.piece_bytes, size)
                    coming.append(asyncio.create_task(self._piece(start, end)))
                    start = end
                yield await coming[0]
                coming.popleft()
                if more_places:
                    more_places -= 1
                    places.release()
        finally:
            await _end(coming)
            for _ in range(more_places):
                places.release()

    async def _piece(self, first: int, end: int, answer: Answer | None = None) -> bytearray:
        """Bytes ``first`` to ``end``, of ``answer`` as far as it brings them."""
        content, done, patience = bytearray(end - first), 0, self._patience()
        while True:
            try:
                async with (
                    self._answer_for(first + done, end, answer) as coming,
                    aclosing(coming.blocks()) as blocks,
                ):
                    async for block in blocks:
                        content[done : done + len(block)] = block
                        done += len(block)
                        patience.renew()
                return content
            except AttemptFailed as failed:
                self._shortcut = answer = None
                await patience.wait(failed)

    @asynccontextmanager
    async def _answer_for(self, first: int, end: int, known: Answer | None) -> AsyncIterator[Answer]:
        async with AsyncExitStack() as connection:
            if known:
                connection.push_async_callback(self._connection.aclose)
                yield known
                return
            answer = await self._ask(connection, AskedRange(first, end, self._answer.validator))
            if not answer.is_partial or answer.mark != self.mark:
                raise changed(self._url)
            yield answer

    async def _stream(self) -> AsyncGenerator[FeedStep, None]:
        """One answer from its start to its end, and another one when it is cut."""
        answer, position, patience = self._answer, self._offset, self._patience()
        while True:
            try:
                async with aclosing(_from(answer, position)) as blocks:
                    async for block in blocks:
                        yield block
                        position += len(block)
                        patience.renew()
                return
            except AttemptFailed as failed:
                if position and not self.mark:
                    raise self._unproved() from failed
                await self._connection.aclose()
                await patience.wait(failed)
            answer = await self._ask_until_answered(None, patience)
            if (answer.mark, answer.size_bytes) != (self.mark, self.size_bytes):
                raise changed(self._url)

    async def _ask_until_answered(self, asked: AskedRange | None, patience: Patience) -> Answer:
        while True:
            try:
                return await self._ask(self._connection, asked)
            except AttemptFailed as failed:
                self._shortcut = None
                await patience.wait(failed)

    async def _ask(self, connection: AsyncExitStack, asked: AskedRange | None) -> Answer:
        if self._shortcut:
            with suppress(ImsError):  # a signed address may be good for some minutes only
                return await connection.enter_async_context(self._client.ask(self._shortcut, asked))
        answer = await connection.enter_async_context(self._client.ask(self._url, asked))
        self._shortcut = answer.url
        return answer

    def _unproved(self) -> ImsError:
        return unreachable(
            self._url,
            "the connection was cut, and the server does not prove that the rest would be of the same file",
            "fetch the file with another program and import the file",
        )

    def _patience(self) -> Patience:
        return Patience(self._url, self._client.limits)


class Patience:
    """How long attempts that bring nothing are repeated."""

    def __init__(self, url: CheckedUrl, limits: UrlLimits) -> None:
        self._url = url
        self._limits = limits
        self.renew()

    def renew(self) -> None:
        """Something came."""
        self._since = time.monotonic()
        self._pause = self._limits.pause_seconds

    async def wait(self, failed: AttemptFailed) -> None:
        """Pause before the next attempt. Raises Unavailable (URL_UNREACHABLE) when there shall be none."""
        if time.monotonic() - self._since + self._pause > self._limits.retry_seconds:
            raise unreachable(self._url, str(failed)) from failed
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)


async def _from(answer: Answer, position: int) -> AsyncGenerator[bytearray, None]:
    """The bytes of ``answer`` from ``position`` of the file on, gathered. Raises AttemptFailed."""
    skip, gathered = position - answer.first, bytearray()
    async with aclosing(answer.blocks()) as blocks:
        async for block in blocks:
            gathered += block[skip:] if skip else block
            skip = max(skip - len(block), 0)
            if len(gathered) >= MAX_WRITE_BYTES:
                yield gathered
                gathered = bytearray()
    if skip:
        raise AttemptFailed("the answer is shorter than what came before")
    if gathered:
        yield gathered


async def _end(tasks: Collection[asyncio.Task[bytearray]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

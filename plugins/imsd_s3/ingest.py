"""An ingest into an object: sent in parts as its bytes come, and put together by the commit.

What is short enough goes in one request. Both are done on the condition that no object has the key: the first
commit wins. Each ingest writes a random mark into the metadata of its object, so that it knows its own when
the answer to a commit was lost.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from imsd.contract import (
    AlreadyExists,
    BlobId,
    Buffer,
    FailedPrecondition,
    ImsError,
    Ingest,
    LimitExceeded,
    NotFound,
    StoredBlob,
    Unavailable,
    settle,
    wait_through,
)

from . import objects
from .connection import Connection
from .objects import INGEST_HEADER, Commit

# S3 takes no more. From the second half on they are larger, so that an object may have 195 GiB by default.
MAX_PARTS: Final = 10_000
PARTS_OF_ONE_SIZE: Final = MAX_PARTS // 2
LATER_SIZES: Final = 4

# How long an ingest that is left waits for the service to forget its parts.
ABORT_SECONDS: Final = 10.0

# How long who is cancelled waits for the answer to what was sent: the service may well have it. Who looks
# next should see how a commit ended, and an upload that was begun has to be aborted.
LINGER_SECONDS: Final = 10.0


class PartRoom:
    """Memory for parts that are on their way, of all ingests of a store."""

    def __init__(self, parts_at_once: int) -> None:
        self._turns = asyncio.Semaphore(parts_at_once)
        self._large = asyncio.Lock()
        self._limit = parts_at_once

    async def take(self, units: int) -> int:
        """Wait for room for so many parts of the usual size; returns how much was taken."""
        units = min(units, self._limit)
        if units == 1:
            await self._turns.acquire()
            return 1
        taken = 0
        async with self._large:  # of two that want several, one gets all it wants
            try:
                while taken < units:
                    await self._turns.acquire()
                    taken += 1
            except BaseException:
                self.give_back(taken)
                raise
        return taken

    def give_back(self, units: int) -> None:
        for _ in range(units):
            self._turns.release()


class RunningUploads:
    """Ids of the uploads of this process, which no clean-up may touch."""

    def __init__(self) -> None:
        self.ids: set[str] = set()


class S3Ingest(Ingest):
    """`close` ends its life, in any case."""

    def __init__(self, blob: BlobId, connection: Connection, room: PartRoom, running: RunningUploads) -> None:
        self._blob = blob
        self._connection = connection
        self._key = connection.options.key(blob)
        self._room = room
        self._running = running
        self._mark = secrets.token_hex(16)
        self._part = bytearray()
        self._upload_id = ""
        self._sending: list[asyncio.Task[str]] = []
        self._is_whole = True  # every write so far was taken in full
        self._is_over = False

    async def write(self, buffers: Sequence[Buffer]) -> None:
        self._require_open()
        self._is_whole = False
        for buffer in buffers:
            with memoryview(buffer) as whole, whole.cast("B") as view:
                start = 0
                while start < view.nbytes:
                    room = self._part_bytes() - len(self._part)
                    self._part += view[start : start + room]
                    start += room
                    if len(self._part) == self._part_bytes():
                        await self._send_part()
        self._is_whole = True

    async def commit(self) -> StoredBlob:
        self._require_open()
        self._is_over = True
        if not self._connection.options.put_if_absent:
            await self._require_absent()
        try:
            await _lingering(asyncio.create_task(self._finish()))
        except (AlreadyExists, Unavailable) as doubt:
            if stored := await self._find_own():
                self._forget_upload()
                return stored
            raise doubt from None
        self._forget_upload()
        return objects.stored_blob(self._blob, await objects.head(self._connection, self._key))

    async def close(self) -> None:
        """Nothing is left running, and nothing is left behind if the service can be reached."""
        self._is_over = True
        await settle(asyncio.create_task(self._leave()))

    def _require_open(self) -> None:
        if self._is_over or not self._is_whole:
            raise FailedPrecondition(
                f"blob {self._blob}: a write failed, or the ingest is over: there is nothing to commit"
            )

    def _part_bytes(self) -> int:
        return self._connection.options.part_bytes * self._units()

    def _units(self) -> int:
        return 1 if len(self._sending) < PARTS_OF_ONE_SIZE else LATER_SIZES

    def _headers(self) -> Mapping[str, str]:
        return {INGEST_HEADER: self._mark, "content-type": "application/octet-stream"}

    async def _send_part(self) -> None:
        """Start to send the part that is full."""
        self._raise_what_failed()
        if len(self._sending) == MAX_PARTS:
            raise LimitExceeded(
                f"blob {self._blob} has more than {MAX_PARTS:,} parts",
                reason="CAPACITY_EXHAUSTED",
                hint="set part_bytes of the store higher",
            )
        if not self._upload_id:
            await _lingering(asyncio.create_task(self._begin()))
        units = await self._room.take(self._units())
        part, self._part = self._part, bytearray()
        number = len(self._sending) + 1
        self._sending.append(asyncio.create_task(self._send(number, part, units)))

    async def _begin(self) -> None:
        self._upload_id = await objects.begin_upload(self._connection, self._key, self._headers())
        self._running.ids.add(self._upload_id)

    async def _send(self, number: int, part: bytearray, units: int) -> str:
        try:
            return await objects.put_part(self._connection, self._key, self._upload_id, number, part)
        finally:
            self._room.give_back(units)

    def _raise_what_failed(self) -> None:
        for task in self._sending:
            if task.done():
                task.result()

    async def _finish(self) -> None:
        if not self._upload_id:
            await objects.put(self._connection, self._as_commit(), self._part, self._headers())
            return
        if self._part:
            await self._send_part()
        await asyncio.wait(self._sending, return_when=asyncio.FIRST_EXCEPTION)
        self._raise_what_failed()
        etags = [task.result() for task in self._sending]
        await objects.complete_upload(self._connection, self._as_commit(), self._upload_id, etags)

    def _as_commit(self) -> Commit:
        condition = {"if-none-match": "*"} if self._connection.options.put_if_absent else {}
        return Commit(self._key, condition, self._is_there)

    async def _is_there(self) -> bool:
        try:
            return await self._find_own(retries=0) is not None
        except Unavailable:
            return False

    def _forget_upload(self) -> None:
        """It is an object now."""
        self._running.ids.discard(self._upload_id)
        self._upload_id = ""

    async def _require_absent(self) -> None:
        """For services that have no conditions: right unless another commit runs at this moment."""
        try:
            await objects.head(self._connection, self._key)
        except NotFound:
            return
        raise AlreadyExists(f"blob {self._blob} exists")

    async def _find_own(self, retries: int | None = None) -> StoredBlob | None:
        """The object, if it is the one of this ingest. Raises Unavailable: nobody can tell."""
        try:
            headers = await objects.head(self._connection, self._key, retries)
        except Unavailable:
            raise
        except ImsError:
            return None
        if headers.get(INGEST_HEADER, "") != self._mark:
            return None
        return objects.stored_blob(self._blob, headers)

    async def _leave(self) -> None:
        running = [task for task in self._sending if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for task in self._sending:
            if not task.cancelled():
                task.exception()  # retrieved here, or asyncio logs it as lost
        self._part = bytearray()
        if self._upload_id:
            try:
                async with asyncio.timeout(ABORT_SECONDS):
                    await objects.abort_upload(self._connection, self._key, self._upload_id)
            except (TimeoutError, ImsError):
                pass  # the clean-up of stale uploads finds it
            finally:
                self._running.ids.discard(self._upload_id)


async def _lingering(sent: asyncio.Task[None]) -> None:
    """Wait for the answer to what was ``sent``; who is cancelled meanwhile waits a little longer."""
    try:
        await asyncio.shield(sent)
    except asyncio.CancelledError:
        late = asyncio.get_running_loop().call_later(LINGER_SECONDS, sent.cancel)
        await wait_through([sent])
        late.cancel()
        if not sent.cancelled():
            sent.exception()  # retrieved here, or asyncio logs it as lost
        raise

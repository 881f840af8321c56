"""All attachments: made, moved and ended by the daemon's messages, and brought back after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from imsd.chunks.cipher import ChunkCipher
from imsd.chunks.layout import AVERAGE_CHUNK_BYTES
from imsd.contract import (
    Conflict,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unavailable,
    run_blocking,
)

from .access_trace import Entries, TraceFiles
from .attachment import Attachment, ClientCount, SocketRules, State, covered_bytes, fitting
from .description import Description, DescriptionFiles
from .disk import Disk
from .disks import Disks
from .listening import MAX_SOCKET_PATH
from .prefetching import Prefetcher

log = structlog.get_logger(__name__)

# An attach is answered after this long, though the store has not answered.
OPEN_SECONDS = 5.0

# A store that does not answer is asked again after pauses of this length.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0

# Who stops a program and detaches its disk at once is not told that it is still connected.
LEAVING_SECONDS = 0.5

# How often what was recorded is written.
SAVE_SECONDS = 30.0

# Who only looks at a disk touches less of it than this; a machine that starts touches more.
LOOK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``prefetch_limit``: bytes that are fetched in advance for one attachment."""

    sockets: SocketRules
    max_attachments: int
    prefetch_limit: int


class Attachments:
    """``disks``, and the files in which descriptions and traces lie."""

    def __init__(self, disks: Disks, files: DescriptionFiles, traces: TraceFiles, rules: Rules) -> None:
        self._disks = disks
        self._files = files
        self._traces = traces
        self._rules = rules
        self._attached: dict[str, Attachment] = {}
        self._turns: dict[str, asyncio.Lock] = {}  # one message at a time for each id
        self._following: dict[str, asyncio.Task[None]] = {}
        self._count = ClientCount()
        self._prefetching = asyncio.Semaphore(1)
        self._saving: asyncio.Task[None] | None = None

    # -- start and end ---------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Serve again what was attached; returns how many descriptions there are. Raises OSError."""
        await run_blocking(self._files.open)
        await run_blocking(self._traces.open)
        for description in await run_blocking(lambda: list(self._files.load())):
            await self._restore(description)
        self._saving = asyncio.ensure_future(self._save_now_and_then())
        return len(self._attached)

    async def _restore(self, description: Description) -> None:
        attachment_id = description.attachment_id
        if description.is_encrypted:
            self._attached[attachment_id] = self._made(description, None)
            return
        disk = self._disks.acquire(description, None)
        attachment = self._attached[attachment_id] = self._made(description, disk)
        try:
            attachment.listen(self._rules.sockets, self._count)
        except OSError as error:
            attachment.failure = f"its socket cannot be made: {error.strerror}"
            log.error("an attachment is not served again", attachment=attachment_id, error=str(error))
        self._follow(attachment)

    async def close(self) -> None:
        """Cut off all clients, and keep what was recorded. Descriptions stay."""
        tasks = [*self._following.values(), *([self._saving] if self._saving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        attached = list(self._attached.values())
        await asyncio.gather(*(attachment.close() for attachment in attached))
        for attachment in attached:
            await self._save(attachment, is_over=True)
            if attachment.has_disk:
                await attachment.disk.close()

    # -- messages --------------------------------------------------------------------------------------------

    async def attach(self, description: Description, cipher: ChunkCipher | None) -> Attachment:
        """See README.md. Raises ImsError."""
        async with self._turn(description.attachment_id):
            known = self._attached.get(description.attachment_id)
            if known is None or known.state == State.WAITING_FOR_KEY or not known.socket_path:
                return await self._attach_new(description, cipher, known)
            if not known.description.is_same_disk(description):
                raise Conflict(
                    f"{description.attachment_id} is attached, and is another disk",
                    hint="detach it first, or attach this one under another id",
                )
            if known.description != description:
                await self._move(known, description, cipher)
            elif known.state in (State.OPENING, State.FAILED):
                await self._open(known.disk)
                if known.failure and known.disk.is_open:  # what was lacking is there again
                    known.failure = ""
                    self._follow(known)
            return known

    async def _attach_new(
        self, description: Description, cipher: ChunkCipher | None, known: Attachment | None
    ) -> Attachment:
        if known is None and len(self._attached) >= self._rules.max_attachments:
            raise LimitExceeded(
                f"{self._rules.max_attachments} disks are attached",
                hint="detach one, or raise max_attachments of block_server",
            )
        path = self._rules.sockets.path(description.attachment_id)
        if len(str(path).encode()) > MAX_SOCKET_PATH:
            raise InvalidRequest(
                f"the path of the socket would have more than {MAX_SOCKET_PATH} bytes: {path}",
                field="attachment_id",
                hint="choose a shorter run_dir of block_server",
            )
        disk = self._disks.acquire(description, cipher)
        try:
            await self._open(disk)
            attachment = self._made(description, disk)
            await self._keep(description)
            attachment.listen(self._rules.sockets, self._count)
        except BaseException as error:
            if known is None:  # or it would be there after a restart
                with suppress(OSError):
                    await run_blocking(self._files.remove, description.attachment_id)
            await self._disks.release(description, disk)
            if isinstance(error, OSError):
                raise Unavailable(f"the socket cannot be made: {error.strerror}") from error
            raise
        if known is not None and known.has_disk:
            await self._disks.release(known.description, known.disk)
        self._attached[description.attachment_id] = attachment
        self._follow(attachment)
        log.info("attached", attachment=description.attachment_id, store=description.store)
        return attachment

    async def _move(self, known: Attachment, description: Description, cipher: ChunkCipher | None) -> None:
        """The same disk, stored elsewhere; nobody who reads notices."""
        disk = self._disks.acquire(description, cipher)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await disk.open()
            await self._keep(description)
        except BaseException as error:
            await self._disks.release(description, disk)
            if isinstance(error, TimeoutError):
                raise Unavailable(f"the store {description.store} does not answer") from None
            raise
        old, before = known.description, known.use(description, disk)
        assert before is not None
        await self._disks.release(old, before, is_read=True)
        log.info("reads from another place", attachment=description.attachment_id, store=description.store)

    async def detach(self, attachment_id: str, *, force: bool) -> int:
        """How many clients were cut off. Raises NotFound, FailedPrecondition."""
        async with self._turn(attachment_id):
            attachment = self.get(attachment_id)
            if not force:
                await attachment.wait_for_clients(LEAVING_SECONDS)
            clients = attachment.clients
            if clients and not force:
                raise FailedPrecondition(
                    f"{clients} clients are connected to {attachment_id}",
                    hint="stop what uses the disk, or detach it by force",
                )
            # Nothing is waited for before its socket is closed: somebody might connect.
            if task := self._following.pop(attachment_id, None):
                task.cancel()
            await attachment.close()
            await self._save(attachment, is_over=True)
            try:
                await run_blocking(self._files.remove, attachment_id)
            except OSError as error:
                raise Unavailable(f"its description cannot be removed: {error.strerror}") from error
            del self._attached[attachment_id]
            if attachment.has_disk:
                await self._disks.release(attachment.description, attachment.disk)
            log.info("detached", attachment=attachment_id, clients=clients)
            return clients

    @property
    def clients(self) -> int:
        """Connected now, to all attachments."""
        return self._count.number

    def get(self, attachment_id: str) -> Attachment:
        """Raises NotFound."""
        try:
            return self._attached[attachment_id]
        except KeyError:
            raise NotFound(f"there is no attachment {attachment_id[:80]!r}", field="attachment_id") from None

    def page(self, after: str, size: int) -> list[Attachment]:
        """At most ``size`` of those whose ids sort after ``after``, in their order."""
        return [self._attached[each] for each in sorted(self._attached) if each > after][:size]

    def set_trace(self, attachment: Attachment, entries: Entries, *, append: bool) -> int:
        """Prefetch in this order; how many pieces wait."""
        if attachment.prefetcher is None:
            return 0
        if not append:
            attachment.prefetcher.forget()
        attachment.prefetcher.follow(fitting(entries, self._rules.prefetch_limit))
        return attachment.prefetcher.waiting

    # -- what stands behind --------------------------------------------------------------------------------

    def _made(self, description: Description, disk: Disk | None) -> Attachment:
        prefetcher = None
        if self._disks.is_kept(description.store):
            prefetcher = Prefetcher(lambda: attachment.disk, self._prefetching, self._disks.is_busy)
        room = self._disks.memory.chunks.limit // 2
        attachment = Attachment(description, disk, room, prefetcher)
        return attachment

    @asynccontextmanager
    async def _turn(self, attachment_id: str) -> AsyncIterator[None]:
        lock = self._turns.setdefault(attachment_id, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._turns.get(attachment_id) is lock and not _is_awaited(lock):
                del self._turns[attachment_id]

    async def _open(self, disk: Disk) -> None:
        """Raises what is wrong with the disk; nothing when the store does not answer."""
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await disk.open()
        except (Unavailable, TimeoutError) as error:
            log.warning("a disk cannot be opened yet", error=str(error) or "the store does not answer")

    async def _keep(self, description: Description) -> None:
        try:
            await run_blocking(self._files.save, description)
        except OSError as error:
            raise Unavailable(
                f"the description of the attachment cannot be written: {error.strerror}",
                hint="look at the state directory: an attachment has to survive a restart",
            ) from error

    def _follow(self, attachment: Attachment) -> None:
        attachment_id = attachment.description.attachment_id
        if before := self._following.pop(attachment_id, None):
            before.cancel()
        self._following[attachment_id] = asyncio.ensure_future(self._open_and_prefetch(attachment))

    async def _open_and_prefetch(self, attachment: Attachment) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                reader = await attachment.disk.open()
                break
            except Unavailable as error:
                attachment.disk.stats.last_error = error.message
            except ImsError as error:
                attachment.failure = error.message
                log.error(
                    "an attachment cannot be read",
                    attachment=attachment.description.attachment_id,
                    error=error.message,
                )
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        if attachment.prefetcher is not None:
            size = attachment.description.size_bytes
            entries = await run_blocking(self._traces.load, reader.digest, size)
            attachment.prefetcher.follow(fitting(entries, self._rules.prefetch_limit))

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            for attachment in list(self._attached.values()):
                await self._save(attachment)

    async def _save(self, attachment: Attachment, *, is_over: bool = False) -> None:
        """Keep what was recorded, unless the record of another attachment tells more of how the disk is used.

        Far less was touched than by a boot when somebody only looked at the disk, and more when it was
        copied. Which of these it is shows at the end: of the recording, or of the attachment (``is_over``).
        """
        trace = attachment.trace
        if trace.is_saved or not attachment.has_disk or not attachment.disk.is_open:
            return
        trace.is_saved = True
        reader = await attachment.disk.open()
        entries = list(trace.entries)
        kept = await run_blocking(self._traces.load, reader.digest, attachment.description.size_bytes)
        is_of_another = bool(kept) and not trace.is_kept
        if is_of_another and not (is_over or trace.is_complete):
            trace.is_saved = False
            return
        is_look = covered_bytes(entries) < min(LOOK_BYTES, covered_bytes(kept) // 2)
        if is_look or (kept and _is_copy(attachment, reader.manifest.chunk_count)):
            return
        try:
            await run_blocking(self._traces.save, reader.digest, entries)
            trace.is_kept = True
        except OSError as error:
            log.warning("the order of reads cannot be kept", error=str(error))


def _is_copy(attachment: Attachment, chunk_count: int) -> bool:
    """Whether about half of the disk was read, or more than is recorded in ten minutes.

    Chunks that were loaded may have been loaded again and again; what was touched may hold few chunks.
    """
    if attachment.trace.is_full:
        return True
    touched_bytes = covered_bytes(attachment.trace.entries)
    is_half_loaded = 2 * attachment.disk.stats.memory_misses > chunk_count
    return is_half_loaded and 4 * touched_bytes > chunk_count * AVERAGE_CHUNK_BYTES


def _is_awaited(lock: asyncio.Lock) -> bool:
    return bool(getattr(lock, "_waiters", None))

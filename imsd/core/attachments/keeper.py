"""Keeps the block server and the rows of attachments in step, whichever of the two was restarted.

It stays connected. With each connection the block server is told of every attachment of this machine, what it
offers without a row is taken from it, and what was to be detached is. When the connection ends, another
one is tried after pauses that grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import structlog

from imsd.contract import FailedPrecondition, ImsError
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.metadata import attachments as rows
from imsd.metadata import chunk_index
from imsd.metadata.attachments import AttachmentRecord, MovedImage

from .attachments import Host, all_attached, end_on
from .block_server import UNAVAILABLE, BlockLink, BlockServer
from .descriptions import description_of

log = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 10.0

# How often what was refused is tried again.
RETRY_SECONDS: Final = 15.0

BATCH: Final = 100


class AttachmentKeeper:
    def __init__(self, runtime: Runtime, sweeper: Sweeper, server: BlockServer, host: Host) -> None:
        self._runtime = runtime
        self._sweeper = sweeper
        self._server = server
        self._host = host
        self._keeping: asyncio.Task[None] | None = None
        self._is_told = False
        self._told_instance = ""  # the run of the block server that was told everything

    def start(self) -> None:
        """Begin; the daemon does not wait for the block server."""
        self._keeping = asyncio.create_task(self._keep(), name="attachments")

    async def stop(self) -> None:
        """The block server goes on, unless it has nothing to do and was started by a daemon."""
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._server.end_if_idle()

    async def tidy(self) -> None:
        """What is to be looked at now and then: images that were moved, and rows of calls that were cut off.

        Raises Unavailable when the block server does not answer, and there is something to be said.
        """
        await self._follow_moves()
        if await self._has_any():
            async with self._server.connected() as link:
                await self._reconcile(link)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._server.connected(may_start=await self._has_any()) as link:
                    self._is_told = False
                    await self._reconcile(link)
                    pause = FIRST_PAUSE_SECONDS
                    await self._stay(link)
                    log.info("the block server ended its connection")
            except ImsError as error:
                await self._tell(error)
            except Exception:
                log.exception("attachments could not be looked after")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _stay(self, link: BlockLink) -> None:
        """Until the connection ends; what was refused is tried again: a key may be enabled again, say."""
        closed = asyncio.create_task(link.closed())
        try:
            while not (await asyncio.wait([closed], timeout=RETRY_SECONDS))[0]:
                async for record in self._records():
                    if record.id in self._server.refused and not record.is_detaching:
                        await self._hand_over(self._server, record)
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)

    async def _tell(self, error: ImsError) -> None:
        """Once for each outage, and only if somebody misses something."""
        if not self._is_told and await self._has_any():
            self._is_told = True
            log.warning("attachments have to wait", reason=error.reason, detail=error.message)

    async def _has_any(self) -> bool:
        async with self._runtime.database.reading() as c:
            return bool(await rows.attachments_of_host(c, self._host.id, 1))

    async def _reconcile(self, link: BlockLink) -> None:
        # First what is offered, then the rows: what is made meanwhile has a row before it is offered.
        offered = {each["attachment_id"] for each in await all_attached(link)}
        known = set()
        async for record in self._records():
            known.add(record.id)
            if record.is_detaching:
                await end_on(link, record.id, force=True)
                await self._forget(record)
            elif record.id not in offered or link.instance != self._told_instance:
                await self._hand_over(link, record)
        for attachment_id in sorted(offered - known):
            await self._take_away(link, attachment_id)
        self._told_instance = link.instance

    async def _hand_over(self, server: BlockLink | BlockServer, record: AttachmentRecord) -> None:
        """One that is refused stays, and its state says why; the others are to be served nevertheless."""
        try:
            await self._offer(server, record)
            self._server.refused.pop(record.id, None)
        except ImsError as error:
            if error.reason == UNAVAILABLE:
                raise
            is_known = self._server.refused.get(record.id) == error.message
            self._server.refused[record.id] = error.message
            if is_known:
                return
            log.error(
                "an attachment is not served",
                attachment=record.id,
                image=record.image_id,
                reason=error.reason,
                detail=error.message,
            )

    async def _offer(self, server: BlockLink | BlockServer, record: AttachmentRecord) -> None:
        """What was detached while it was offered would be offered for ever, and hold nothing."""
        await server.call("attach", **await description_of(record, self._runtime.data_keys))
        async with self._runtime.database.reading() as c:
            now = await rows.get_attachment(c, record.id)
        if now is None or now.is_detaching:
            await end_on(server, record.id, force=True)

    async def _take_away(self, link: BlockLink, attachment_id: str) -> None:
        """What has no row holds no bytes. Not from under clients: they would lose a disk by our mistake."""
        try:
            await end_on(link, attachment_id, force=False)
            log.info("an attachment that nobody knows of is ended", attachment=attachment_id)
        except FailedPrecondition as error:
            log.error(
                "an attachment that nobody knows of is in use", attachment=attachment_id, why=error.message
            )

    async def _records(self) -> AsyncIterator[AttachmentRecord]:
        after = ""
        while True:
            async with self._runtime.database.reading() as c:
                found = await rows.attachments_of_host(c, self._host.id, BATCH, after)
            for record in found:
                yield record
            if len(found) < BATCH:
                return
            after = found[-1].id

    async def _forget(self, record: AttachmentRecord) -> None:
        async with self._runtime.database.transaction() as c:
            await rows.delete_attachment(c, record.id)
        self._server.refused.pop(record.id, None)
        self._sweeper.wake(record.store)

    async def _follow_moves(self) -> None:
        """Read images that were moved or repacked from where they lie now, so that the old place is freed."""
        async with self._runtime.database.reading() as c:
            moved = await rows.moved_images(c, self._host.id, BATCH)
        for each in moved:
            try:
                await self._move(each)
            except ImsError as error:
                # It goes on from the old place, which it holds; the next round tries again.
                log.warning(
                    "an attachment stays where it was", attachment=each.attachment.id, why=error.message
                )

    async def _move(self, moved: MovedImage) -> None:
        record = replace(moved.attachment, store=moved.store, manifest_id=moved.manifest_id)
        async with self._runtime.database.transaction() as c:
            if await rows.get_attachment(c, record.id) != moved.attachment:
                return  # detached meanwhile, say
            await chunk_index.hold_manifest(c, rows.holder_of(record.id), moved.manifest_id)
        await self._offer(self._server, record)
        async with self._runtime.database.transaction() as c:
            await rows.move_attachment(c, moved)
        self._sweeper.wake(moved.attachment.store)

"""Attaching images and detaching them: a row that holds the bytes, and a disk that the block server offers.

The row comes first, so that whatever the block server offers is held; it goes last, when the block server has
said that it offers the disk no more. What it did not say by then, `AttachmentKeeper` finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition, ImsError, LimitExceeded, NotFound, Unavailable
from imsd.core import checks, requests
from imsd.core.image_access import usable_image
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.metadata import attachments as rows
from imsd.metadata.attachments import AttachmentRecord
from imsd.metadata.records import ImageRecord

from .block_server import Answer, BlockLink, BlockServer
from .descriptions import description_of

MAX_EXPORT_NAME_BYTES: Final = 255
MAX_PAGES: Final = 200  # of a list of the block server's, each of a hundred


class AttachmentState(StrEnum):
    """``UNREACHABLE``: the block server does not answer, or it is that of another machine."""

    READY = "ready"
    OPENING = "opening"
    WAITING_FOR_KEY = "waiting_for_key"
    FAILED = "failed"
    DETACHING = "detaching"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Host:
    """The machine: ``id`` is that of the state directory, ``name`` is shown."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class AttachmentView:
    """``status``: what the block server tells of it, see `imsd/nbd/README.md`; empty when it does not."""

    record: AttachmentRecord
    state: AttachmentState
    detail: str
    socket: str
    status: Answer


class Attachments:
    def __init__(self, runtime: Runtime, sweeper: Sweeper, server: BlockServer, host: Host) -> None:
        self._runtime = runtime
        self._sweeper = sweeper
        self._server = server
        self._host = host

    async def attach(self, key: RequestKey, image_id: str) -> AttachmentView:
        """Offer an image that the project may read as a disk.

        Raises as `usable_image`, LimitExceeded, Unavailable (BLOCK_SERVER_UNAVAILABLE), what the block server
        says of it (DataLoss, FailedPrecondition), and of an encrypted one as `DataKeys.unwrapped`.
        """
        ending: asyncio.Task[None] | None = None
        try:
            async with self._server.connected(may_start=True) as link:  # before anything is noted
                async with self._runtime.database.transaction() as c:
                    record = await self._made(c, key, image_id)
                try:
                    await link.call("attach", **await description_of(record, self._runtime.data_keys))
                except BaseException:
                    ending = self._runtime.background.spawn(self._give_up(record), "end of an attachment")
                    raise
                # Somebody who saw it in a list may have detached it before it was there.
                now = await self._of_project(key.project_id, record.id)
                return await self._view(now, link)
        except ImsError:  # and not a cancellation, which must not wait
            if ending is not None:
                await asyncio.shield(ending)
            raise

    async def get(self, project_id: str, attachment_id: str) -> AttachmentView:
        """Raises InvalidRequest, NotFound."""
        return await self._view(await self._of_project(project_id, attachment_id))

    async def list(
        self, project_id: str, image_id: str, page_size: int, page_token: str
    ) -> tuple[Sequence[AttachmentView], str]:
        """A page, the newest first, and the token of the next one; ``image_id`` empty: of all images."""
        project_id, limit = checks.project_id(project_id), checks.page_size(page_size)
        if image_id:
            checks.uuid("image_id", image_id)
        query = ("attachments", project_id, image_id)
        after = self._runtime.tokens.read(query, page_token)
        async with self._runtime.database.reading() as c:
            found = await rows.list_attachments(c, project_id, image_id, limit + 1, after)
        token = ""
        if len(found) > limit:
            last = found[limit - 1]
            token = self._runtime.tokens.make(query, (last.created_at, last.id))
        statuses = await self._statuses() if any(self._is_here(each) for each in found) else None
        return [self._seen(each, statuses) for each in found[:limit]], token

    async def detach(self, project_id: str, attachment_id: str, *, force: bool) -> bool:
        """Offer it no more; False: as soon as the block server answers.

        ``force``: also if clients are connected, which are cut off. Raises InvalidRequest, NotFound,
        FailedPrecondition.
        """
        record = await self._of_project(project_id, attachment_id)
        if not self._is_here(record) and not force:
            raise FailedPrecondition(
                f"the image is attached on {record.host}, and only there it is known who uses it",
                hint=f"detach it on {record.host}, or by force: the daemon there does it then",
            )
        if force:
            await self._mark(record)
        if not self._is_here(record):
            return False
        try:
            await self._end(record, force=force)
        except Unavailable:
            await self._mark(record)  # without a block server nobody is connected
            return False
        return True

    async def _made(self, c: AsyncConnection, key: RequestKey, image_id: str) -> AttachmentRecord:
        if earlier := await requests.recall(c, key):
            record = await rows.get_attachment(c, earlier)
            if record is None or record.is_detaching or not self._is_here(record):
                raise NotFound(
                    f"attachment {earlier}, which this request made, was detached",
                    field="request_id",
                    hint="attach the image with a new request id",
                )
            return record
        image = await usable_image(c, key.project_id, image_id)
        most = self._runtime.limits.max_attachments_per_project
        if await rows.count_attachments(c, key.project_id) >= most:
            raise LimitExceeded(
                f"project {key.project_id} has {most} attachments, and no project has more",
                hint="detach what nobody uses, or ask the operator to raise "
                "limits.max_attachments_per_project",
            )
        record = self._record(key.project_id, image)
        await rows.insert_attachment(c, record)
        await requests.remember(c, self._runtime, key, record.id)
        return record

    def _record(self, project_id: str, image: ImageRecord) -> AttachmentRecord:
        attachment_id = self._runtime.new_id()
        fits = len(image.name.encode()) <= MAX_EXPORT_NAME_BYTES and image.name.isprintable()
        return AttachmentRecord(
            id=attachment_id,
            project_id=project_id,
            image_id=image.id,
            image_name=image.name,
            export_name=image.name if fits else attachment_id,
            store=image.store,
            manifest_id=image.manifest_id,
            size_bytes=image.virtual_size,
            digest=image.digest,
            binding=image.id if image.key_id else "",
            host_id=self._host.id,
            host=self._host.name,
            created_at=self._runtime.clock(),
        )

    async def _give_up(self, record: AttachmentRecord) -> None:
        """Of one that was not attached, or nobody knows whether it was."""
        await self._mark(record)
        try:
            await self._end(record, force=True)
        except Unavailable:
            return  # the keeper does it

    async def _mark(self, record: AttachmentRecord) -> None:
        async with self._runtime.database.transaction() as c:
            await rows.mark_detaching(c, record.id)

    async def _end(self, record: AttachmentRecord, *, force: bool) -> None:
        """Raises FailedPrecondition (clients are connected), Unavailable."""
        await end_on(self._server, record.id, force=force)
        async with self._runtime.database.transaction() as c:
            await rows.delete_attachment(c, record.id)
        self._server.refused.pop(record.id, None)
        self._sweeper.wake(record.store)

    async def _of_project(self, project_id: str, attachment_id: str) -> AttachmentRecord:
        project_id = checks.project_id(project_id)
        checks.uuid("attachment_id", attachment_id)
        async with self._runtime.database.reading() as c:
            record = await rows.get_attachment(c, attachment_id)
        if record is None or record.project_id != project_id:
            raise NotFound(
                f"there is no attachment {attachment_id} in project {project_id}",
                field="attachment_id",
                hint="list them with `imsctl attachment list`",
            )
        return record

    def _is_here(self, record: AttachmentRecord) -> bool:
        return record.host_id == self._host.id

    async def _view(
        self, record: AttachmentRecord, server: BlockServer | BlockLink | None = None
    ) -> AttachmentView:
        """``server``: whom to ask; None: over a connection of its own."""
        server = server or self._server
        statuses: dict[str, Answer] | None = None
        if self._is_here(record):
            try:
                statuses = {record.id: await server.call("status", attachment_id=record.id)}
            except NotFound:
                statuses = {}
            except ImsError:
                statuses = None
        return self._seen(record, statuses)

    async def _statuses(self) -> dict[str, Answer] | None:
        """Of all that the block server has; None when it does not answer."""
        try:
            async with self._server.connected() as link:
                return {each["attachment_id"]: each for each in await all_attached(link)}
        except ImsError:
            return None

    def _seen(self, record: AttachmentRecord, statuses: dict[str, Answer] | None) -> AttachmentView:
        path = str(self._server.place.sockets / f"{record.id}.sock") if self._is_here(record) else ""
        status = (statuses or {}).get(record.id, {})
        state, detail = AttachmentState.UNREACHABLE, "the block server does not answer"
        if record.is_detaching:
            state, detail = AttachmentState.DETACHING, "it ends as soon as the block server answers"
        elif not self._is_here(record):
            detail = f"it is attached on {record.host}: ask the daemon there"
        elif status:
            state = AttachmentState(status["state"])
            refused = "" if state is AttachmentState.READY else self._server.refused.get(record.id, "")
            detail = refused or str(status["detail"] or status["last_error"])
        elif statuses is not None and record.id in self._server.refused:
            state, detail = AttachmentState.FAILED, self._server.refused[record.id]
        elif statuses is not None:
            state, detail = AttachmentState.OPENING, "the block server is told of it in a moment"
        return AttachmentView(record, state, detail, path, status)


async def end_on(server: BlockServer | BlockLink, attachment_id: str, *, force: bool) -> None:
    """Raises FailedPrecondition, Unavailable."""
    try:
        await server.call("detach", attachment_id=attachment_id, force=force)
    except NotFound:
        return  # as good as done


async def all_attached(link: BlockLink) -> Sequence[Answer]:
    """Raises Unavailable."""
    found: list[Answer] = []
    after = ""
    for _ in range(MAX_PAGES):
        page = await link.call("list", after=after)
        found += page["attachments"]
        after = page["next"]
        if not after:
            break
    return found

"""A stored image on its way out, as a file of any format that can be written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from imsd.chunks.chunk_reader import ChunkReader, OnRead, open_chunk_reader
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.render import render
from imsd.chunks.spool import SpoolFolder
from imsd.contract import NotFound, run_blocking
from imsd.formats.output import Framed, Output, Zeros
from imsd.formats.registry import open_writer, require_writable
from imsd.formats.writer import FormatWriter
from imsd.metadata import images as image_rows
from imsd.metadata.records import ImageRecord

from . import checks, usage
from .images import Images
from .keys.encryption import cipher_of_image
from .runtime import Runtime
from .sweeper import Sweeper


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is ready to flow. ``file_size_bytes``: 0 when its length is known only at its end."""

    image: ImageRecord
    disk_format: str
    file_size_bytes: int
    pieces: AsyncIterator[Sequence[Output]]


class Outlet:
    """Makes files of images, for whoever takes them."""

    def __init__(self, runtime: Runtime, sweeper: Sweeper, spools: SpoolFolder) -> None:
        self._runtime = runtime
        self._sweeper = sweeper
        self._spools = spools

    @asynccontextmanager
    async def open(
        self,
        image: ImageRecord,
        disk_format: str,
        compression: str = "",
        *,
        may_frame: bool = False,
        on_read: OnRead | None = None,
    ) -> AsyncIterator[Download]:
        """A file of an active image, measured.

        ``may_frame``: as in `open_writer`; ``on_read``: as in `ChunkReader`.
        Raises InvalidRequest, NotFound, DataLoss, Unavailable.
        """
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(
                open_image_reader(self._runtime, self._sweeper, image, on_read=on_read)
            )
            spool = self._spools.spool(is_secret=reader.manifest.is_encrypted)
            stack.push_async_callback(run_blocking, spool.close)
            writer: FormatWriter = await self._runtime.pool.run(
                open_writer, disk_format, reader, compression, may_frame=may_frame, spool=spool
            )
            rendering = await stack.enter_async_context(aclosing(render(writer, self._runtime.pool)))
            # The first step runs the measuring pass, after which the length is known.
            first = await anext(rendering, ())
            size = writer.file_size_bytes() if writer.is_length_known else 0
            yield Download(image, disk_format, size, _chain(first, rendering))


class Downloads:
    def __init__(self, runtime: Runtime, images: Images, outlet: Outlet) -> None:
        self._runtime = runtime
        self._images = images
        self._outlet = outlet

    @asynccontextmanager
    async def open(
        self, project_id: str, image_id: str, disk_format: str, compression: str, *, may_frame: bool = False
    ) -> AsyncIterator[Download]:
        """Open an image for download; ``may_frame`` as in `open_writer`.

        Raises InvalidRequest, NotFound, FailedPrecondition, DataLoss.
        """
        disk_format = disk_format or "raw"
        require_writable(disk_format, compression)
        image = await self._images.get_usable(project_id, image_id)
        sent = _Sent()
        try:
            async with self._outlet.open(image, disk_format, compression, may_frame=may_frame) as download:
                yield replace(download, pieces=sent.counted(download.pieces))
        finally:
            self._count_soon(checks.project_id(project_id), sent)

    def _count_soon(self, project_id: str, sent: _Sent) -> None:
        """Also what a download sent that was broken off; after the call, whose end may be a cancellation."""
        self._runtime.background.spawn(self._count(project_id, sent.bytes), "usage of a download")

    async def _count(self, project_id: str, sent_bytes: int) -> None:
        async with self._runtime.database.transaction() as c:
            await usage.count(c, self._runtime, project_id, usage.DOWNLOAD_BYTES, sent_bytes)


@asynccontextmanager
async def open_image_reader(
    runtime: Runtime,
    sweeper: Sweeper,
    image: ImageRecord,
    *,
    digests: bool = False,
    on_read: OnRead | None = None,
) -> AsyncIterator[ChunkReader]:
    """A reader of an active image's disk, which keeps its bytes even when the image is deleted or moved.

    ``digests``, ``on_read``: as in `ChunkReader`. Raises NotFound, DataLoss, Unavailable, and what unwrapping
    the data key of an encrypted image raises.
    """
    async with held_image(runtime, sweeper, image) as held:
        store = runtime.stores.get(held.store)
        cipher = await cipher_of_image(runtime, held)
        opening = open_chunk_reader(
            store, held.manifest_id, runtime.pool, digests=digests, on_read=on_read, cipher=cipher
        )
        async with opening as reader:
            # Else one of an earlier run of the import, say, could take the place of the image's.
            reader.require_digest(held.digest)
            yield reader


@asynccontextmanager
async def held_image(runtime: Runtime, sweeper: Sweeper, image: ImageRecord) -> AsyncIterator[ImageRecord]:
    """The image as it is when its bytes are held, until the end of the block. Raises NotFound."""
    holder = Holder(HolderKind.READER, runtime.new_id())
    held = image
    try:
        # Inside: a cancellation may come after the hold was committed. Releasing none does no harm.
        held = await _hold(runtime, holder, image)
        yield held
    finally:
        runtime.background.spawn(_release(runtime, sweeper, holder, held.store), "release of a reader")


async def _hold(runtime: Runtime, holder: Holder, image: ImageRecord) -> ImageRecord:
    while True:
        try:
            store = await runtime.index.hold_manifest(holder, image.manifest_id)
        except NotFound:
            # It may have been moved, or repacked, since it was looked at.
            async with runtime.database.reading() as c:
                now = await image_rows.get_image(c, image.project_id, image.id)
            if now is None or now.manifest_id in ("", image.manifest_id):
                raise
            image = now
        else:
            return replace(image, store=store)


async def _release(runtime: Runtime, sweeper: Sweeper, holder: Holder, store_name: str) -> None:
    await runtime.index.release(holder)
    sweeper.wake(store_name)  # the image may have been deleted meanwhile


async def _chain(
    first: Sequence[Output], rest: AsyncIterator[Sequence[Output]]
) -> AsyncIterator[Sequence[Output]]:
    yield first
    async for outputs in rest:
        yield outputs


class _Sent:
    """Counts the bytes of a download as they travel: frames as they are, runs of zeros not."""

    def __init__(self) -> None:
        self.bytes = 0

    async def counted(self, pieces: AsyncIterator[Sequence[Output]]) -> AsyncIterator[Sequence[Output]]:
        async for outputs in pieces:
            self._add(outputs)
            yield outputs

    def _add(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if not isinstance(output, Zeros):
                self.bytes += len(output.frame if isinstance(output, Framed) else output)

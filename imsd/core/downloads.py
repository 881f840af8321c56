"""A stored image on its way out, as a file of any format that can be written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from imsd.chunks.chunk_reader import ChunkReader, open_chunk_reader
from imsd.chunks.index import Holder, HolderKind
from imsd.chunks.render import render
from imsd.chunks.spool import SpoolFolder
from imsd.contract import run_blocking
from imsd.formats.output import Framed, Output, Zeros
from imsd.formats.registry import open_writer, require_writable
from imsd.formats.writer import FormatWriter
from imsd.metadata.records import ImageRecord

from . import checks, usage
from .images import Images
from .runtime import Runtime
from .sweeper import Sweeper


@dataclass(frozen=True, slots=True)
class Download:
    """A file that is ready to flow. ``file_size_bytes``: 0 when its length is known only at its end."""

    image: ImageRecord
    disk_format: str
    file_size_bytes: int
    pieces: AsyncIterator[Sequence[Output]]


class Downloads:
    def __init__(self, runtime: Runtime, sweeper: Sweeper, images: Images, spools: SpoolFolder) -> None:
        self._runtime = runtime
        self._spools = spools
        self._sweeper = sweeper
        self._images = images

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
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(open_image_reader(self._runtime, self._sweeper, image))
            spool = self._spools.spool()
            stack.push_async_callback(run_blocking, spool.close)
            writer: FormatWriter = await self._runtime.pool.run(
                open_writer, disk_format, reader, compression, may_frame=may_frame, spool=spool
            )
            rendering = await stack.enter_async_context(aclosing(render(writer, self._runtime.pool)))
            # The first step runs the measuring pass, after which the length is known.
            first = await anext(rendering, ())
            size = writer.file_size_bytes() if writer.is_length_known else 0
            sent = _Sent()
            stack.callback(self._count_soon, project_id, sent)
            yield Download(image, disk_format, size, sent.counted(first, rendering))

    def _count_soon(self, project_id: str, sent: _Sent) -> None:
        """Also what a download sent that was broken off; after the call, whose end may be a cancellation."""
        self._runtime.background.spawn(
            self._count(checks.project_id(project_id), sent.bytes), "usage of a download"
        )

    async def _count(self, project_id: str, sent_bytes: int) -> None:
        async with self._runtime.database.transaction() as c:
            await usage.count(c, self._runtime, project_id, usage.DOWNLOAD_BYTES, sent_bytes)


@asynccontextmanager
async def open_image_reader(
    runtime: Runtime, sweeper: Sweeper, image: ImageRecord, *, digests: bool = False
) -> AsyncIterator[ChunkReader]:
    """A reader of an active image's disk, which keeps its bytes even when the image is deleted.

    ``digests``: as in `ChunkReader`.
    """
    holder = Holder(HolderKind.READER, runtime.new_id())
    try:
        # Inside: a cancellation may come after the hold was committed. Releasing none does no harm.
        store_name = await runtime.index.hold_manifest(holder, image.manifest_id)
        store = runtime.stores.get(store_name)
        async with open_chunk_reader(store, image.manifest_id, runtime.pool, digests=digests) as reader:
            yield reader
    finally:
        runtime.background.spawn(_release(runtime, sweeper, holder, image.store), "release of a reader")


async def _release(runtime: Runtime, sweeper: Sweeper, holder: Holder, store_name: str) -> None:
    await runtime.index.release(holder)
    sweeper.wake(store_name)  # the image may have been deleted meanwhile


class _Sent:
    """Counts the bytes of a download as they travel: frames as they are, runs of zeros not."""

    def __init__(self) -> None:
        self.bytes = 0

    async def counted(
        self, first: Sequence[Output], rest: AsyncIterator[Sequence[Output]]
    ) -> AsyncIterator[Sequence[Output]]:
        self._add(first)
        yield first
        async for outputs in rest:
            self._add(outputs)
            yield outputs

    def _add(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if not isinstance(output, Zeros):
                self.bytes += len(output.frame if isinstance(output, Framed) else output)

"""Which parts of a file the daemon has already: the file is read once before anything is sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import typer
from ims_client import ImsClient, UploadOptions, UploadSource, patiently
from ims_client.delta_source import DeltaSource, KnownChunks
from ims_client.upload_source import FileSource
from ims_client.uploads import MAX_ASKED_CHUNKS

from imsd.contract import ImsError
from imsd.v1 import upload_pb2

if TYPE_CHECKING:
    from imsd.chunks.file_chunks import FileChunk, FileChunks

# Questions that are on their way while the file is read on.
QUESTIONS_AT_ONCE = 3


def require_comparable(source: UploadSource, options: UploadOptions) -> None:
    """Raises typer.BadParameter when a comparison was asked for that is not possible."""
    if options.delta and (why_not := _why_not(source, options)):
        raise typer.BadParameter(why_not, param_hint="--delta")


def delta_file(
    client: ImsClient, source: UploadSource, upload: upload_pb2.Upload, options: UploadOptions
) -> FileSource | None:
    """The file to compare with what the project has; None if that is not wanted, or cannot help.

    Unless it was asked for, it is done for the bytes of a raw disk that leave this machine. A daemon that
    is older than this gives no key for it.
    """
    is_near = client.uploads.connection.address.startswith("unix:")
    is_wanted = not is_near if options.delta is None else options.delta
    if not is_wanted or not upload.proof_key or _why_not(source, options):
        return None
    assert isinstance(source, FileSource)
    return source


def _why_not(source: UploadSource, options: UploadOptions) -> str:
    """Why a file cannot be compared; empty if it can."""
    # Loaded here: numpy takes longer than most commands.
    from imsd.formats.detect import HEAD_BYTES, head_formats, wrapper_at

    if options.is_fast:
        return "a fast import keeps the file as it is: it is not compared"
    if not isinstance(source, FileSource):
        return f"{source.name} is read once: it cannot be compared before it is sent"
    head = source.head(HEAD_BYTES)
    with suppress(ImsError):  # ambiguous: the daemon says so
        found = [*filter(None, [wrapper_at(head, "")]), *head_formats(head)]
        if found and found != ["iso"]:
            return f"{source.name} is {found[0]}: only raw disks are compared"
    return ""


async def find_known(
    client: ImsClient, upload: upload_pb2.Upload, file: FileSource, on_progress: Callable[[int], None]
) -> DeltaSource:
    """``file`` without what images of the project hold; ``on_progress`` gets how far it was read.

    It is read whole, for its digest; what the upload has already is not asked for.

    Raises `CallFailed`, `LocalFileFailed`.
    """
    from imsd.chunks.file_chunks import FileChunks

    reading = file.another()
    chunks = FileChunks(upload.proof_key)
    batches = _batches(reading, chunks, upload.committed_offset, on_progress)
    known = KnownChunks()
    asked: deque[asyncio.Task[list[FileChunk]]] = deque()
    step: asyncio.Future[list[FileChunk]] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, batches, []))
            batch = await asyncio.shield(step)
            # The oldest answer first, so that a refusal is told before all of the file is read.
            while asked and (not batch or len(asked) == QUESTIONS_AT_ONCE):
                _add(known, await asked[0])
                asked.popleft()
            if not batch:
                break
            if not known.is_full:
                asked.append(asyncio.create_task(_ask(client, upload, batch)))
    except BaseException:
        reading.interrupt()
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, *filter(None, [step]), return_exceptions=True)
        raise
    file.check_unchanged()
    return DeltaSource(file, known, chunks.digest())


def _batches(
    file: FileSource, chunks: FileChunks, offset: int, on_progress: Callable[[int], None]
) -> Iterator[list[FileChunk]]:
    """In a thread: the chunks of the file from ``offset`` on, as many at a time as one call asks for."""
    batch: list[FileChunk] = []
    for chunk in _chunks(file, chunks, on_progress):
        if chunk.start < offset:
            continue
        batch.append(chunk)
        if len(batch) == MAX_ASKED_CHUNKS:
            yield batch
            batch = []
    if batch:
        yield batch


def _chunks(file: FileSource, chunks: FileChunks, on_progress: Callable[[int], None]) -> Iterator[FileChunk]:
    while step := file.next_step():
        yield from chunks.zeros(step.length) if step.data is None else chunks.data(step.data)
        on_progress(step.end)
    yield from chunks.end()


async def _ask(client: ImsClient, upload: upload_pb2.Upload, batch: list[FileChunk]) -> list[FileChunk]:
    """Those that the daemon has."""
    named = [_named(chunk) for chunk in batch]
    known = await patiently(lambda: client.uploads.find_chunks(upload.id, named), client.backoff())
    return [chunk for chunk, is_known in zip(batch, known, strict=True) if is_known]


def _add(known: KnownChunks, found: list[FileChunk]) -> None:
    for chunk in found:
        known.add(chunk.start, _named(chunk))


def _named(chunk: FileChunk) -> upload_pb2.UploadChunk:
    return upload_pb2.UploadChunk(digest=chunk.digest, length=chunk.length, proof=chunk.proof)

"""Ranges of an object: merged where they lie close together, split where they are long, a few at once.

Bytes come through obstore, whose threads need neither the event loop nor the interpreter.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from imsd.contract import BlobId, ByteRange, DataLoss, MissingLibrary

from .connection import Connection
from .failures import CUT, NO_CONNECTION, NO_NAME, NO_TRUST, REPLACED, STALLED, Failure, failure_of

if TYPE_CHECKING:
    from obstore.store import S3Credential

# Closer than this, two ranges cost less in one request than in two.
MAX_GAP_BYTES: Final = 64 << 10

# Of one request. What breaks is asked for again as a whole.
MAX_REQUEST_BYTES: Final = 4 << 20

# A blob that somebody replaces while it is read is read again so often.
MAX_VERSIONS: Final = 3


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes that came, and of which object."""

    content: bytes
    size_bytes: int
    version: str


class Reader:
    """Reads objects of one store. Raises MissingLibrary."""

    def __init__(self, connection: Connection) -> None:
        try:
            import obstore
        except ImportError as error:
            raise MissingLibrary("the library obstore is missing: install imsd[s3]") from error
        self._get = obstore.get_async
        self._connection = connection
        self._turns = asyncio.Semaphore(connection.options.requests_at_once)
        self.use_key()

    def use_key(self) -> None:
        """From now on, the key that the connection has."""
        self._key, self._objects = self._connection.key, _object_store(self._connection)

    async def read(self, blob: BlobId, key: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of each range. Raises NotFound, DataLoss, Unavailable."""
        if not ranges:
            return []
        spans = merged(ranges)
        for _ in range(MAX_VERSIONS):
            first = await self._fetch(key, spans[0])
            beyond = max(each.end for each in ranges)
            if beyond > first.size_bytes:
                raise DataLoss(
                    f"blob {blob} has {first.size_bytes} bytes, {beyond} were expected",
                    hint="the object was cut short by something else than this store",
                )
            pieces = [first, *await self._fetch_all(key, spans[1:])]
            if len({piece.version for piece in pieces}) == 1:
                return _cut(spans, [piece.content for piece in pieces], ranges)
        raise Failure(REPLACED, "it is replaced again and again while it is read").as_error(
            f"blob {blob}", is_write=False
        )

    async def _fetch_all(self, key: str, spans: Sequence[ByteRange]) -> list[_Piece]:
        """When one fails, none goes on."""
        if not spans:
            return []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._fetch(key, span)) for span in spans]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _fetch(self, key: str, span: ByteRange) -> _Piece:
        connection = self._connection
        used = self._key
        try:
            try:
                return await connection.retrying.call(lambda: self._attempt(key, span))
            except Failure as failure:
                if not failure.is_about_keys or not await connection.has_new_key(used):
                    raise
            if self._key != connection.key:
                self.use_key()
            return await connection.retrying.call(lambda: self._attempt(key, span))
        except Failure as failure:
            raise failure.as_error(f"object {key}", is_write=False) from None

    async def _attempt(self, key: str, span: ByteRange) -> _Piece:
        seconds = self._connection.options.request_seconds
        try:
            async with self._turns, asyncio.timeout(seconds):
                found = await self._get(self._objects, key, options={"range": (span.offset, span.end)})
                # In one piece, or cut where it is longer than what was asked for.
                content = bytes(await anext(found.stream(span.length + 1), b""))
        except TimeoutError:
            raise Failure(STALLED, f"the service is stuck: not done in {seconds:g} seconds") from None
        except Exception as error:  # obstore has no class for what a service says
            raise _failure_of(error) from None
        size_bytes = int(found.meta["size"])
        if len(content) != min(span.end, size_bytes) - span.offset:
            raise Failure(CUT, "the answer is not as long as what was asked for")
        return _Piece(content, size_bytes, found.meta["e_tag"] or "")


def merged(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    """What to ask for, in order: every one of ``ranges`` lies in consecutive ones of these."""
    joined: list[list[int]] = []
    for offset, end in sorted((each.offset, each.end) for each in ranges):
        if joined and offset <= joined[-1][1] + MAX_GAP_BYTES:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([offset, end])
    return [
        ByteRange(start, min(MAX_REQUEST_BYTES, end - start))
        for offset, end in joined
        for start in range(offset, end, MAX_REQUEST_BYTES)
    ]


def _cut(spans: Sequence[ByteRange], contents: Sequence[bytes], ranges: Sequence[ByteRange]) -> list[bytes]:
    by_offset = {span.offset: index for index, span in enumerate(spans)}
    if len(spans) == len(ranges) and all(by_offset.get(each.offset) is not None for each in ranges):
        whole = [contents[by_offset[each.offset]] for each in ranges]
        if [len(content) for content in whole] == [each.length for each in ranges]:
            return whole
    return [_one(spans, contents, wanted) for wanted in ranges]


def _one(spans: Sequence[ByteRange], contents: Sequence[bytes], wanted: ByteRange) -> bytes:
    index = bisect_right(spans, wanted.offset, key=lambda span: span.offset) - 1
    parts: list[memoryview] = []
    offset = wanted.offset
    while offset < wanted.end:
        span = spans[index]
        end = min(wanted.end, span.end)
        parts.append(memoryview(contents[index])[offset - span.offset : end - span.offset])
        offset, index = end, index + 1
    return b"".join(parts)


def _object_store(connection: Connection) -> Any:
    from obstore.store import S3Store

    options, key = connection.options, connection.key
    url = options.url
    if not options.path_style:
        url = url.replace("://", f"://{options.bucket}.", 1)
    client: dict[str, Any] = {
        "allow_http": True,  # what may be is decided by the options
        "connect_timeout": timedelta(seconds=options.connect_seconds),
        "read_timeout": timedelta(seconds=options.stall_seconds),
        "timeout": timedelta(seconds=options.request_seconds),
        "user_agent": "imsd",
        # Without one, it would look for one by rules of its own.
        "proxy_url": connection.proxy or url,
        "proxy_excludes": "" if connection.proxy else (urlsplit(url).hostname or ""),
    }
    if connection.authorities:
        client["root_certificate"] = connection.authorities

    def credential() -> S3Credential:
        return {
            "access_key_id": key.id,
            "secret_access_key": key.secret,
            "token": key.token or None,
            "expires_at": None,
        }

    # All of it is said, because obstore takes what is not said from the environment.
    return S3Store(
        options.bucket,
        config={
            "endpoint": url,
            "aws_endpoint_url_s3": url,
            "region": options.s3_region,
            "virtual_hosted_style_request": not options.path_style,
            "skip_signature": False,
        },
        client_options=client,  # type: ignore[arg-type]  # a dictionary of its own kind
        retry_config={"max_retries": 0},
        credential_provider=credential,
    )


# What has names in it, which may be any words.
_NAMES: Final = re.compile(r'https?://[^\s,]+|path: "[^"]*"')

_STATUS: Final = re.compile(r"status code: (\d{3})|HTTP status \w+ \w+ \((\d{3})")


def _failure_of(error: Exception) -> Failure:
    """What obstore says, by the text of it: it has no other words for what a service answered.

    Of that text nothing is passed on, because it has addresses, and users read it too.
    """
    text = str(error)
    status = _STATUS.search(text)
    if status or "<Code>" in text:
        return failure_of(int((status and (status[1] or status[2])) or 0), text)
    if isinstance(error, FileNotFoundError):
        return Failure("NoSuchKey", "")
    text = _NAMES.sub("", text)
    if "dns error" in text:
        return Failure(NO_NAME, "the name of its host is not known")
    if "certificate" in text or "HandshakeFailure" in text:
        return Failure(NO_TRUST, "its certificate, or its TLS, is not trusted")
    if "Connect" in text and "tcp connect error" in text:
        return Failure(NO_CONNECTION, "no connection to the service")
    if "timed out" in text or "TimedOut" in text:
        return Failure(STALLED, "the service is stuck: no byte came in time")
    return Failure(CUT, "the connection broke before the answer was there")

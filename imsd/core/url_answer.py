"""What a server of the web answers: whether its bytes are those of the file, and how many there will be.

Sources: RFC 9110 (status codes, ranges, validators), RFC 9112 (how a message ends).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Final

import aiohttp

from imsd.contract import Conflict, ImsError, InvalidRequest, Unavailable

from .url_policy import CheckedUrl

# Statuses that may be others in a moment; so may every one from 500 on.
PASSING: Final = frozenset({408, 425, 429})

# A Last-Modified this much older than the answer cannot name two contents (RFC 9110, 8.8.2.2).
SETTLED: Final = timedelta(minutes=1)

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\Z")
_EMPTY_FILE = re.compile(r"bytes \*/0+\Z")
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_STRONG_ETAG = re.compile(r'"[!#-~]*"\Z')

Headers = Mapping[str, str]  # of an answer: their names fit in any case


class AttemptFailed(Exception):
    """What was asked for did not come, or not whole; it may at the next attempt. The text says why."""


@dataclass(frozen=True, slots=True)
class AskedRange:
    """Bytes ``first`` to ``end`` of a file; of the content that ``validator`` names, unless it is empty."""

    first: int
    end: int
    validator: str = ""

    def headers(self) -> dict[str, str]:
        condition = {"If-Range": self.validator} if self.validator else {}
        return {"Range": f"bytes={self.first}-{self.end - 1}"} | condition


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes of a file from ``first`` on, to ``end`` if that is known.

    ``size_bytes``: of the whole file, None when that is not known. ``validator``: by which the server knows
    this content again; empty when nothing proves it.
    """

    url: CheckedUrl
    response: aiohttp.ClientResponse
    first: int
    end: int | None
    size_bytes: int | None
    validator: str

    @property
    def is_partial(self) -> bool:
        return self.response.status == 206

    @property
    def mark(self) -> str:
        """Stands for the content; empty when nothing proves it."""
        if not self.validator:
            return ""
        return f"url:{sha256(f'{self.size_bytes} {self.validator}'.encode()).hexdigest()}"

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """The bytes, to the last one. Raises AttemptFailed when the answer is cut or stalls."""
        position, content = self.first, self.response.content
        while True:
            try:
                block = await content.readany()
            except TimeoutError:
                raise AttemptFailed("the server sends nothing any more") from None
            except (aiohttp.ClientError, OSError) as error:
                raise AttemptFailed(f"the answer was cut ({type(error).__name__})") from None
            if not block:
                break
            position += len(block)
            if self.end is not None and position > self.end:
                raise AttemptFailed("the server sends more than it announced")
            yield block
        if self.end is not None and position != self.end:
            raise AttemptFailed(f"the answer ended {self.end - position} bytes early")


def read_answer(url: CheckedUrl, response: aiohttp.ClientResponse, asked: AskedRange | None) -> Answer:
    """Judge status and headers. Raises `ImsError` when asking again is in vain, AttemptFailed when not."""
    _require_success(url, response, asked)
    headers = response.headers
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise _refused(url, "sends the file in another encoding than it has")
    transfer = headers.get("Transfer-Encoding", "").strip().lower()
    if transfer not in ("", "chunked"):
        raise _refused(url, "sends the file in a transfer encoding that is not known")
    if response.status == 206:
        first, end, size = _range(headers, asked)
        return Answer(url, response, first, end, size, _validator(headers))
    length = _length(headers)
    if length is None and not transfer:
        raise _refused(url, "does not tell where the file ends")
    return Answer(url, response, 0, length, length, _validator(headers))


def unreachable(url: CheckedUrl, why: str, hint: str = "") -> Unavailable:
    return Unavailable(
        f"{url.shown} cannot be fetched: {why}",
        reason="URL_UNREACHABLE",
        hint=hint or "check the URL, for example with `curl -I`",
    )


def changed(url: CheckedUrl) -> Conflict:
    return Conflict(
        f"the file at {url.shown} changed while it was fetched", reason="URL_CHANGED", hint="start again"
    )


def _require_success(url: CheckedUrl, response: aiohttp.ClientResponse, asked: AskedRange | None) -> None:
    status = response.status
    if status in (200, 206):
        return
    if status == 416 and asked:
        raise _no_such_range(url, response.headers, asked)
    if status >= 500 or status in PASSING:
        raise AttemptFailed(f"the server answers with status {status}")
    raise unreachable(url, f"the server answers with status {status}")


def _no_such_range(url: CheckedUrl, headers: Headers, asked: AskedRange) -> ImsError:
    if asked.first:
        return changed(url)
    if _EMPTY_FILE.match(headers.get("Content-Range", "")):
        return empty(url)
    return unreachable(url, "the server answers with status 416")


def empty(url: CheckedUrl) -> InvalidRequest:
    return InvalidRequest(
        f"the file at {url.shown} is empty",
        reason="IMAGE_EMPTY",
        field="url",
        hint="name a file that holds a disk",
    )


def _refused(url: CheckedUrl, what: str) -> InvalidRequest:
    hint = "fetch the file with another program and import the file"
    return InvalidRequest(f"the server of {url.shown} {what}", reason="URL_REFUSED", field="url", hint=hint)


def _range(headers: Headers, asked: AskedRange | None) -> tuple[int, int, int | None]:
    """First byte, end and size of the file. Raises AttemptFailed when it is not what was asked for."""
    found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
    if asked is None or found is None:
        raise AttemptFailed("the server answers with a range that was not asked for")
    first, end = int(found[1]), int(found[2]) + 1
    size = None if found[3] == "*" else int(found[3])
    expected = asked.end if size is None else min(asked.end, size)
    if (first, end) != (asked.first, expected) or _length(headers) not in (None, end - first):
        raise AttemptFailed("the server answers with another range than was asked for")
    return first, end, size


def _length(headers: Headers) -> int | None:
    """What Content-Length says; nothing, when the body is chunked all the same (RFC 9112, 6.3)."""
    if "Transfer-Encoding" in headers:
        return None
    given = headers.get("Content-Length", "")
    return int(given) if _LENGTH.match(given) else None


def _validator(headers: Headers) -> str:
    etag = headers.get("ETag", "").strip()
    if etag:
        return etag if _STRONG_ETAG.match(etag) else ""
    modified, date = headers.get("Last-Modified", ""), headers.get("Date", "")
    try:
        is_settled = parsedate_to_datetime(date) - parsedate_to_datetime(modified) >= SETTLED
    except (TypeError, ValueError, OverflowError):
        return ""
    return modified if is_settled else ""

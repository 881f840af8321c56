"""Whole objects and uploads in parts: one function a request of S3, its answer understood."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from imsd.contract import BlobId, NotFound, StoredBlob

from .connection import Answer, Connection, Request
from .failures import NO_S3, Failure

# Who commits twice, or is not sure whether it did, knows its own object by this.
INGEST_HEADER: Final = "x-amz-meta-imsd-ingest"

# Objects on a page of a list; S3 gives no more.
PAGE_OBJECTS: Final = 1000

# Uploads that nobody completes are forgotten by the service sooner or later, or by `stale_uploads`.
ABORT_RETRIES: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of a list, by its whole key."""

    key: str
    size_bytes: int
    modified_at: datetime
    version: str


@dataclass(frozen=True, slots=True)
class Page:
    """``folders``: with a slash at the end, if asked for. ``more``: where the next page begins, or empty."""

    entries: Sequence[Entry]
    folders: Sequence[str]
    more: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that is not completed yet."""

    key: str
    id: str
    started_at: datetime


def _subject(key: str) -> str:
    return f"object {key}"


@dataclass(frozen=True, slots=True)
class Commit:
    """How an object comes to be. ``headers``: the condition, if any; ``is_done``: see `Request`."""

    key: str
    headers: Mapping[str, str]
    is_done: Callable[[], Awaitable[bool]]


async def head(connection: Connection, key: str, retries: int | None = None) -> Mapping[str, str]:
    """The headers of an object. Raises NotFound, Unavailable."""
    request = Request(method="HEAD", key=key, subject=_subject(key))
    try:
        return (await connection.try_send(request, retries)).headers
    except Failure as failure:
        why = await _why(connection, key, failure)
    raise why.as_error(request.subject, is_write=False)


async def _why(connection: Connection, key: str, failure: Failure) -> Failure:
    """What is wrong with the bucket or the access key, if it is one of them, by a list: HEAD has no words."""
    if failure.code or failure.status not in (400, 403, 404):
        return failure
    try:
        await look_at_bucket(connection, key, retries=0)
    except Failure as why:
        return why if failure.status != 404 or why.code == "NoSuchBucket" else failure
    return failure


def stored_blob(blob: BlobId, headers: Mapping[str, str]) -> StoredBlob:
    """What the headers of an object say of the blob in it."""
    try:
        modified_at = parsedate_to_datetime(headers["Last-Modified"]).astimezone(UTC)
        size_bytes = int(headers["Content-Length"])
    except (KeyError, ValueError, OverflowError):
        failure = Failure(NO_S3, "the answer tells no size or no time")
        raise failure.as_error(f"blob {blob}", is_write=False) from None
    return StoredBlob(blob, size_bytes, modified_at, version_of(headers.get("ETag", "")))


def version_of(etag: str) -> str:
    return etag.strip('"')[:200]


async def put(connection: Connection, commit: Commit, content: bytearray, headers: Mapping[str, str]) -> None:
    request = Request(
        method="PUT",
        key=commit.key,
        subject=_subject(commit.key),
        headers={**headers, **commit.headers},
        body=content,
        is_done=commit.is_done,
    )
    await connection.send(request)


async def delete(connection: Connection, key: str) -> None:
    try:
        await connection.send(Request(method="DELETE", key=key, subject=_subject(key)))
    except NotFound:
        pass  # some services say so


async def begin_upload(connection: Connection, key: str, headers: Mapping[str, str]) -> str:
    """The id of a new upload in parts."""
    request = Request(method="POST", key=key, subject=_subject(key), headers=headers, query={"uploads": ""})
    found = _texts(await connection.send(request), request, "UploadId")
    if not found:
        raise _not_s3(request)
    return found[0]


async def put_part(connection: Connection, key: str, upload_id: str, number: int, part: bytearray) -> str:
    """Send a part; ``number``: from 1. Returns its ETag."""
    query = {"partNumber": str(number), "uploadId": upload_id}
    request = Request(method="PUT", key=key, subject=_subject(key), query=query, body=part)
    etag = (await connection.send(request)).headers.get("ETag", "")
    if not etag:
        raise _not_s3(request)
    return etag


async def complete_upload(
    connection: Connection, commit: Commit, upload_id: str, etags: Sequence[str]
) -> None:
    """Make the object of its parts."""
    root = ElementTree.Element("CompleteMultipartUpload")
    for number, etag in enumerate(etags, start=1):
        part = ElementTree.SubElement(root, "Part")
        ElementTree.SubElement(part, "PartNumber").text = str(number)
        ElementTree.SubElement(part, "ETag").text = etag
    request = Request(
        method="POST",
        key=commit.key,
        subject=_subject(commit.key),
        headers=commit.headers,
        query={"uploadId": upload_id},
        body=ElementTree.tostring(root),
        may_pause=True,
        is_done=commit.is_done,
    )
    await connection.send(request)


async def abort_upload(connection: Connection, key: str, upload_id: str) -> None:
    request = Request(method="DELETE", key=key, subject=_subject(key), query={"uploadId": upload_id})
    try:
        await connection.try_send(request, ABORT_RETRIES)
    except Failure as failure:
        if failure.code != "NoSuchUpload":
            raise failure.as_error(request.subject, is_write=True) from None


async def list_uploads(
    connection: Connection, prefix: str, after: tuple[str, str] | None
) -> tuple[list[Upload], tuple[str, str] | None]:
    """A page of the uploads that are not completed, and after which (key, id) the next one begins."""
    query = {"uploads": "", "prefix": prefix}
    if after:
        query |= {"key-marker": after[0], "upload-id-marker": after[1]}
    request = Request(method="GET", subject="the list of uploads", query=query)
    root = _parsed(await connection.send(request), request)
    uploads = [
        Upload(_text(each, "Key"), _text(each, "UploadId"), _time(_text(each, "Initiated")))
        for each in root.iter("Upload")
    ]
    if _text(root, "IsTruncated") != "true":
        return uploads, None
    next_after = (_text(root, "NextKeyMarker"), _text(root, "NextUploadIdMarker"))
    if next_after in (("", ""), after):
        raise _not_s3(request)
    return uploads, next_after


async def list_page(
    connection: Connection, prefix: str, *, after: str = "", more: str = "", delimiter: str = ""
) -> Page:
    """A page of the objects whose keys begin with ``prefix``, in the order of the service.

    Raises Unavailable, also when there are more and the service does not say where: a list is never short.
    """
    # Quoted, because XML cannot hold every key.
    query = {"list-type": "2", "prefix": prefix, "encoding-type": "url", "max-keys": str(PAGE_OBJECTS)}
    query |= {"continuation-token": more} if more else {"start-after": after} if after else {}
    query |= {"delimiter": delimiter} if delimiter else {}
    request = Request(method="GET", subject="the list of objects", query=query)
    root = _parsed(await connection.send(request), request)
    if root.tag != "ListBucketResult":
        raise _not_s3(request)
    unquote = unquote_plus if _text(root, "EncodingType") == "url" else str
    folders = [unquote(_text(each, "Prefix")) for each in root.iter("CommonPrefixes")]
    try:
        entries = [_entry(each, unquote) for each in root.iter("Contents")]
    except ValueError:
        raise _not_s3(request) from None
    if _text(root, "IsTruncated") != "true":
        return Page(entries, folders, "")
    next_more = _text(root, "NextContinuationToken")
    if next_more in ("", more):
        raise _not_s3(request)
    return Page(entries, folders, next_more)


async def look_at_bucket(connection: Connection, prefix: str, retries: int) -> None:
    """Whether the bucket is there and may be listed. Raises the `Failure`."""
    query = {"list-type": "2", "prefix": prefix, "max-keys": "1"}
    request = Request(method="GET", subject="the bucket", query=query)
    answer = await connection.try_send(request, retries)
    if b"<ListBucketResult" not in answer.body:
        raise Failure(NO_S3, "the answer is not one of S3")


def _entry(element: ElementTree.Element, unquote: Callable[[str], str]) -> Entry:
    return Entry(
        unquote(_text(element, "Key")),
        int(_text(element, "Size") or 0),
        _time(_text(element, "LastModified")),
        version_of(_text(element, "ETag")),
    )


class _Builder(ElementTree.TreeBuilder):
    """Takes no entities, which are how a short text becomes a long one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ElementTree.ParseError("S3 has no types of documents")


def _parsed(answer: Answer, request: Request) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        root = ElementTree.fromstring(re.sub(rb'\sxmlns="[^"]*"', b"", answer.body, count=1), parser)
    except (ElementTree.ParseError, ValueError, LookupError):  # an encoding that nobody knows
        raise _not_s3(request) from None
    return root


def _texts(answer: Answer, request: Request, name: str) -> list[str]:
    return [each.text or "" for each in _parsed(answer, request).iter(name)]


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(name) or ""


def _time(text: str) -> datetime:
    """In whole seconds: what an object says of itself has no parts of one."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(0, UTC)


def _not_s3(request: Request) -> Exception:
    return Failure(NO_S3, "the answer is not one of S3").as_error(request.subject, is_write=False)

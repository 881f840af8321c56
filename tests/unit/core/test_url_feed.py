"""Files of the web, fetched from a real server that cuts, stalls, lies and changes its mind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import pytest

from imsd.contract import Conflict, ImsError, InvalidRequest, Unavailable
from imsd.core.url_client import UrlClient
from tests.unit.core.url_world import (
    CONTENT,
    PIECE,
    QUICK,
    OpenClient,
    cut,
    failure,
    fetch,
    headers,
    opening,
    stall,
    status,
)
from tests.web_server import Fault, Reply, WebFile, WebServer, serve_web

FILES = {
    "with ranges": WebFile(CONTENT),
    "without ranges": WebFile(CONTENT, has_ranges=False),
    "chunked": WebFile(CONTENT, has_ranges=False, is_chunked=True),
    "with ranges, nothing to prove them": WebFile(CONTENT, etag=""),
    "with ranges and a weak etag": WebFile(CONTENT, etag='W/"one"'),
}


@pytest.mark.parametrize("kind", FILES)
async def test_a_file_is_fetched_whole(web: WebServer, client: UrlClient, kind: str) -> None:
    assert await fetch(client, web.offer("/disk", FILES[kind])) == CONTENT


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
@pytest.mark.parametrize("has_ranges", [True, False])
async def test_a_file_of_any_size_is_fetched_whole(
    web: WebServer, client: UrlClient, size: int, has_ranges: bool
) -> None:
    assert (
        await fetch(client, web.offer("/disk", WebFile(CONTENT[:size], has_ranges=has_ranges)))
        == CONTENT[:size]
    )


@pytest.mark.parametrize("offset", [1, PIECE, 7 * PIECE + 5, len(CONTENT) - 1])
@pytest.mark.parametrize("has_ranges", [True, False])
async def test_a_fetch_goes_on_at_an_offset(
    web: WebServer, client: UrlClient, offset: int, has_ranges: bool
) -> None:
    url = web.offer("/disk", WebFile(CONTENT, has_ranges=has_ranges))
    assert await fetch(client, url, offset) == CONTENT[offset:]
    assert web.seen[0].first == offset


async def test_size_and_mark_are_known_before_the_first_byte(web: WebServer, client: UrlClient) -> None:
    page = WebFile(CONTENT)
    url = web.offer("/disk", page)
    marks = []
    for etag, content in (('"one"', CONTENT), ('"two"', CONTENT), ('"one"', CONTENT[1:]), ('"one"', CONTENT)):
        page.etag, page.content = etag, content
        async with opening(client, url) as opened:
            assert opened.size_bytes == len(content)
            marks.append(opened.mark)
    assert len(set(marks)) == 3
    assert marks[0] == marks[3]
    assert all(20 < len(mark) <= 128 for mark in marks)


async def test_pieces_are_fetched_side_by_side_and_no_more_of_them_than_allowed(
    web: WebServer, open_client: OpenClient
) -> None:
    url = web.offer("/disk", lambda seen: replace(WebFile(CONTENT)(seen), pause_seconds=0.02))
    client = await open_client(replace(QUICK, connections=3))
    assert await fetch(client, url) == CONTENT
    assert web.most_at_once == 3
    assert all(seen.headers["if-range"] == '"one"' for seen in web.seen[1:])


async def test_all_files_together_have_no_more_connections_than_allowed(
    web: WebServer, open_client: OpenClient
) -> None:
    url = web.offer("/disk", lambda seen: replace(WebFile(CONTENT)(seen), pause_seconds=0.01))
    client = await open_client(replace(QUICK, connections=4, max_connections=5))
    fetched = await asyncio.gather(*(fetch(client, url) for _ in range(4)))
    assert fetched == [CONTENT] * 4
    assert web.most_at_once <= 5
    assert not client.places.locked()


async def test_a_file_that_is_given_up_gives_its_places_back(web: WebServer, open_client: OpenClient) -> None:
    url = web.offer("/disk", WebFile(CONTENT))
    client = await open_client(replace(QUICK, connections=4, max_connections=4))
    for _ in range(3):
        async with opening(client, url) as opened, aclosing(opened.steps()) as steps:
            assert await anext(steps) == CONTENT[:PIECE]
    for _ in range(4):
        await asyncio.wait_for(client.places.acquire(), 5)
    assert client.places.locked()


@pytest.mark.parametrize(
    "fault", [cut(0), cut(1000), stall(0), stall(1000), status(500), status(503), status(429)]
)
@pytest.mark.parametrize("has_ranges", [True, False])
async def test_what_passes_is_tried_again(
    web: WebServer, client: UrlClient, fault: Fault, has_ranges: bool
) -> None:
    url = web.offer("/disk", WebFile(CONTENT, has_ranges=has_ranges))
    web.faults.extend([fault, fault])
    assert await fetch(client, url) == CONTENT
    assert not web.faults


async def test_a_cut_in_every_piece_is_mended_from_where_it_was(web: WebServer, client: UrlClient) -> None:
    url = web.offer("/disk", WebFile(CONTENT))
    web.faults.extend([cut(20_000)] * 30)
    assert await fetch(client, url) == CONTENT
    assert 20_000 in {seen.first for seen in web.seen}


@pytest.mark.parametrize("number", [400, 401, 403, 404, 410, 304])
async def test_a_status_that_stays_is_told_at_once(web: WebServer, client: UrlClient, number: int) -> None:
    failed = await failure(client, web.offer("/disk", lambda seen: Reply(number)))
    assert isinstance(failed, Unavailable)
    assert failed.reason == "URL_UNREACHABLE"
    assert f"status {number}" in failed.message
    assert len(web.seen) == 1


def chunked(change: Callable[[bytes], bytes]) -> Fault:
    """Another body than the headers announce, with a proper end."""
    return lambda reply: replace(reply.with_headers(Transfer_Encoding="chunked"), body=change(reply.body))


@pytest.mark.parametrize("true_answers", [0, 3])
@pytest.mark.parametrize(
    "lie",
    [
        chunked(lambda body: body[:-1]),
        chunked(lambda body: b""),
        chunked(lambda body: body + b"more"),
        headers(Content_Range="bytes 1-65536/1310797"),
        headers(Content_Range="bytes 0-9/1310797"),
        headers(Content_Range="bytes 0-65535/*"),
        headers(Content_Range="none"),
        headers(Content_Length="10"),
        headers(Content_Length="70000"),
        headers(ETag='"two"'),
    ],
)
async def test_a_piece_that_is_not_what_was_asked_for_never_gets_into_the_file(
    web: WebServer, client: UrlClient, lie: Fault, true_answers: int
) -> None:
    url = web.offer("/disk", WebFile(CONTENT))
    web.faults.extend([lambda reply: reply] * true_answers + [lie])
    content = b""
    try:
        content = await fetch(client, url)
    except ImsError as failed:
        assert failed.reason in ("URL_CHANGED", "URL_UNREACHABLE")  # noqa: PT017
    assert content in (b"", CONTENT)


@pytest.mark.parametrize(("has_ranges", "obeys_if_range"), [(True, True), (True, False), (False, True)])
async def test_a_file_that_changes_meanwhile_is_not_put_together(
    web: WebServer, client: UrlClient, has_ranges: bool, obeys_if_range: bool
) -> None:
    page = WebFile(CONTENT, has_ranges=has_ranges, obeys_if_range=obeys_if_range)
    url = web.offer("/disk", page)

    def change(reply: Reply) -> Reply:
        page.content, page.etag = bytes(len(CONTENT)), '"two"'
        return replace(reply, cut_after=5000)

    web.faults.append(change)
    failed = await failure(client, url)
    assert isinstance(failed, Conflict)
    assert failed.reason == "URL_CHANGED"


async def test_a_file_that_shrank_has_changed(web: WebServer, client: UrlClient) -> None:
    url = web.offer("/disk", WebFile(CONTENT))
    assert (await failure(client, url, len(CONTENT) + 5)).reason == "URL_CHANGED"


async def test_going_on_later_needs_the_same_mark(web: WebServer, client: UrlClient) -> None:
    page = WebFile(CONTENT)
    url = web.offer("/disk", page)
    async with opening(client, url) as opened:
        mark = opened.mark
    async with opening(client, url, PIECE) as opened:
        opened.require_same(mark)
    page.etag = '"two"'
    async with opening(client, url, PIECE) as opened:
        with pytest.raises(Conflict):
            opened.require_same(mark)
        with pytest.raises(Unavailable, match="does not prove"):
            opened.require_same("")


async def test_without_a_proof_nothing_is_put_together(web: WebServer, client: UrlClient) -> None:
    web.faults.append(cut(1_100_000))
    failed = await failure(client, web.offer("/disk", WebFile(CONTENT, etag="", has_ranges=False)))
    assert failed.reason == "URL_UNREACHABLE"
    assert "does not prove" in failed.message
    assert len(web.seen) == 1


async def test_a_date_proves_a_content_when_it_is_old_enough(web: WebServer, client: UrlClient) -> None:
    dates = {"Date": "Fri, 27 Nov 2026 05:00:00 GMT", "Last-Modified": "Fri, 27 Nov 2026 04:00:00 GMT"}
    page = WebFile(CONTENT, etag="", has_ranges=False)
    url = web.offer("/disk", lambda seen: page(seen).with_headers(**dates))
    web.faults.append(cut(1_100_000))
    assert await fetch(client, url) == CONTENT
    dates["Last-Modified"] = "Fri, 27 Nov 2026 04:59:59 GMT"
    web.faults.append(cut(1_100_000))
    assert (await failure(client, url)).reason == "URL_UNREACHABLE"


@pytest.mark.parametrize(
    "fault",
    [
        headers(Content_Encoding="gzip"),
        headers(Content_Encoding="br"),
        headers(Content_Length=""),
        headers(Transfer_Encoding="gzip, chunked"),
    ],
)
async def test_an_answer_of_which_no_image_can_come_is_refused(
    web: WebServer, client: UrlClient, fault: Fault
) -> None:
    web.faults.append(fault)
    failed = await failure(client, web.offer("/disk", WebFile(CONTENT, has_ranges=False)))
    assert failed.reason == "URL_REFUSED"


@pytest.mark.parametrize("has_ranges", [True, False])
async def test_an_empty_file_is_no_image(web: WebServer, client: UrlClient, has_ranges: bool) -> None:
    failed = await failure(client, web.offer("/disk", WebFile(b"", has_ranges=has_ranges)))
    assert failed.reason == "IMAGE_EMPTY"


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_truncated_body_is_never_a_file(
    web: WebServer, open_client: OpenClient, is_chunked: bool
) -> None:
    client = await open_client(replace(QUICK, retry_seconds=0.2))
    page = WebFile(CONTENT, has_ranges=False, is_chunked=is_chunked)
    url = web.offer("/disk", lambda seen: replace(page(seen), cut_after=len(CONTENT) - 1))
    assert (await failure(client, url)).reason == "URL_UNREACHABLE"


async def test_the_environment_names_no_proxy(
    web: WebServer, client: UrlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await fetch(client, web.offer("/disk", WebFile(CONTENT))) == CONTENT


async def test_http_is_fetched_where_it_is_allowed(open_client: OpenClient) -> None:
    async with serve_web() as plain:
        url = plain.offer("/disk", WebFile(CONTENT))
        with pytest.raises(InvalidRequest):
            opening(await open_client(ports=[plain.port]), url)
        assert await fetch(await open_client(ports=[plain.port], allow_http=True), url) == CONTENT


async def test_what_is_sent_says_who_asks_and_asks_for_the_bytes_as_they_are(
    web: WebServer, client: UrlClient
) -> None:
    await fetch(client, web.offer("/disk", WebFile(CONTENT)))
    assert {seen.headers["accept-encoding"] for seen in web.seen} == {"identity"}
    assert web.seen[0].headers["user-agent"].startswith("imsd/")
    assert "cookie" not in web.seen[-1].headers


async def test_no_message_tells_the_query(web: WebServer, client: UrlClient) -> None:
    failed = await failure(client, f"{web.root}/missing?signature=secret")
    assert "/missing" in failed.message
    assert "secret" not in f"{failed.message} {failed.hint}"

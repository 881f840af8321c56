"""Where a fetch may be led, by redirects and by names: only where the policy allows it, at every step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imsd.core.url_client import UrlClient
from tests.unit.core.url_world import (
    CONTENT,
    PIECE,
    QUICK,
    OpenClient,
    cut,
    failure,
    fetch,
    resolve_to,
    status,
)
from tests.web_server import WebFile, WebServer


async def test_redirects_are_followed_and_pieces_come_from_where_they_led(
    web: WebServer, client: UrlClient
) -> None:
    web.offer("/disk", WebFile(CONTENT))
    web.redirect("/b", "/disk?signature=1")
    assert await fetch(client, web.redirect("/a", f"{web.root}/b")) == CONTENT
    paths = [seen.path for seen in web.seen]
    assert paths[:3] == ["/a", "/b", "/disk?signature=1"]
    assert set(paths[3:]) == {"/disk?signature=1"}


async def test_where_a_redirect_led_may_expire(web: WebServer, client: UrlClient) -> None:
    web.offer("/disk", WebFile(CONTENT))
    url = web.redirect("/a", "/disk")
    web.faults.extend([lambda reply: reply, lambda reply: reply, status(403), status(403)])
    assert await fetch(client, url) == CONTENT
    assert [seen.path for seen in web.seen].count("/a") >= 2


async def test_a_circle_of_redirects_ends(web: WebServer, client: UrlClient) -> None:
    web.redirect("/b", "/a")
    failed = await failure(client, web.redirect("/a", "/b"))
    assert failed.reason == "URL_UNREACHABLE"
    assert len(web.seen) == 6


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "http://localhost/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "ftp://x/",
        "",
    ],
)
async def test_a_redirect_to_what_may_not_be_asked_is_refused_cve_2026_34881(
    web: WebServer, client: UrlClient, location: str
) -> None:
    failed = await failure(client, web.redirect("/a", location))
    assert failed.reason == "URL_REFUSED"
    assert len(web.seen) == 1


async def test_a_redirect_to_loopback_is_refused_where_only_the_first_host_is_allowed(
    web: WebServer, open_client: OpenClient
) -> None:
    client = await open_client(allowed_networks=["127.0.0.1/32"])
    failed = await failure(client, web.redirect("/a", f"https://127.0.0.2:{web.port}/admin"))
    assert failed.reason == "URL_REFUSED"
    assert len(web.seen) == 1


async def test_a_name_with_one_forbidden_address_is_not_connected_to(
    web: WebServer, client: UrlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1", "10.0.0.1"])
    failed = await failure(client, f"https://localhost:{web.port}/disk")
    assert failed.reason == "URL_REFUSED"
    assert not web.seen


async def test_a_name_that_is_rebound_after_it_was_judged_is_not_connected_to(
    web: WebServer, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: allowed when it is looked up first, the daemon's own network afterwards."""
    client = await open_client(allowed_networks=["127.0.0.1/32"])
    web.offer("/disk", WebFile(CONTENT))
    web.faults.append(cut(1000))
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    failed = await failure(client, f"https://rebound.test:{web.port}/disk")
    assert failed.reason == "URL_REFUSED"
    assert len(asked) >= 2
    assert len(web.seen) == 1


async def test_the_connection_goes_to_the_address_that_was_judged_and_no_other_look_up_is_made(
    web: WebServer, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await open_client(replace(QUICK, connections=1), allowed_networks=["127.0.0.1/32"])
    web.offer("/disk", WebFile(CONTENT[:PIECE]))
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    assert await fetch(client, f"https://rebound.test:{web.port}/disk") == CONTENT[:PIECE]
    assert asked == ["rebound.test"]

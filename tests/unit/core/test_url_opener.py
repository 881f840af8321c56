"""What opens URLs: one client for all of them, loaded when it is needed and not before."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from imsd.core import url_client
from imsd.core.url_client import UrlClient, new_url_client
from imsd.core.url_feed import UrlFeed, UrlOpener
from imsd.core.url_policy import UrlPolicy
from imsd.core.url_settings import UrlSettings, trusted_authorities
from tests.unit.core.url_world import (
    CONTENT,
    LOOPBACK,
    QUICK,
    read,
)
from tests.web_server import WebFile, serve_web


def an_opener(**policy: Any) -> UrlOpener:
    limits = replace(QUICK, retry_seconds=0)
    return UrlOpener(UrlSettings(UrlPolicy(**policy), limits, trusted_authorities(None)))


def test_a_feed_is_named_after_its_file() -> None:
    opener = an_opener()
    assert UrlFeed(opener, "https://example.org/a/disk.qcow2?x=/y").name == "disk.qcow2"
    assert len(UrlFeed(opener, "https://example.org/" + "x" * 1000).name) == 255


async def test_all_feeds_are_opened_with_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(settings: UrlSettings) -> UrlClient:
        made.append(new_url_client(settings))
        return made[-1]

    monkeypatch.setattr(url_client, "new_url_client", counted)
    async with serve_web() as plain:
        opener = an_opener(allowed_networks=LOOPBACK, ports=[plain.port], allow_http=True)
        url = plain.offer("/disk", WebFile(CONTENT))
        async with UrlFeed(opener, url).open(0) as one, UrlFeed(opener, url).open(0) as other:
            assert await read(one) == await read(other) == CONTENT
        await opener.close()
    assert len(made) == 1


LOADING = """
import asyncio, sys, threading
from imsd.contract import ImsError
from imsd.core.sources import Source, SourceKind, Sources
from imsd.core.url_policy import UrlPolicy
from imsd.core.url_settings import UrlLimits, UrlSettings, trusted_authorities

class Loading:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp":
            print("loaded", "by the loop" if threading.current_thread() is threading.main_thread() else "")

async def main():
    sys.meta_path.insert(0, Loading())
    policy = UrlPolicy(allowed_networks=["127.0.0.0/8"], ports=[1])
    settings = UrlSettings(policy, UrlLimits(retry_seconds=0), trusted_authorities(None))
    sources = Sources(settings, None, None, None, 0)
    feed = sources.feed("default", Source(SourceKind.URL, "https://127.0.0.1:1/disk"))
    print("named", feed.name)
    try:
        async with feed.open(0):
            pass
    except ImsError as error:
        print(error.reason)
    await sources.close()

asyncio.run(main())
"""


def test_what_fetches_is_loaded_when_a_url_is_opened_and_not_by_the_loop() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOADING],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split("\n") == ["named disk", "loaded ", "URL_UNREACHABLE", ""]

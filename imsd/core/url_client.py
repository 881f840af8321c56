"""Asking a server of the web for a file, or a range of one, as `UrlPolicy` allows.

Redirects are followed here, one by one, each judged whole. A connection goes to the very addresses that were
judged: a name that is given other addresses after the judgement (DNS rebinding) gains nothing. Proxies of
the environment, cookies and `.netrc` are not used.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

import imsd

from .url_answer import Answer, AskedRange, AttemptFailed, empty, read_answer, unreachable
from .url_policy import CheckedUrl, UrlPolicy
from .url_settings import UrlLimits, UrlSettings

MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

# TLS did not fail, its connection did.
CUT_CONNECTIONS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)

# Kept of an answer that nobody reads at the moment, in bytes; aiohttp holds up to twice as much.
READ_AHEAD_BYTES: Final = 512 << 10


class UrlClient:
    """``places``: one for each connection, of all files together."""

    def __init__(self, policy: UrlPolicy, limits: UrlLimits, session: aiohttp.ClientSession) -> None:
        self.policy = policy
        self.limits = limits
        self.places = asyncio.Semaphore(limits.max_connections)
        self._session = session

    async def close(self) -> None:
        """Nothing is asked any more."""
        await self._session.close()

    @asynccontextmanager
    async def ask(self, url: CheckedUrl, asked: AskedRange | None = None) -> AsyncGenerator[Answer, None]:
        """What the server says of ``url``, or the one that it redirects to.

        Raises InvalidRequest (URL_REFUSED, IMAGE_EMPTY), Unavailable (URL_UNREACHABLE), Conflict
        (URL_CHANGED); AttemptFailed when another attempt may succeed.
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(url, asked)
            try:
                if response.status not in REDIRECTS:
                    answer = read_answer(url, response, asked)
                    if answer.size_bytes == 0:
                        raise empty(url)
                    yield answer
                    return
                url = self.policy.check_redirect(url, response.headers.get("Location", ""))
            finally:
                response.close()
        raise unreachable(url, f"the server redirects more than {MAX_REDIRECTS} times")

    async def _send(self, url: CheckedUrl, asked: AskedRange | None) -> aiohttp.ClientResponse:
        # Made of the parts that were judged, in a spelling that can be read in one way only.
        target = URL(str(url), encoded=True)
        headers = asked.headers() if asked else {}
        seconds = self.limits.connect_seconds + self.limits.stall_seconds
        with _failures(url):
            async with asyncio.timeout(seconds):
                return await self._session.get(target, headers=headers, allow_redirects=False)


class JudgedResolver(AbstractResolver):
    """The system's resolver; what it finds is judged before anybody connects to it."""

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError, InvalidRequest (URL_REFUSED)."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        addresses = [str(address[0]) for *_, address in found]
        self._policy.check_addresses(host, addresses)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for (kind, _, protocol, _, _), address in zip(found, addresses, strict=True)
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def new_url_client(settings: UrlSettings) -> UrlClient:
    """A client, to be closed; needs a running event loop."""
    limits = settings.limits
    connector = aiohttp.TCPConnector(
        resolver=JudgedResolver(settings.policy), use_dns_cache=False, ssl=settings.trust
    )
    session = aiohttp.ClientSession(
        connector=connector,
        headers={"Accept-Encoding": "identity", "User-Agent": f"imsd/{imsd.__version__}"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=READ_AHEAD_BYTES,
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_seconds, sock_read=limits.stall_seconds
        ),
    )
    return UrlClient(settings.policy, limits, session)


@contextmanager
def _failures(url: CheckedUrl) -> Iterator[None]:
    """What keeps an answer from coming, told apart: asking again is in vain, or it is not."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        why = f"the certificate of the server is not trusted ({error.certificate_error})"
        hint = "an operator trusts an authority with url_import.ca_file"
        raise unreachable(url, why, hint) from error
    except aiohttp.ClientConnectorSSLError as error:
        if isinstance(error.os_error, CUT_CONNECTIONS):
            raise AttemptFailed("the server ends the connection before TLS is agreed on") from error
        why = f"the server does not agree on TLS ({error.os_error.reason or 'no reason'})"
        raise unreachable(url, why, "check the port, and whether the URL begins with http://") from error
    except aiohttp.ClientConnectorDNSError as error:
        if error.os_error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            raise unreachable(url, "there is no such host") from error
        raise AttemptFailed("the name of the host cannot be looked up") from error
    except TimeoutError as error:
        raise AttemptFailed("the server does not answer in time") from error
    except aiohttp.ClientConnectorError as error:
        raise AttemptFailed(f"the server cannot be connected to ({error.os_error.strerror})") from error
    except (aiohttp.ClientError, OSError) as error:
        raise AttemptFailed(f"the server gives no answer ({type(error).__name__})") from error

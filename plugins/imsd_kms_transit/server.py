"""Asking the server: one attempt, and attempts until there is an answer, within a time and a budget."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp

from imsd.contract import InvalidRequest, Unavailable

from .answers import (
    ANSWERED,
    NO_PLACE,
    PASSING,
    REFUSED_UNTRIED,
    Answer,
    NoAnswer,
    error_of,
    read_answer,
    unreachable,
)
from .options import TransitOptions

# A list of a hundred thousand keys has half of that.
MAX_ANSWER_BYTES: Final = 16 << 20

MAX_CONNECTIONS: Final = 32
FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 2.0


class RetryBudget:
    """How many attempts may be repeats: an outage must not multiply what is asked.

    ``most`` at once; each ten answers allow one more, up to that.
    """

    ANSWERS_FOR_ONE = 10

    def __init__(self, most: int = 32) -> None:
        self._most = most * self.ANSWERS_FOR_ONE
        self._left = self._most

    def spend(self) -> bool:
        """Whether there may be a repeat."""
        if self._left < self.ANSWERS_FOR_ONE:
            return False
        self._left -= self.ANSWERS_FOR_ONE
        return True

    def give_back(self) -> None:
        self._left = min(self._most, self._left + 1)


class Failed(Exception):
    """An attempt without an answer. ``was_sent``: the server may have done what it was asked."""

    def __init__(self, error: Unavailable, *, was_sent: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.was_sent = was_sent


class Server:
    """Paths are below ``/v1/``; no redirect is followed, since it could take the token elsewhere."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        options: TransitOptions,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._url = options.url.rstrip("/")
        self._headers = {"X-Vault-Request": "true"}
        if options.namespace:
            self._headers["X-Vault-Namespace"] = options.namespace
        self._timeout_seconds = options.timeout_seconds
        self._retry_seconds = options.retry_seconds
        self._monotonic = monotonic
        self._budget = RetryBudget()

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: str = "",
        is_repeatable: bool = True,
    ) -> Answer:
        """A yes, or a no whose meaning depends on what was asked (400, 404).

        ``is_repeatable``: asking twice does the same as once. Raises Unavailable (KEY_SERVICE_UNAVAILABLE),
        PermissionDenied (KEY_SERVICE_DENIED).
        """
        until = self._monotonic() + self._retry_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = await self._attempt(method, path, body, token)
                if answer.status not in PASSING:
                    self._budget.give_back()
                    return self._understood(answer)
                may_repeat = is_repeatable or answer.status in REFUSED_UNTRIED
                error = error_of(answer)
            except Failed as failed:
                may_repeat = is_repeatable or not failed.was_sent
                error = failed.error
            seconds = pause * random.uniform(0.5, 1.0)
            if not may_repeat or self._monotonic() + seconds > until or not self._budget.spend():
                raise error
            await asyncio.sleep(seconds)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    def _understood(self, answer: Answer) -> Answer:
        if answer.status not in ANSWERED or answer.says(*NO_PLACE):
            raise error_of(answer)
        return answer

    async def _attempt(self, method: str, path: str, body: Mapping[str, object] | None, token: str) -> Answer:
        headers = {**self._headers, **({"X-Vault-Token": token} if token else {})}
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._session.request(
                    method, f"{self._url}/v1/{path}", json=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return read_answer(response.status, await _content(response))
        except NoAnswer as error:
            raise Failed(unreachable(f"what answers says {error}"), was_sent=True) from None
        except aiohttp.ClientConnectorCertificateError as error:
            hint = "put the authority that signed it into ca_file, and the name that it is for into url"
            why = f"its certificate is not trusted ({error.certificate_error})"
            raise unreachable(why, hint) from error
        except aiohttp.ClientConnectorError as error:
            raise Failed(unreachable(f"no connection ({_reason(error)})"), was_sent=False) from error
        except TimeoutError:
            why = f"no answer in {self._timeout_seconds:g} seconds"
            raise Failed(unreachable(why), was_sent=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failed(unreachable(f"the connection ended ({_reason(error)})"), was_sent=True) from error


def new_session(trust: ssl.SSLContext) -> aiohttp.ClientSession:
    """To be closed; needs a running event loop. Nothing of the environment counts, no proxy either."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, limit=MAX_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
    )


def trust_of(options: TransitOptions) -> ssl.SSLContext:
    """Whom we believe to be the server. Blocks. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    try:
        return ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(
            f"the certificates of ca_file cannot be read: {error.strerror or error.__class__.__name__}",
            reason="INVALID_CONFIGURATION",
            field="ca_file",
            hint=f"look at {options.ca_file}: it should have certificates in PEM",
        ) from error


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise NoAnswer(f"more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def _reason(error: Exception) -> str:
    """In the system's words, without an address: users of the daemon read it too."""
    system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(system, ssl.SSLError):
        return f"TLS: {system.reason or 'not agreed on'}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name of its host is not found"
    if isinstance(system, OSError) and system.errno:
        return os.strerror(system.errno)
    return error.__class__.__name__

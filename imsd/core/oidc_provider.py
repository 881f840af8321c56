"""Asking an OpenID Connect provider for its keys: bounded in time and size, without redirects."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

import imsd
from imsd.contract import Unavailable

DISCOVERY: Final = "/.well-known/openid-configuration"
MAX_DOCUMENT_BYTES: Final = 1 << 20
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Provider:
    """``issuer``: as its tokens have it. ``trust``: whose certificates are believed."""

    issuer: str
    trust: ssl.SSLContext
    timeout_seconds: float = 10.0

    async def fetch_keys(self) -> list[object]:
        """The keys as the provider writes them. Raises Unavailable."""
        connector = aiohttp.TCPConnector(ssl=self.trust, limit=1)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,  # a small answer stays small
            headers={"Accept-Encoding": "identity", "User-Agent": f"imsd/{imsd.__version__}"},
            timeout=aiohttp.ClientTimeout(total=self.timeout_seconds),
        ) as session:
            said = await self._document(session, self.issuer.rstrip("/") + DISCOVERY)
            if said.get("issuer") != self.issuer:
                # OpenID Connect Discovery 1.0, 4.3: else one provider could pass for another.
                raise self._failed(f"it calls itself {str(said.get('issuer'))[:200]!r}")
            keys = (await self._document(session, self._safe(said.get("jwks_uri")))).get("keys")
            if not isinstance(keys, list):
                raise self._failed("its key set holds no keys")
            return keys

    async def _document(self, session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise self._failed(f"{url} answers {response.status}")
                content = await response.content.read(MAX_DOCUMENT_BYTES + 1)
                while len(content) <= MAX_DOCUMENT_BYTES and (more := await response.content.readany()):
                    content += more
        except TimeoutError as error:
            raise self._failed("it does not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failed(f"{url} cannot be asked ({type(error).__name__})") from error
        if len(content) > MAX_DOCUMENT_BYTES:
            raise self._failed(f"what {url} answers is too long")
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._failed(f"{url} does not answer in JSON") from error
        if not isinstance(document, dict):
            raise self._failed(f"{url} answers something else")
        return document

    def _safe(self, url: object) -> str:
        """The address of the keys; not a plain one, but for a provider on this machine."""
        try:
            parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
            is_local = urlsplit(self.issuer).scheme == "http" and parts.hostname in LOOPBACK
        except ValueError:
            parts, is_local = urlsplit(""), False
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_local)):
            raise self._failed(f"its keys lie at {str(url)[:200]!r}, which is not https")
        return str(url)

    def _failed(self, why: str) -> Unavailable:
        return Unavailable(
            f"the OpenID Connect provider {self.issuer} gives no keys: {why}",
            hint="try again in a moment; if it stays, an operator looks at oidc.issuer and at the provider",
        )

"""An OpenID Connect provider that does what a test wants: right, wrong, late, or not at all."""

from __future__ import annotations

import asyncio
import json
import ssl
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from imsd.core.background import Background
from imsd.core.oidc import OidcRules, OidcTokens
from imsd.core.oidc_keys import KeyTimes, ProviderKeys
from imsd.core.oidc_provider import Provider

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
AUDIENCE = "ims"


@dataclass
class ScriptedProvider:
    """``answers``: what a path answers instead; ``asked``: the paths that were asked for."""

    issuer: str = ""
    keys: list[Key] = field(default_factory=lambda: [a_key("RSA")])
    extra_keys: list[Any] = field(default_factory=list)
    answers: dict[str, web.StreamResponse | Exception] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    delay_seconds: float = 0.0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        await asyncio.sleep(self.delay_seconds)
        given = self.answers.get(request.path)
        if isinstance(given, web.StreamResponse):
            return given
        if isinstance(given, Exception):
            raise given
        if request.path == "/.well-known/openid-configuration":
            said = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks"} | self.document
            return web.json_response(said)
        return web.json_response(
            {"keys": [*(key.as_dict(private=False) for key in self.keys), *self.extra_keys]}
        )

    def token(self, key: Key | None = None, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A good token of Ann's, but for what is given; a claim that is None is left out."""
        key = key or self.keys[0]
        said = {"iss": self.issuer, "aud": AUDIENCE, "sub": "ann", "exp": NOON.timestamp() + 60} | claims
        said = {name: value for name, value in said.items() if value is not None}
        plan = {"alg": "RS256", "kid": key.get("kid")} | dict(header or {})
        plan = {name: value for name, value in plan.items() if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            return jwt.encode(plan, said, key, algorithms=[str(plan["alg"])], default_type=None)


def a_key(kind: str, key_id: str = "k1", **values: Any) -> Key:
    parameters: Any = {"kid": key_id} | values
    if kind == "RSA":
        return RSAKey.generate_key(2048, parameters)
    if kind == "OKP":
        return OKPKey.generate_key("Ed25519", parameters)
    return ECKey.generate_key(kind, parameters)


class Ticking:
    """A monotonic clock, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    provider: ScriptedProvider
    clock: Ticking
    background: Background

    def tokens(self, rules: OidcRules | None = None, **times: float) -> OidcTokens:
        asked = Provider(self.provider.issuer, ssl.create_default_context(), timeout_seconds=2.0)
        keys = ProviderKeys(asked, KeyTimes(**times), self.background, self.clock)
        rules = rules or OidcRules(issuer=self.provider.issuer, audience=frozenset({AUDIENCE, "other"}))
        return OidcTokens(rules, keys, lambda: NOON)


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    provider = ScriptedProvider()
    app = web.Application()
    app.router.add_route("GET", "/{path:.*}", provider.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    background = Background()
    try:
        yield World(provider, Ticking(), background)
    finally:
        await background.settle()
        await runner.cleanup()


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

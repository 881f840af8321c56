"""Tokens of an OpenID Connect provider: which are good, and each way in which one is not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.jwk import OctKey, RSAKey

from imsd.contract import ImsError, Unauthenticated, Unavailable
from imsd.core.oidc import MAX_GROUPS, OidcRules, OidcTokens
from imsd.core.oidc_keys import MAX_WAITING, PAUSE_SECONDS
from imsd.core.oidc_provider import MAX_DOCUMENT_BYTES
from tests.unit.core.provider_world import AUDIENCE, NOON, World, a_key, a_world, compact

NOW = NOON.timestamp()
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def refused(tokens: OidcTokens, token: str, reason: str = "UNAUTHENTICATED") -> str:
    with pytest.raises(Unauthenticated) as caught:
        await tokens.verify(token)
    assert caught.value.reason == reason
    assert token not in caught.value.message or len(token) < 3
    return caught.value.message


def segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


async def test_a_good_token_names_a_user_and_its_groups(world: World) -> None:
    tokens = world.tokens()
    user = await tokens.verify(world.provider.token(groups=["ops", "dev"]))
    assert (user.id, user.groups) == ("ann", frozenset({"ops", "dev"}))
    assert (await tokens.verify(world.provider.token())).groups == frozenset()
    assert world.provider.asked == [DISCOVERY, "/jwks"]


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_kinds_of_tokens_that_are_accepted(world: World, typ: str | None) -> None:
    assert (await world.tokens().verify(world.provider.token(header={"typ": typ}))).id == "ann"


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "id", 5, [], "JWE"])
async def test_another_kind_of_token_is_refused(world: World, typ: Any) -> None:
    token = _signed(
        world, compact({"alg": "RS256", "kid": "k1", "typ": typ}), world.provider.token().split(".")[1]
    )
    await refused(world.tokens(), token)


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("P-256", "ES256"), ("OKP", "EdDSA"), ("OKP", "Ed25519"), ("RSA", "PS256")]
)
async def test_algorithms_that_were_allowed(world: World, kind: str, algorithm: str) -> None:
    key = a_key(kind)
    world.provider.keys = [key]
    token = world.provider.token(key, {"alg": algorithm})
    rules = OidcRules(
        issuer=world.provider.issuer, audience=frozenset({AUDIENCE}), algorithms=frozenset({algorithm})
    )
    assert (await world.tokens(rules).verify(token)).id == "ann"
    narrow = replace(rules, algorithms=frozenset({"RS384"}))
    assert "not signed in a way" in await refused(world.tokens(narrow), token)


async def test_a_token_without_a_signature_is_refused(world: World) -> None:
    tokens = world.tokens()
    _, claims, signature = world.provider.token().split(".")
    for name in ("none", "None", "NONE", "nOnE", ""):
        for kid in ({}, {"kid": "k1"}):
            header = segment(compact({"alg": name} | kid))
            for ending in ("", signature):
                await refused(tokens, f"{header}.{claims}.{ending}")
    assert world.provider.asked == []  # nobody is asked for a key of such a thing


async def test_a_public_key_is_no_shared_secret(world: World) -> None:
    key = world.provider.keys[0]
    assert isinstance(key, RSAKey)
    claims = world.provider.token().split(".")[1]
    for secret in (key.as_pem(private=False), key.as_der(private=False), compact(key.as_dict(private=False))):
        for algorithm, digest in (("HS256", "sha256"), ("HS512", "sha512")):
            signed = f"{segment(compact({'alg': algorithm, 'kid': 'k1'}))}.{claims}"
            mac = hmac.new(secret, signed.encode(), getattr(hashlib, digest)).digest()
            await refused(world.tokens(), f"{signed}.{segment(mac)}")


async def test_a_key_that_the_token_brings_along_is_not_looked_at(world: World) -> None:
    own = a_key("RSA", "own")
    for header in (
        {"jwk": own.as_dict(private=False)},
        {"jku": f"{world.provider.issuer}/own"},
        {"x5u": f"{world.provider.issuer}/own"},
        {"x5c": ["AAAA"]},
    ):
        for kid in ("own", "k1"):
            token = _signed(
                world,
                compact({"alg": "RS256", "kid": kid} | header),
                world.provider.token().split(".")[1],
                own,
            )
            await refused(world.tokens(), token)
    assert "/own" not in world.provider.asked


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": None}, "UNAUTHENTICATED"),
        ({"iss": "https://evil.example"}, "UNAUTHENTICATED"),
        ({"iss": ["x"]}, "UNAUTHENTICATED"),
        ({"aud": None}, "UNAUTHENTICATED"),
        ({"aud": "somebody else"}, "UNAUTHENTICATED"),
        ({"aud": []}, "UNAUTHENTICATED"),
        ({"aud": {"ims": 1}}, "UNAUTHENTICATED"),
        ({"aud": [["ims"]]}, "UNAUTHENTICATED"),
        ({"exp": None}, "UNAUTHENTICATED"),
        ({"exp": "9999999999"}, "UNAUTHENTICATED"),
        ({"exp": True}, "UNAUTHENTICATED"),
        ({"exp": float("nan")}, "UNAUTHENTICATED"),
        ({"exp": float("inf")}, "UNAUTHENTICATED"),
        ({"exp": 1e300}, "UNAUTHENTICATED"),
        ({"exp": -1}, "UNAUTHENTICATED"),
        ({"exp": NOW - 31}, "TOKEN_EXPIRED"),
        ({"exp": NOW - 30}, "TOKEN_EXPIRED"),
        ({"nbf": NOW + 31}, "UNAUTHENTICATED"),
        ({"nbf": "0"}, "UNAUTHENTICATED"),
        ({"sub": None}, "UNAUTHENTICATED"),
        ({"sub": ""}, "UNAUTHENTICATED"),
        ({"sub": "a b"}, "UNAUTHENTICATED"),
        ({"sub": "*"}, "UNAUTHENTICATED"),
        ({"sub": "a" * 129}, "UNAUTHENTICATED"),
        ({"sub": "é"}, "UNAUTHENTICATED"),
        ({"sub": 7}, "UNAUTHENTICATED"),
        ({"sub": ["ann"]}, "UNAUTHENTICATED"),
    ],
)
async def test_a_claim_that_is_wrong_is_refused(world: World, claims: dict[str, Any], reason: str) -> None:
    await refused(world.tokens(), world.provider.token(**claims), reason)


@pytest.mark.parametrize(
    "claims", [{"exp": NOW - 29}, {"nbf": NOW + 29}, {"nbf": 0}, {"aud": ["x", "other"]}, {"exp": NOW + 0.5}]
)
async def test_a_claim_at_its_border_is_accepted(world: World, claims: dict[str, Any]) -> None:
    assert (await world.tokens().verify(world.provider.token(**claims))).id == "ann"


async def test_a_call_that_runs_may_end_some_time_after_its_token(world: World) -> None:
    rules = OidcRules(issuer=world.provider.issuer, audience=frozenset({AUDIENCE}), call_seconds=100)
    tokens = world.tokens(rules)
    late, too_late = world.provider.token(exp=NOW - 129), world.provider.token(exp=NOW - 130)
    assert (await tokens.verify(late, is_running=True)).id == "ann"
    await refused(tokens, late, "TOKEN_EXPIRED")
    with pytest.raises(Unauthenticated, match="expired"):
        await tokens.verify(too_late, is_running=True)


@pytest.mark.parametrize(
    ("claim", "groups"),
    [
        ("ops", {"ops"}),
        (["ops", "a b", "", "*", 5, None, ["dev"], "é", "x" * 129], {"ops"}),
        ({"ops": 1}, set()),
        (5, set()),
        (None, set()),
        ([f"g{n}" for n in range(3000)], {f"g{n}" for n in range(MAX_GROUPS)}),
    ],
)
async def test_what_cannot_be_a_group_is_left_out(world: World, claim: Any, groups: set[str]) -> None:
    assert (await world.tokens().verify(world.provider.token(groups=claim))).groups == groups


async def test_the_claims_of_user_and_groups_are_the_operators_choice(world: World) -> None:
    rules = OidcRules(
        issuer=world.provider.issuer, audience=frozenset({AUDIENCE}), user_claim="email", groups_claim="teams"
    )
    said: dict[str, Any] = {"email": "ann@example.org", "teams": ["ops"], "groups": ["dev"]}
    user = await world.tokens(rules).verify(world.provider.token(**said, email_verified=True))
    assert (user.id, user.groups) == ("ann@example.org", frozenset({"ops"}))
    for verified in (None, False, "true", 1):
        assert "not verified" in await refused(
            world.tokens(rules), world.provider.token(**said, email_verified=verified)
        )


async def test_what_is_no_token_is_refused(world: World) -> None:
    good = world.provider.token()
    header, claims, signature = good.split(".")
    deep = segment(b"[" * 5000 + b"]" * 5000)
    tokens = world.tokens()
    for wrong in (
        "x",
        "..",
        "a.b.c",
        f"{header}.{claims}",
        f"{good}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{signature[:-4]}",
        f"{header}.{segment(compact({'sub': 'root'}))}.{signature}",
        f"{segment(b'null')}.{claims}.{signature}",
        f"{segment(b'[]')}.{claims}.{signature}",
        f"{segment(b'{}')}.{claims}.{signature}",
        f"{deep}.{claims}.{signature}",
        f"{segment(compact({'alg': ['RS256'], 'kid': 'k1'}))}.{claims}.{signature}",
        f"{segment(compact({'alg': 'RS256', 'kid': ['k1']}))}.{claims}.{signature}",
        f"{segment(compact({'alg': 'RS256', 'kid': 'k1', 'crit': ['exp']}))}.{claims}.{signature}",
        f"{segment(compact({'alg': 'RS256', 'b64': False, 'crit': ['b64']}))}.{claims}.{signature}",
        f"{header}.{claims}.{signature}é",
        "a" * 200_000,
        ("a" * 60_000 + ".") * 2 + "a",
    ):
        await refused(tokens, wrong)
    for payload in (b"null", b"[]", b"5", b'"ann"', b"{", b"\xff", b"[" * 5000 + b"]" * 5000):
        await refused(tokens, _signed(world, compact({"alg": "RS256", "kid": "k1"}), segment(payload)))


def _signed(world: World, header: bytes, claims: str, key: Any = None) -> str:
    """Whatever it is, with a good signature."""
    content = f"{segment(header)}.{claims}"
    private: Any = (key or world.provider.keys[0]).private_key
    signature = private.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{content}.{segment(signature)}"


async def test_a_key_that_fits_neither_algorithm_nor_use_is_not_taken(world: World) -> None:
    other = a_key("RSA", "k2", alg="RS512")
    sealing = a_key("RSA", "k3", use="enc")
    curve = a_key("P-384", "k4")
    world.provider.keys = [other, sealing, curve]
    tokens = world.tokens(refetch=0)
    claims = world.provider.token(curve, {"alg": "ES384"}).split(".")[1]
    for key in (other, sealing):
        header = compact({"alg": "RS256", "kid": key.get("kid")})
        await refused(tokens, _signed(world, header, claims, key))
    await refused(tokens, world.provider.token(curve, {"alg": "ES384"}))
    forged = world.provider.token(a_key("P-256", "k4"), {"alg": "ES256"})
    await refused(tokens, forged)


async def test_keys_that_nobody_should_use_are_left_out(world: World) -> None:
    good = world.provider.keys[0]
    shared = OctKey.generate_key(256, {"kid": "shared"}).as_dict(private=True)
    with warnings.catch_warnings(action="ignore"):
        short = RSAKey.generate_key(1024, {"kid": "short"}, private=True)
    world.provider.extra_keys = [
        shared,
        short.as_dict(private=False),
        None,
        5,
        "x",
        {},
        {"kty": "RSA"},
        {"kty": "PQ"},
    ]
    tokens = world.tokens(refetch=0)
    await refused(tokens, world.provider.token(short))
    assert (await tokens.verify(world.provider.token(good))).id == "ann"


async def test_a_token_that_names_no_key_needs_one_that_is_the_only_one(world: World) -> None:
    assert (await world.tokens().verify(world.provider.token(header={"kid": None}))).id == "ann"
    world.provider.keys.append(a_key("RSA", "k2"))
    await refused(world.tokens(), world.provider.token(header={"kid": None}))


async def test_a_new_key_is_asked_for_but_not_too_often(world: World) -> None:
    tokens = world.tokens(refetch=30)
    await tokens.verify(world.provider.token())
    new = a_key("RSA", "k2")
    world.provider.keys.append(new)
    for _ in range(5):
        await refused(tokens, world.provider.token(new))
    assert len(world.provider.asked) == 2
    world.clock.now += 30
    assert (await tokens.verify(world.provider.token(new))).id == "ann"
    assert len(world.provider.asked) == 4
    for _ in range(5):
        await refused(tokens, world.provider.token(a_key("RSA", "k3")))
    assert len(world.provider.asked) == 4


async def test_keys_are_renewed_in_the_background_and_never_used_when_too_old(world: World) -> None:
    tokens = world.tokens(keep=100)
    await tokens.verify(world.provider.token())
    world.clock.now += 51
    old = world.provider.keys[0]
    world.provider.keys = [a_key("RSA", "k2")]
    assert (await tokens.verify(world.provider.token(old))).id == "ann"
    await world.background.settle()
    assert len(world.provider.asked) == 4
    await refused(tokens, world.provider.token(old))
    world.provider.answers["/jwks"] = web.Response(status=500)
    world.clock.now += 60
    token = world.provider.token()
    assert (await tokens.verify(token)).id == "ann"  # the renewal fails, the keys are still good
    await world.background.settle()
    world.clock.now += 41
    with pytest.raises(Unavailable):
        await tokens.verify(token)
    del world.provider.answers["/jwks"]
    with pytest.raises(Unavailable):  # at once: it is not asked again so soon
        await tokens.verify(token)
    world.clock.now += PAUSE_SECONDS
    assert (await tokens.verify(token)).id == "ann"


@pytest.mark.parametrize("path", [DISCOVERY, "/jwks"])
@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404},
        {"status": 500},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}},
        {"status": 301, "headers": {"Location": "/jwks"}},
        {"body": b"x" * (MAX_DOCUMENT_BYTES + 1)},
        {"body": b"garbage"},
        {"body": b"\xff\xfe"},
        {"body": b"[]"},
        {"body": b"null"},
        {"body": b"{}"},
        {"body": b"[" * 100_000},
        {"body": b'{"keys": 5}'},
    ],
)
async def test_a_provider_that_answers_something_else_lets_nobody_in(
    world: World, path: str, answer: dict[str, Any]
) -> None:
    world.provider.answers[path] = web.Response(**answer)
    with pytest.raises(Unavailable):
        await world.tokens().verify(world.provider.token())


async def test_a_provider_that_is_late_or_away_lets_nobody_in(world: World) -> None:
    world.provider.delay_seconds = 5.0
    with pytest.raises(Unavailable, match="in time"):
        await world.tokens().verify(world.provider.token())
    away = world.tokens(OidcRules(issuer="http://127.0.0.1:1", audience=frozenset({AUDIENCE})))
    world.provider.issuer = "http://127.0.0.1:1"
    with pytest.raises(ImsError):
        await away.verify(world.provider.token())


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://192.0.2.1/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://["},
        {"jwks_uri": ["x"]},
        {"jwks_uri": "//x"},
    ],
)
async def test_a_discovery_document_that_leads_elsewhere_is_refused(
    world: World, document: dict[str, Any]
) -> None:
    world.provider.document = document
    with pytest.raises(Unavailable):
        await world.tokens().verify(world.provider.token())
    assert world.provider.asked == [DISCOVERY]


async def test_few_calls_wait_for_a_slow_provider(world: World) -> None:
    world.provider.delay_seconds = 0.3
    tokens, token = world.tokens(), world.provider.token()
    answers = await asyncio.gather(*[tokens.verify(token) for _ in range(50)], return_exceptions=True)
    refused = [each for each in answers if isinstance(each, Unavailable)]
    assert len(refused) == 50 - MAX_WAITING
    assert all("too many calls wait" in each.message for each in refused)
    assert [each.id for each in answers if not isinstance(each, BaseException)] == ["ann"] * MAX_WAITING
    assert (await tokens.verify(token)).id == "ann"


async def test_a_provider_that_is_away_is_not_asked_with_every_call(world: World) -> None:
    tokens, token = world.tokens(keep=100), world.provider.token()
    await tokens.verify(token)
    world.provider.answers["/jwks"] = web.Response(status=500)
    world.provider.asked.clear()
    world.clock.now += 51
    with structlog.testing.capture_logs() as logged:
        for _ in range(20):
            assert (await tokens.verify(token)).id == "ann"
            await world.background.settle()
    assert world.provider.asked == [DISCOVERY, "/jwks"]
    assert len(logged) == 1

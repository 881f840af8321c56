"""Keys in a transit engine, when the server, the way to it, the token or the role is not as it should be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from imsd_kms_transit.engine import Engine
from imsd_kms_transit.login import new_login
from imsd_kms_transit.options import TransitOptions
from imsd_kms_transit.server import RetryBudget, Server, new_session, trust_of
from imsd_kms_transit.service import TransitKeys, open_transit_keys

from imsd.contract import ImsError, InvalidRequest, KeyService, PermissionDenied, Unavailable
from tests.certificates import Authority
from tests.openbao import OpenBao, started_openbao
from tests.transit import approle_options, secret_file, token_options, write_policy
from tests.unit.plugins.cutting_proxy import CuttingProxy, cutting_proxy
from tests.web_server import Reply, WebServer, serve_web

DATA_KEY = bytes(range(32))
CONTEXT = b"image"


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One that may be sealed and stopped; each test leaves it running."""
    with started_openbao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


async def refusal_of(opening: AbstractAsyncContextManager[KeyService]) -> ImsError:
    with pytest.raises(ImsError) as caught:
        async with opening:
            pytest.fail("it opened")
    return caught.value


def opened_through(proxy: CuttingProxy, options: TransitOptions) -> AbstractAsyncContextManager[KeyService]:
    return open_transit_keys(replace(options, url=proxy.url))


async def there_and_back(keys: KeyService, key_id: str = "a") -> None:
    wrapped = await keys.wrap(key_id, DATA_KEY, CONTEXT)
    assert await keys.unwrap(key_id, wrapped, CONTEXT) == DATA_KEY


async def test_a_sealed_server_is_unavailable_until_it_is_unsealed(
    own_server: OpenBao, tmp_path: Path
) -> None:
    options = token_options(own_server, tmp_path, retry_seconds=0.5)
    async with open_transit_keys(options) as keys:
        await keys.create("a")
        own_server.seal()
        try:
            for call in (keys.wrap("a", DATA_KEY, CONTEXT), keys.describe("a"), keys.create("b")):
                with pytest.raises(Unavailable, match="503") as caught:
                    await call
                assert caught.value.reason == "KEY_SERVICE_UNAVAILABLE"
                assert "unseal it" in caught.value.hint
        finally:
            own_server.unseal()
        await there_and_back(keys)


async def test_a_stopped_server_is_unavailable_until_it_runs(own_server: OpenBao, tmp_path: Path) -> None:
    options = token_options(own_server, tmp_path, retry_seconds=0.5)
    async with open_transit_keys(options) as keys:
        await keys.create("a")
        own_server.stop()
        try:
            with pytest.raises(Unavailable, match=r"no connection \(Connection refused\)") as caught:
                await keys.wrap("a", DATA_KEY, CONTEXT)
            assert caught.value.reason == "KEY_SERVICE_UNAVAILABLE"
            assert "127.0.0.1" not in caught.value.message  # which users of the daemon read
        finally:
            await asyncio.to_thread(own_server.start)
        await there_and_back(keys)


async def test_a_call_waits_for_a_server_that_starts_again(own_server: OpenBao, tmp_path: Path) -> None:
    options = token_options(own_server, tmp_path, retry_seconds=60.0)
    async with open_transit_keys(options) as keys:
        await keys.create("a")
        own_server.stop()
        calls = [asyncio.create_task(there_and_back(keys)) for _ in range(3)]
        try:
            await asyncio.sleep(0.2)
        finally:
            await asyncio.to_thread(own_server.start)
        await asyncio.gather(*calls)


async def test_a_key_service_opens_while_its_server_is_out_of_reach(
    own_server: OpenBao, tmp_path: Path
) -> None:
    options = token_options(own_server, tmp_path, retry_seconds=0.0)
    own_server.stop()
    try:
        async with open_transit_keys(options) as keys:
            with pytest.raises(Unavailable):
                await keys.create("a")
            await asyncio.to_thread(own_server.start)
            await keys.create("a")
            await there_and_back(keys)
    finally:
        own_server.stop()
        await asyncio.to_thread(own_server.start)


async def test_a_start_does_not_wait_until_nothing_is_tried_again(
    own_server: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imsd_kms_transit.service.OPENING_SECONDS", 0.2)
    options = token_options(own_server, tmp_path, retry_seconds=300.0)
    own_server.stop()
    try:
        async with open_transit_keys(options):
            pass
    finally:
        await asyncio.to_thread(own_server.start)


async def test_a_wrong_token_is_told_at_the_start(openbao: OpenBao, tmp_path: Path) -> None:
    options = token_options(openbao, tmp_path)
    secret_file(tmp_path / "token", "s.thisIsNoTokenOfTheServer")
    error = await refusal_of(open_transit_keys(options))
    assert isinstance(error, PermissionDenied)
    assert error.reason == "KEY_SERVICE_DENIED"
    assert "thisIsNoToken" not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize(("content", "says"), [("", "empty"), ("a\nb", "one line"), ("tök", "ASCII")])
async def test_a_token_file_without_a_token_is_told(
    openbao: OpenBao, tmp_path: Path, content: str, says: str
) -> None:
    options = token_options(openbao, tmp_path)
    (tmp_path / "token").write_text(content)
    error = await refusal_of(open_transit_keys(options))
    assert error.reason == "KEY_SERVICE_DENIED"
    assert says in error.message


async def test_a_token_that_is_over_is_refused_until_its_file_has_another(
    openbao: OpenBao, tmp_path: Path
) -> None:
    options = token_options(openbao, tmp_path)
    async with open_transit_keys(options) as keys:
        await keys.create("a")
        old = (tmp_path / "token").read_text().strip()
        assert openbao.ask("POST", "auth/token/revoke", {"token": old}).status == 204
        with pytest.raises(PermissionDenied) as caught:
            await keys.wrap("a", DATA_KEY, CONTEXT)
        assert caught.value.reason == "KEY_SERVICE_DENIED"
        secret_file(tmp_path / "token", openbao.make_token([options.mount]))
        await there_and_back(keys)


async def test_a_policy_that_is_too_narrow_is_told(openbao: OpenBao, tmp_path: Path) -> None:
    options = token_options(openbao, tmp_path)
    async with open_transit_keys(options) as keys:
        await keys.create("a")
        openbao.write_policy(options.mount, f'path "{options.mount}/keys" {{ capabilities = ["list"] }}')
        with pytest.raises(PermissionDenied, match="403") as caught:
            await keys.wrap("a", DATA_KEY, CONTEXT)
        assert "policy" in caught.value.hint
        write_policy(openbao, options.mount)
        await there_and_back(keys)


@pytest.mark.parametrize("change", [{"mount": "elsewhere"}, {"namespace": "nowhere"}])
async def test_a_place_that_is_not_there_is_told_at_the_start(
    openbao: OpenBao, tmp_path: Path, change: dict[str, Any]
) -> None:
    options = token_options(openbao, tmp_path)
    (tmp_path / "token").write_text(openbao.root_token)
    error = await refusal_of(open_transit_keys(replace(options, **change)))
    assert error.reason == "KEY_SERVICE_DENIED"


async def test_a_token_that_may_not_look_at_itself_is_good(openbao: OpenBao, tmp_path: Path) -> None:
    options = token_options(openbao, tmp_path)
    token = openbao.make_token([options.mount], no_default_policy=True)
    secret_file(tmp_path / "token", token)
    async with open_transit_keys(options) as keys:
        await keys.create("a")
        await there_and_back(keys)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def opened() -> AsyncIterator[Any]:
    """Key services by options and a clock for their tokens."""
    sessions = []

    def open_keys(options: TransitOptions, clock: Clock) -> KeyService:
        session = new_session(trust_of(options))
        sessions.append(session)
        server = Server(session, options)
        login = new_login(server, options, clock)
        return TransitKeys(Engine(server, login, options))

    yield open_keys
    for session in sessions:
        await session.close()


async def test_a_token_is_renewed_before_its_time_is_over(
    openbao: OpenBao, tmp_path: Path, opened: Any
) -> None:
    options, clock = token_options(openbao, tmp_path, ttl="3600s"), Clock()
    token = (tmp_path / "token").read_text().strip()

    def was_renewed() -> bool:
        return "last_renewal" in openbao.ask("GET", "auth/token/lookup-self", token=token).data

    keys = opened(options, clock)
    await keys.create("a")
    clock.seconds += 2000
    await there_and_back(keys)
    assert not was_renewed()
    clock.seconds += 1000
    await asyncio.gather(*(there_and_back(keys) for _ in range(4)))
    assert was_renewed()


async def test_a_role_logs_in_again_when_the_time_of_its_token_is_over(
    openbao: OpenBao, tmp_path: Path, opened: Any
) -> None:
    options, clock = approle_options(openbao, tmp_path, ttl="3600s"), Clock()
    keys = opened(options, clock)
    await keys.create("a")
    first = await keys._engine._login.token()
    clock.seconds += 3700
    await there_and_back(keys)
    assert await keys._engine._login.token() != first


def tokens_of(server: OpenBao, options: TransitOptions) -> list[str]:
    """The accessors of all tokens that the role has."""
    found = []
    for accessor in server.ask("GET", "auth/token/accessors?list=true").data["keys"]:
        told = server.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        if told.status == 200 and told.data["path"] == f"auth/{options.approle_mount}/login":
            found.append(accessor)
    return found


async def test_a_role_whose_token_was_revoked_logs_in_again(openbao: OpenBao, tmp_path: Path) -> None:
    options = approle_options(openbao, tmp_path)
    async with open_transit_keys(options) as keys:
        await keys.create("a")
        (token,) = tokens_of(openbao, options)
        openbao.ask("POST", "auth/token/revoke-accessor", {"accessor": token})
        await asyncio.gather(*(there_and_back(keys) for _ in range(8)))
        assert len(tokens_of(openbao, options)) == 1


async def test_a_role_whose_policy_is_too_narrow_does_not_log_in_again_and_again(
    openbao: OpenBao, tmp_path: Path
) -> None:
    options = approle_options(openbao, tmp_path)
    async with open_transit_keys(options) as keys:
        openbao.write_policy(options.mount, f'path "{options.mount}/keys" {{ capabilities = ["list"] }}')
        for _ in range(3):
            with pytest.raises(PermissionDenied):
                await keys.create("a")
        assert len(tokens_of(openbao, options)) == 1


async def test_a_role_that_is_not_let_in_is_told_at_the_start(openbao: OpenBao, tmp_path: Path) -> None:
    options = approle_options(openbao, tmp_path)
    for wrong in (
        replace(options, role_id="unknown"),
        replace(options, secret_id_file=secret_file(tmp_path / "other", "not-the-secret-id")),
        replace(options, approle_mount="elsewhere"),
    ):
        error = await refusal_of(open_transit_keys(wrong))
        assert error.reason == "KEY_SERVICE_DENIED"
        assert "not-the-secret-id" not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize("when", ["sent", "answered"])
async def test_a_call_whose_connection_is_cut_is_made_again(
    openbao: OpenBao, tmp_path: Path, when: Any
) -> None:
    options = token_options(openbao, tmp_path)
    async with (
        cutting_proxy(openbao.port) as proxy,
        open_transit_keys(replace(options, url=proxy.url)) as keys,
    ):
        proxy.when = when
        proxy.cuts = 2
        await keys.create("a")
        proxy.cuts = 2
        wrapped = await keys.wrap("a", DATA_KEY, CONTEXT)
        proxy.cuts = 2
        assert await keys.unwrap("a", wrapped, CONTEXT) == DATA_KEY
        assert proxy.cut_requests == 6


async def test_a_rotation_whose_answer_is_lost_is_not_made_twice(openbao: OpenBao, tmp_path: Path) -> None:
    options = token_options(openbao, tmp_path)
    async with (
        cutting_proxy(openbao.port) as proxy,
        open_transit_keys(replace(options, url=proxy.url)) as keys,
    ):
        await keys.create("a")
        engine = keys._engine  # type: ignore[attr-defined]
        proxy.cuts = 1
        with pytest.raises(Unavailable) as caught:
            await engine.rotate("a", is_repeatable=False)
        assert caught.value.reason == "KEY_SERVICE_UNAVAILABLE"
        assert (await keys.describe("a")).version == 2


async def test_tls_is_proved(
    openbao: OpenBao, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority, other = Authority(), Authority("another authority")
    certificate, key = authority.server().write(tmp_path, "server")
    ca_file, other_file = authority.write(tmp_path), other.write(tmp_path, "other")
    with started_openbao(tmp_path_factory.mktemp("tls"), (certificate, key, ca_file)) as server:
        options = token_options(server, tmp_path, ca_file=ca_file)
        async with open_transit_keys(options) as keys:
            await keys.create("a")
            await there_and_back(keys)
        for untrusted in (other_file, None):
            async with open_transit_keys(replace(options, ca_file=untrusted)) as keys:
                with pytest.raises(Unavailable, match="certificate is not trusted") as caught:
                    await keys.describe("a")
                assert "ca_file" in caught.value.hint
        plain = f"http://127.0.0.1:{server.port}"
        async with open_transit_keys(replace(options, url=plain, retry_seconds=0.0)) as keys:
            with pytest.raises(Unavailable):
                await keys.describe("a")
        tls_to_plain = replace(options, url=f"https://127.0.0.1:{openbao.port}", retry_seconds=0.0)
        async with open_transit_keys(tls_to_plain) as keys:
            with pytest.raises(Unavailable, match=r"no connection \(TLS: "):
                await keys.describe("a")
    nowhere = replace(options, url="https://no-such-host.invalid", retry_seconds=0.0)
    async with open_transit_keys(nowhere) as keys:
        with pytest.raises(Unavailable, match="the name of its host is not found"):
            await keys.describe("a")
    for wrong in (tmp_path / "missing", key):
        error = await refusal_of(open_transit_keys(replace(options, ca_file=wrong)))
        assert isinstance(error, InvalidRequest)
        assert (error.reason, error.field) == ("INVALID_CONFIGURATION", "ca_file")


@pytest.fixture
async def faked() -> AsyncIterator[WebServer]:
    """A server that is told what to answer, for what a real one never would."""
    async with serve_web() as server:
        lookup = json.dumps({"data": {"ttl": 0}}).encode()
        server.offer("/v1/auth/token/lookup-self", lambda seen: Reply(200, {}, lookup))
        server.offer("/v1/transit/keys", lambda seen: Reply(404, {}, b'{"errors": []}'))
        yield server


def faked_options(server: WebServer, folder: Path, **more: Any) -> TransitOptions:
    token = secret_file(folder / "token", "s.token")
    given = {"url": server.root, "token_file": token, "retry_seconds": 0.0}
    return TransitOptions(**{**given, **more})


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>Welcome to the proxy</html>", "KEY_SERVICE_UNAVAILABLE"),
        (200, b"[1]", "KEY_SERVICE_UNAVAILABLE"),
        (200, b"{}", "KEY_SERVICE_UNAVAILABLE"),
        (200, b"", "KEY_SERVICE_UNAVAILABLE"),
        (200, b'{"data": []}', "KEY_SERVICE_UNAVAILABLE"),
        (200, b'{"data": {"type": "aes256-gcm96", "derived": true}}', "KEY_SERVICE_UNAVAILABLE"),
        (200, b"[" * 100_000, "KEY_SERVICE_UNAVAILABLE"),
        (200, b'"' + b"x" * (17 << 20) + b'"', "KEY_SERVICE_UNAVAILABLE"),
        (302, b"", "KEY_SERVICE_UNAVAILABLE"),
        (307, b"", "KEY_SERVICE_UNAVAILABLE"),
        (400, b'{"errors": ["something new"]}', "KEY_SERVICE_UNAVAILABLE"),
        (401, b"", "KEY_SERVICE_DENIED"),
        (403, b'{"errors": ["permission denied"]}', "KEY_SERVICE_DENIED"),
        (404, b'{"errors": ["no handler for route \\"x\\""]}', "KEY_SERVICE_DENIED"),
        (404, b'{"errors": []}', "KEY_NOT_FOUND"),
        (405, b'{"errors": ["unsupported operation"]}', "KEY_SERVICE_DENIED"),
        (418, b"", "KEY_SERVICE_UNAVAILABLE"),
        (429, b'{"errors": ["request path: rate limit quota exceeded"]}', "KEY_SERVICE_UNAVAILABLE"),
        (500, b'{"errors": "not a list"}', "KEY_SERVICE_UNAVAILABLE"),
        (503, b'{"errors": ["Vault is sealed"]}', "KEY_SERVICE_UNAVAILABLE"),
    ],
)
async def test_what_the_server_answers_has_its_reason(
    faked: WebServer, tmp_path: Path, status: int, body: bytes, reason: str
) -> None:
    async with open_transit_keys(faked_options(faked, tmp_path)) as keys:
        headers = {"Location": f"{faked.root}/v1/elsewhere"} if status in (302, 307) else {}
        faked.offer("/v1/transit/keys/imsd-a", lambda seen: Reply(status, headers, body))
        with pytest.raises(ImsError) as caught:
            await keys.describe("a")
    assert caught.value.reason == reason
    assert "/v1/elsewhere" not in [seen.path for seen in faked.seen]


async def test_a_server_that_stalls_is_given_up(faked: WebServer, tmp_path: Path) -> None:
    body = b'{"data": {}}'
    faked.offer("/v1/transit/keys/imsd-a", lambda seen: Reply(200, {}, body, stall_after=3))
    async with open_transit_keys(faked_options(faked, tmp_path, timeout_seconds=0.3)) as keys:
        with pytest.raises(Unavailable, match=r"no answer in 0\.3 seconds"):
            await keys.describe("a")


async def test_what_passes_is_tried_again(faked: WebServer, tmp_path: Path) -> None:
    faked.offer("/v1/transit/keys/imsd-a", lambda seen: Reply(404, {}, b'{"errors": []}'))
    async with open_transit_keys(faked_options(faked, tmp_path, retry_seconds=30.0)) as keys:
        await asyncio.sleep(0.05)  # the look at deletions is over
        answers = [Reply(500), Reply(503), Reply(429)]
        faked.faults.extend([lambda _: answers.pop(0)] * 3)
        before = len(faked.seen)
        with pytest.raises(ImsError) as caught:
            await keys.describe("a")
    assert caught.value.reason == "KEY_NOT_FOUND"
    assert len(faked.seen) == before + 4


def test_an_outage_does_not_multiply_what_is_asked() -> None:
    budget = RetryBudget(most=3)
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]
    for _ in range(10):
        budget.give_back()
    assert [budget.spend() for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "bao.example.org"),
        ("url", "ftp://bao.example.org"),
        ("url", "http://bao.example.org:8200"),
        ("url", "https://user:word@bao.example.org"),
        ("url", "https://bao.example.org/v1"),
        ("url", "https://bao.example.org:99999"),
        ("url", "https://[::1"),
        ("mount", "/transit"),
        ("mount", "transit/"),
        ("mount", "../sys"),
        ("mount", "transit?x"),
        ("namespace", "a b"),
        ("key_prefix", ""),
        ("key_prefix", "a.b"),
        ("key_prefix", "-"),
        ("timeout_seconds", 0.0),
        ("timeout_seconds", float("nan")),
        ("retry_seconds", -1.0),
        ("role_id", "role"),
        ("token_credential", "both"),
        ("token_file", None),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, field: str, value: object) -> None:
    good = TransitOptions(url="https://bao.example.org:8200", token_file=tmp_path / "token")
    with pytest.raises(InvalidRequest) as caught:
        replace(good, **{field: value})  # type: ignore[arg-type]
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert caught.value.field


@pytest.mark.parametrize("url", ["http://127.0.0.1:8200", "http://localhost:8200", "http://[::1]:8200"])
def test_plain_http_is_for_this_machine(tmp_path: Path, url: str) -> None:
    TransitOptions(url=url, token_file=tmp_path / "token")

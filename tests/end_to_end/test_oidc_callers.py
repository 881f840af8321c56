"""Callers who come by a real OpenID Connect provider, through a real daemon."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from ims_client import CallFailed, connect

from imsd.v1 import identity_pb2
from tests.end_to_end.daemon_process import DaemonProcess
from tests.end_to_end.test_who_calls import caller, free_port, refusal

READ_ONLY = "IMS ReadOnlyAccess"
REDIRECT = "http://127.0.0.1/callback"


@dataclass
class RealProvider:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def token(self, user_id: str, client_id: str = "ims") -> str:
        """As a browser gets one: by the code flow."""
        asked = {
            "client_id": client_id,
            "redirect_uri": REDIRECT,
            "response_type": "code",
            "scope": "openid groups",
        }
        async with aiohttp.ClientSession(self.issuer) as session:
            async with session.post(
                "/oauth2/authorize", params=asked, data={"sub": user_id}, allow_redirects=False
            ) as response:
                (code,) = parse_qs(urlsplit(response.headers["Location"]).query)["code"]
            said = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
            said |= {"client_id": client_id, "client_secret": "any"}
            async with session.post("/oauth2/token", data=said) as response:
                return str((await response.json())["id_token"])

    async def wait(self) -> None:
        async with aiohttp.ClientSession(self.issuer) as session, asyncio.timeout(30):
            while True:
                assert self.process.poll() is None
                try:
                    async with session.get("/jwks"):
                        return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[RealProvider]:
    port = free_port()
    users = [{"sub": "alice", "groups": ["imaging", "other"]}, {"sub": "bob"}]
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    for user in users:
        command += ["--user-claims", json.dumps(user)]
    with (tmp_path / "provider.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220
    provider = RealProvider(port, process)
    await provider.wait()
    yield provider
    provider.stop()


@pytest.fixture
async def daemon(provider: RealProvider, start_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    daemon = start_daemon(oidc__issuer=provider.issuer, oidc__audience="ims")
    async with connect(daemon.address) as client:
        for project_id in ("lab", "web"):
            await client.identity.create_project(project_id)
        await client.identity.create_group("imaging")
        await client.identity.grant_role(identity_pb2.PRINCIPAL_KIND_GROUP, "imaging", "lab", READ_ONLY)
    return daemon


async def test_the_groups_of_a_token_bring_their_roles(provider: RealProvider, daemon: DaemonProcess) -> None:
    token = await provider.token("alice")
    found = await caller(daemon.address, token=token)
    assert (found.kind, found.id) == (identity_pb2.CALLER_KIND_OIDC, "alice")
    assert list(found.groups) == ["imaging", "other"]
    assert [(grant.principal_id, grant.project_id, grant.role) for grant in found.roles] == [
        ("imaging", "lab", READ_ONLY)
    ]
    async with connect(daemon.address, token=token) as client:
        assert [image async for image in client.images.list()] == []
        with pytest.raises(CallFailed) as refused:
            await client.identity.create_user("carl")
        assert refused.value.reason == "PERMISSION_DENIED"
    text = daemon.imsctl("whoami", "--token", token).stdout
    assert "alice" in text
    assert f"{READ_ONLY} in lab, by group imaging" in text


async def test_a_user_without_roles_is_known_and_may_nothing(
    provider: RealProvider, daemon: DaemonProcess
) -> None:
    token = await provider.token("bob")
    found = await caller(daemon.address, token=token)
    assert (found.id, list(found.groups), list(found.roles)) == ("bob", [], [])
    async with connect(daemon.address, token=token) as client:
        with pytest.raises(CallFailed) as refused:
            [image async for image in client.images.list()]
        assert refused.value.reason == "PROJECT_REQUIRED"
    async with connect(daemon.address, "lab", token=token) as client:
        with pytest.raises(CallFailed) as refused:
            [image async for image in client.images.list()]
        assert refused.value.reason == "PERMISSION_DENIED"


async def test_a_user_with_a_row_has_roles_and_tokens_of_its_own(
    provider: RealProvider, daemon: DaemonProcess
) -> None:
    token = await provider.token("alice")
    async with connect(daemon.address, token=token) as client:
        with pytest.raises(CallFailed) as refused:
            await client.identity.create_token("ci")
        assert refused.value.reason == "NOT_FOUND"
    async with connect(daemon.address) as client:
        await client.identity.create_user("alice")
        await client.identity.grant_role(identity_pb2.PRINCIPAL_KIND_USER, "alice", "web", READ_ONLY)
    async with connect(daemon.address, token=token) as client:
        made = await client.identity.create_token("ci")
    assert {grant.project_id for grant in (await caller(daemon.address, token=token)).roles} == {"lab", "web"}
    own = await caller(daemon.address, token=made.secret)  # not its groups of the provider
    assert {grant.project_id for grant in own.roles} == {"web"}


async def test_a_token_that_is_not_for_us_or_not_as_it_was_is_refused(
    provider: RealProvider, daemon: DaemonProcess
) -> None:
    header, claims, signature = (await provider.token("alice")).split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))) | {"sub": "root"}
    forged = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for token in (
        await provider.token("alice", client_id="another-service"),
        f"{header}.{forged}.{signature}",
        f"{none}.{claims}.",
        f"{none}.{claims}.{signature}",
    ):
        refused = await refusal(daemon.address, token=token)
        assert (refused.reason, refused.code) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert (await caller(daemon.address)).is_administrator


async def test_a_token_that_tells_of_many_groups_gets_through(
    provider: RealProvider, daemon: DaemonProcess
) -> None:
    groups = [f"cn=group-{number:03},ou=imaging,dc=example" for number in range(200)]
    async with (
        aiohttp.ClientSession(provider.issuer) as session,
        session.put("/users/carol", json={"groups": groups}) as response,
    ):
        assert response.status < 300
    token = await provider.token("carol")
    assert 10_000 < len(token) < 15_000
    for _ in range(5):  # gRPC would drop some of them by chance
        assert len((await caller(daemon.address, token=token)).groups) == 200


async def test_while_the_provider_is_away_nobody_comes_in_by_it(
    provider: RealProvider, daemon: DaemonProcess
) -> None:
    token = await provider.token("alice")
    assert (await caller(daemon.address, token=token)).id == "alice"
    provider.stop()
    assert (await caller(daemon.address, token=token)).id == "alice"  # its keys are known
    assert daemon.stop() == 0
    daemon.restart()
    refused = await refusal(daemon.address, token=token)
    assert (refused.reason, refused.code) == ("UNAVAILABLE", "UNAVAILABLE")
    assert (await caller(daemon.address)).is_administrator
    assert token not in daemon.log.read_text()

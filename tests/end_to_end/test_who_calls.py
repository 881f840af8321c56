"""Each way to say who calls, through a real daemon, and the refusal of each that is no good."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from ims_client import CallFailed, ImsClient, connect

from imsd.grpc_server.call_places import MAX_CALLS_OF_ONE
from imsd.v1 import identity_pb2, trace_pb2, upload_pb2
from tests.certificates import Authority
from tests.end_to_end import wire
from tests.end_to_end.daemon_process import DaemonProcess

StartDaemon = Callable[..., DaemonProcess]
FULL_ACCESS = "IMS FullAccess"
SPIFFE = "spiffe://ims.test/builder"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Place:
    """A daemon with a unix socket, a TLS port for everybody, and one for those who show a certificate."""

    daemon: DaemonProcess
    folder: Path
    authority: Authority
    tls: str
    mutual: str

    @property
    def ca_file(self) -> str:
        return str(self.folder / "authority.pem")

    def administrator(self) -> Any:
        return connect(self.daemon.address)

    def client_files(
        self, common_name: str, *uris: str, authority: Authority | None = None
    ) -> dict[str, str]:
        signed = (authority or self.authority).client(common_name, *uris)
        certificate, key = signed.write(self.folder, f"client-{abs(hash((common_name, uris, authority)))}")
        return {"ca_file": self.ca_file, "cert_file": str(certificate), "key_file": str(key)}

    async def token(self, user_id: str = "ann", seconds: int = 0) -> identity_pb2.CreateTokenResponse:
        async with self.administrator() as client:
            made: identity_pb2.CreateTokenResponse = await client.identity.create_token("t", user_id, seconds)
        return made


@pytest.fixture
async def place(tmp_path: Path, start_daemon: StartDaemon) -> Place:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    ports = free_port(), free_port()
    tls, mutual = (f"127.0.0.1:{port}" for port in ports)
    daemon = start_daemon(
        options=["--listen", tls, "--listen", mutual],
        tls__cert_file=certificate,
        tls__key_file=key,
        tls__client_ca_file=authority.write(tmp_path),
        tls__mutual_addresses=mutual,
    )
    place = Place(daemon, tmp_path, authority, f"tls://{tls}", f"tls://{mutual}")
    async with place.administrator() as client:
        await client.identity.create_project("lab")
        await client.identity.create_user("ann")
        await client.identity.grant_role(identity_pb2.PRINCIPAL_KIND_USER, "ann", "lab", FULL_ACCESS)
        await client.identity.grant_role(identity_pb2.PRINCIPAL_KIND_CERTIFICATE, SPIFFE, "lab", FULL_ACCESS)
    return place


async def caller(address: str, **said: str) -> identity_pb2.Caller:
    async with connect(address, **said) as client:
        return await client.identity.caller()


async def refusal(address: str, **said: str) -> CallFailed:
    with pytest.raises(CallFailed) as refused:
        await caller(address, **said)
    return refused.value


async def test_the_unix_socket_makes_the_administrator_and_a_token_somebody_else(place: Place) -> None:
    local = await caller(place.daemon.address)
    assert local.is_administrator
    assert local.kind == identity_pb2.CALLER_KIND_LOCAL_ADMINISTRATOR
    made = await place.token()
    for address, said in ((place.daemon.address, {}), (place.tls, {"ca_file": place.ca_file})):
        found = await caller(address, token=made.secret, **said)
        assert (found.kind, found.id) == (identity_pb2.CALLER_KIND_API_TOKEN, "ann")
        assert found.token_id == made.token.id
        assert not found.is_administrator
        assert [(grant.project_id, grant.role) for grant in found.roles] == [("lab", FULL_ACCESS)]
        async with connect(address, token=made.secret, **said) as client:
            assert [image async for image in client.images.list()] == []  # in "lab": there is no other
        async with connect(address, "other", token=made.secret, **said) as client:
            with pytest.raises(CallFailed) as refused:
                [image async for image in client.images.list()]
            assert refused.value.reason == "PERMISSION_DENIED"


async def test_a_bad_token_is_refused_wherever_it_comes(place: Place) -> None:
    good = (await place.token()).secret
    changed = good[:-1] + ("A" if good[-1] != "A" else "B")
    builder = place.client_files("x", SPIFFE)
    for token in ("x", "imsd_x", changed, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.", "a" * 15_000):
        for address, said in (
            (place.daemon.address, {}),
            (place.tls, {"ca_file": place.ca_file}),
            (place.mutual, builder),
        ):
            refused = await refusal(address, token=token, **said)
            assert (refused.reason, refused.code) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
            assert token not in str(refused)


async def test_who_says_nothing_over_tcp_is_refused_every_call(place: Place) -> None:
    assert (await refusal(place.tls, ca_file=place.ca_file)).reason == "UNAUTHENTICATED"
    async with connect(place.tls, ca_file=place.ca_file) as client:
        for call in (client.catalog.service_info(), client.images.get("x"), client.images.resolve("x")):
            with pytest.raises(CallFailed) as refused:
                await call
            assert refused.value.reason == "UNAUTHENTICATED"
        with pytest.raises(CallFailed) as refused:
            [answer async for answer in client.jobs.watch("x")]
        assert refused.value.reason == "UNAUTHENTICATED"


async def test_the_log_says_who_called_and_from_where(place: Place) -> None:
    await caller(place.mutual, **place.client_files("x", SPIFFE))
    await refusal(place.tls, token="imsd_x", ca_file=place.ca_file)
    await caller(place.daemon.address)
    calls = [
        line for line in place.daemon.log.read_text().splitlines() if "IdentityService/GetCaller" in line
    ]
    known, refused, local = calls[-3:]
    assert f"caller={SPIFFE}" in known
    assert "outcome=UNAUTHENTICATED" in refused
    for line in (known, refused):
        assert "peer=ipv4:127.0.0.1:" in line
    assert "caller=" not in refused + local
    assert "peer=" not in local


async def test_a_certificate_says_who_calls(place: Place) -> None:
    found = await caller(place.mutual, **place.client_files("some name", SPIFFE))
    assert (found.kind, found.id) == (identity_pb2.CALLER_KIND_CERTIFICATE, SPIFFE)
    assert [grant.role for grant in found.roles] == [FULL_ACCESS]
    found = await caller(place.mutual, **place.client_files("ann"))
    assert (found.kind, found.id, list(found.roles)) == (identity_pb2.CALLER_KIND_CERTIFICATE, "ann", [])
    token = (await place.token()).secret
    found = await caller(place.mutual, token=token, **place.client_files("some name", SPIFFE))
    assert (found.kind, found.id) == (identity_pb2.CALLER_KIND_API_TOKEN, "ann")


async def test_a_certificate_of_two_meanings_is_refused(place: Place) -> None:
    for files in (
        place.client_files(SPIFFE),
        place.client_files("x", SPIFFE, "spiffe://ims.test/other"),
        place.client_files("x", SPIFFE, "https://ims.test/"),
        place.client_files(""),
    ):
        assert (await refusal(place.mutual, **files)).reason == "UNAUTHENTICATED"


async def test_a_stranger_does_not_even_connect(place: Place) -> None:
    strangers = Authority()
    for said in (
        {"ca_file": place.ca_file},
        place.client_files("x", SPIFFE, authority=strangers),
    ):
        refused = await refusal(place.mutual, **said)
        assert refused.reason == "DAEMON_UNREACHABLE"
        assert "--cert" in refused.hint
    expired = place.authority.client("x", SPIFFE, lifetime=-timedelta(hours=1))
    for signed in (expired, place.authority.server_only("x")):
        certificate, key = signed.write(place.folder, "no-good")
        said = {"ca_file": place.ca_file, "cert_file": str(certificate), "key_file": str(key)}
        assert (await refusal(place.mutual, **said)).reason == "DAEMON_UNREACHABLE"


async def test_a_daemon_that_is_not_trusted_gets_no_token(place: Place) -> None:
    other = str(Authority().write(place.folder, "other"))
    refused = await refusal(place.tls, ca_file=other, token="secret-that-stays-here")
    assert (refused.reason, "not trusted" in refused.message) == ("DAEMON_UNREACHABLE", True)
    plain = place.tls.removeprefix("tls://")
    refused = await refusal(plain, token="secret-that-stays-here")
    assert "try tls://" in refused.hint
    assert "secret-that-stays-here" not in place.daemon.log.read_text()


async def test_renewed_certificates_are_taken_without_a_restart(place: Place) -> None:
    token = (await place.token()).secret
    async with connect(place.tls, token=token, ca_file=place.ca_file) as before:
        await before.identity.caller()
        renewed = Authority()
        renewed.server().write(place.folder, "server")
        old = place.folder / "old.pem"
        (place.folder / "authority.pem").rename(old)
        renewed.write(place.folder)
        assert (await caller(place.tls, token=token, ca_file=place.ca_file)).id == "ann"
        assert (await refusal(place.tls, token=token, ca_file=str(old))).reason == "DAEMON_UNREACHABLE"
        files = place.client_files("x", SPIFFE, authority=renewed)
        assert (await caller(place.mutual, **files)).id == SPIFFE
        files = place.client_files("x", SPIFFE)
        assert (await refusal(place.mutual, **files)).reason == "DAEMON_UNREACHABLE"
        await before.identity.caller()  # a connection that is there goes on


async def test_a_token_ends_when_it_expires(place: Place) -> None:
    made = await place.token(seconds=60)
    async with place.administrator() as client:
        found = [token async for token in client.identity.tokens("ann")]
    assert [token.id for token in found] == [made.token.id]
    assert found[0].expires_at.seconds - found[0].created_at.seconds == 60


@asynccontextmanager
async def running_upload(client: ImsClient) -> AsyncIterator[Any]:
    """A call that would run for as long as nobody ends it."""
    opened = await client.uploads.create(upload_pb2.CreateUploadRequest(size_bytes=1 << 20))
    call = client.uploads.open_writer()
    await call.write(client.uploads.header(opened.id, 0))
    await call.read()
    try:
        yield call
    finally:
        call.cancel()


async def read_to_the_end(call: Any) -> None:
    async with asyncio.timeout(20):
        while await call.read() is not grpc.aio.EOF:
            pass
        await call


@pytest.mark.parametrize("way", ["revoke", "delete"])
async def test_a_token_that_is_revoked_while_in_use_is_of_no_use_any_more(place: Place, way: str) -> None:
    made, other = await place.token(), await place.token()
    async with (
        connect(place.tls, token=made.secret, ca_file=place.ca_file) as client,
        connect(place.tls, token=other.secret, ca_file=place.ca_file) as innocent,
        running_upload(client) as ended,
        running_upload(innocent) as going_on,
    ):
        if way == "revoke":
            await client.identity.revoke_token(made.token.id)  # by itself: its answer still comes
        else:
            async with place.administrator() as administrator:
                await administrator.identity.delete_user("ann")
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await read_to_the_end(ended)
        assert wire.reason_of(broken.value) == "TOKEN_REVOKED"
        async with connect(place.daemon.address, "lab") as administrator:
            found = [trace async for trace in administrator.traces.list()]
        ending = next(trace for trace in found if trace.name == "writeUpload")
        assert (ending.outcome, ending.reason) == (trace_pb2.TRACE_OUTCOME_DENIED, "TOKEN_REVOKED")
        refused = await refusal(place.tls, token=made.secret, ca_file=place.ca_file)
        assert refused.reason == ("TOKEN_REVOKED" if way == "revoke" else "UNAUTHENTICATED")
        if way == "revoke":
            await innocent.identity.caller()
            await going_on.write(upload_pb2.WriteUploadRequest(flush=upload_pb2.WriteUploadRequest.Flush()))
            await going_on.read()


async def test_a_role_that_is_withdrawn_ends_what_runs_by_it(place: Place) -> None:
    async with place.administrator() as administrator:
        await administrator.identity.create_user("bob")
        await administrator.identity.grant_role(identity_pb2.PRINCIPAL_KIND_USER, "bob", "lab", FULL_ACCESS)
    made, other = await place.token(), await place.token("bob")
    async with (
        connect(place.tls, token=made.secret, ca_file=place.ca_file) as client,
        connect(place.tls, token=other.secret, ca_file=place.ca_file) as innocent,
        connect(place.mutual, **place.client_files("x", SPIFFE)) as builder,
        running_upload(client) as ended,
        running_upload(builder) as ended_too,
        running_upload(innocent) as going_on,
    ):
        for kind, who in (
            (identity_pb2.PRINCIPAL_KIND_USER, "ann"),
            (identity_pb2.PRINCIPAL_KIND_CERTIFICATE, SPIFFE),
        ):
            async with place.administrator() as administrator:
                await administrator.identity.revoke_role(kind, who, "lab", FULL_ACCESS)
        for call in (ended, ended_too):
            with pytest.raises(grpc.aio.AioRpcError) as broken:
                await read_to_the_end(call)
            assert wire.reason_of(broken.value) == "PERMISSION_DENIED"
        await going_on.write(upload_pb2.WriteUploadRequest(flush=upload_pb2.WriteUploadRequest.Flush()))
        await going_on.read()


async def test_one_caller_does_not_take_the_places_of_all(place: Place) -> None:
    made = await place.token()
    async with connect(place.tls, token=made.secret, ca_file=place.ca_file) as client:
        # Streams whose first message never comes: they run until somebody ends them.
        calls = [client.uploads.open_writer() for _ in range(MAX_CALLS_OF_ONE + 10)]
        endings = [asyncio.create_task(read_to_the_end(call)) for call in calls]
        for ending in islice(asyncio.as_completed(endings), 10):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ending
            assert wire.reason_of(refused.value) == "LIMIT_EXCEEDED"
        with pytest.raises(CallFailed, match="calls of ann run already"):
            await client.identity.caller()
        assert (await caller(place.daemon.address)).is_administrator
        for call in calls:
            call.cancel()
        await asyncio.gather(*endings, return_exceptions=True)


async def test_a_secret_is_nowhere_but_where_it_was_shown(place: Place) -> None:
    made = await place.token()
    secret = made.secret
    random_part = secret[38:]
    async with connect(place.tls, token=secret, ca_file=place.ca_file) as client:
        await client.uploads.create(upload_pb2.CreateUploadRequest(size_bytes=1))
        with pytest.raises(CallFailed):
            await client.images.get("no id")
        await client.identity.create_token("another one")
    await refusal(place.tls, token=secret[:-1], ca_file=place.ca_file)
    assert place.daemon.stop() == 0
    kept = [path for path in place.daemon.state_dir.rglob("*") if path.is_file()]
    assert any(path.name == "imsd.sqlite3" for path in kept)
    for path in (*kept, place.daemon.log):
        content = path.read_bytes()
        assert random_part.encode() not in content, path
        assert secret.encode().hex().encode() not in content, path
    assert b"CreateToken" in place.daemon.log.read_bytes()


async def test_the_last_use_of_a_token_is_kept(place: Place) -> None:
    made = await place.token()
    await caller(place.tls, token=made.secret, ca_file=place.ca_file)
    assert place.daemon.stop() == 0
    used = place.daemon.value(f"SELECT last_used_at FROM api_token WHERE id = '{made.token.id}'")
    assert used is not None
    assert ":00.000000" in used

"""What says who calls: where it comes from, and to whom it is never sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from ims_client import CallFailed, Credentials, ImsClient, LocalFileFailed, connect, parse_address
from ims_client.channel import SpeakingChannel, open_channel
from imsctl.credentials import CredentialOptions

from tests.certificates import Authority
from tests.unit.clients.conftest import Imsctl
from tests.unit.clients.fake_daemon import FakeDaemon

TOKEN = "imsd_" + "0" * 32 + "_" + "A" * 43


def notes() -> tuple[list[str], Callable[[str], None]]:
    said: list[str] = []
    return said, said.append


@pytest.mark.parametrize(
    "address", ["tls://images.example.org:7443", "tls://[2001:db8::1]:7443", "tls://10.0.0.1:1"]
)
def test_an_address_of_tls_is_one(address: str) -> None:
    assert parse_address(address) == address


@pytest.mark.parametrize(
    "address", ["tls://", "tls://host", "tls:host:1", "https://host:1", "tls://host:99999", "tls://a/b:1"]
)
def test_what_only_looks_like_one_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1:7070",
        "images.example.org:7070",
        "[2001:db8::1]:7070",
        "0.0.0.0:7070",
        "localhost.example.org:1",
        "1270.0.1:1",
    ],
)
async def test_a_token_is_not_sent_to_another_machine_without_tls(address: str) -> None:
    with pytest.raises(ValueError, match="without TLS"):
        open_channel(address, Credentials(token=TOKEN))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7070", "localhost:7070", "[::1]:7070", "127.8.8.8:7070", "unix:/x"]
)
async def test_a_token_is_sent_on_this_machine(address: str) -> None:
    channel = open_channel(address, Credentials(token=TOKEN))
    assert isinstance(channel, SpeakingChannel)
    await channel.close()


@pytest.mark.parametrize("token", ["a b", "a\n", "é", "a\r\nx: y", "a" * 20_000])
async def test_what_is_no_token_is_not_sent(token: str) -> None:
    with pytest.raises(ValueError, match="no token has"):
        open_channel("unix:/x", Credentials(token=token))


async def test_files_of_tls_belong_to_addresses_of_tls(tmp_path: Path) -> None:
    for given in ({"ca_file": "x"}, {"cert_file": "x", "key_file": "x"}):
        with pytest.raises(ValueError, match="use tls://"):
            open_channel("127.0.0.1:1", Credentials(**given))
        await open_channel("unix:/x", Credentials(**given)).close()
    for given in ({"cert_file": "x"}, {"key_file": "x"}):
        with pytest.raises(ValueError, match="needs its key"):
            open_channel("tls://127.0.0.1:1", Credentials(**given))


async def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing, garbage = tmp_path / "missing.pem", tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    for given in (
        {"ca_file": str(missing)},
        {"ca_file": str(garbage)},
        {"cert_file": str(garbage), "key_file": str(missing)},
        {"cert_file": str(garbage), "key_file": str(garbage)},
    ):
        with pytest.raises(LocalFileFailed) as refused:
            open_channel("tls://127.0.0.1:1", Credentials(**given))
        assert str(tmp_path) in refused.value.message


def test_no_secret_is_shown() -> None:
    assert TOKEN not in repr(Credentials(token=TOKEN))
    assert TOKEN not in repr(CredentialOptions(token=TOKEN))


def test_an_option_comes_before_a_variable_and_a_token_before_a_file(tmp_path: Path) -> None:
    said, note = notes()
    file = tmp_path / "token"
    file.write_text(f" {TOKEN} \nanother line\n")
    file.chmod(0o600)
    both = {"IMSD_TOKEN": "variable", "IMSD_TOKEN_FILE": str(file)}
    outer = CredentialOptions.of(both)
    assert outer.read_token(note) == "variable"
    assert CredentialOptions(token="option").on_top_of(outer).read_token(note) == "option"
    assert CredentialOptions(token_file=str(file)).on_top_of(outer).read_token(note) == TOKEN
    assert CredentialOptions().on_top_of(CredentialOptions.of({})).read_token(note) == ""
    given = CredentialOptions(ca_file="a", cert_key="k").on_top_of(
        CredentialOptions.of({"IMSD_CERT": "c", "IMSD_CERT_KEY": "v"})
    )
    assert (given.ca_file, given.cert, given.cert_key) == ("a", "c", "k")
    assert said == []


def test_a_file_of_a_token_is_judged(tmp_path: Path) -> None:
    said, note = notes()
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o640)
    assert CredentialOptions(token_file=str(file)).read_token(note) == TOKEN
    assert "can be read by others" in said[0]
    file.write_text("\n")
    for wrong in (file, tmp_path, tmp_path / "missing"):
        with pytest.raises(LocalFileFailed):
            CredentialOptions(token_file=str(wrong)).read_token(note)


class Listening(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the library has no types
    """Notes what each call brings along."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        said = dict(details.invocation_metadata).get("authorization", "")
        self.heard.append((details.method.rpartition("/")[2], str(said)))
        return await continuation(details)


async def test_every_kind_of_call_brings_the_token(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, imsctl: Imsctl
) -> None:
    listening = Listening()
    await daemon.stop()
    make = grpc.aio.server
    monkeypatch.setattr(
        grpc.aio, "server", lambda interceptors: make(interceptors=[listening, *interceptors])
    )
    await daemon.start()
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "disk").write_bytes(os.urandom(10_000))
    done = await imsctl("--token-file", "token", "image", "import", "disk", "--name", "a")
    assert done.code == 0, done.errors
    assert {call for call, _ in listening.heard} >= {"CreateUpload", "WriteUpload", "CreateImage", "WatchJob"}
    assert {said for _, said in listening.heard} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.errors + done.text
    listening.heard.clear()
    async with connect(daemon.address) as client:
        await _ask(client)
    assert listening.heard == [("GetServiceInfo", "")]


async def _ask(client: ImsClient) -> None:
    await client.catalog.service_info()


async def unreachable(address: str, **said: str) -> CallFailed:
    with pytest.raises(CallFailed) as refused:
        async with connect(address, **said) as client:
            await _ask(client)
    assert refused.value.reason == "DAEMON_UNREACHABLE"
    return refused.value


async def test_why_there_is_no_tls_is_told(tmp_path: Path) -> None:
    authority = Authority()
    ca_file = str(authority.write(tmp_path))
    other = authority.server([x509.DNSName("other.example")])
    pair = [(other.key_pem, other.certificate_pem)]
    server = grpc.aio.server()
    wrong_name = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    plain = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        found = await unreachable(f"tls://127.0.0.1:{wrong_name}", ca_file=ca_file)
        assert "of another name" in found.message
        found = await unreachable(
            f"tls://127.0.0.1:{wrong_name}", ca_file=str(Authority().write(tmp_path, "x"))
        )
        assert "is not trusted" in found.message
        assert "--ca-file" in found.hint
        found = await unreachable(f"tls://127.0.0.1:{plain}", ca_file=ca_file)
        assert "does not speak TLS" in found.message
        assert found.hint == f"try 127.0.0.1:{plain}"
        found = await unreachable(f"127.0.0.1:{wrong_name}")
        assert f"try tls://127.0.0.1:{wrong_name}" in found.hint
    finally:
        await server.stop(0)

"""Files of TLS: which are refused at the start, and what happens when they change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from imsd.contract import InvalidRequest
from imsd.grpc_server import tls
from imsd.grpc_server.tls import ServerTls, TlsFiles
from tests.certificates import Authority

AUTHORITY = Authority()


def files(folder: Path, **values: Any) -> TlsFiles:
    certificate, key = AUTHORITY.server().write(folder, "server")
    given = {"certificate": certificate, "key": key, "client_ca": AUTHORITY.write(folder)}
    return TlsFiles(**(given | values))


def refusal(given: TlsFiles) -> str:
    with pytest.raises(InvalidRequest) as refused:
        ServerTls(given)
    assert refused.value.reason == "INVALID_CONFIGURATION"
    return refused.value.message


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, which: str) -> None:
    wrong = tmp_path / "wrong"
    assert str(wrong) in refusal(files(tmp_path, **{which: wrong}))
    for content in (
        b"",
        b"garbage",
        b"\xff" * 100,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ):
        wrong.write_bytes(content)
        assert str(wrong) in refusal(files(tmp_path, **{which: wrong}))
    wrong.unlink()
    wrong.mkdir()
    assert str(wrong) in refusal(files(tmp_path, **{which: wrong}))


def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    assert "it is no file" in refusal(files(tmp_path, certificate=Path("/dev/zero")))
    (tmp_path / "long").write_bytes(b"x" * (tls.MAX_FILE_BYTES + 1))
    assert "too long" in refusal(files(tmp_path, key=tmp_path / "long"))


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    _, other = AUTHORITY.server().write(tmp_path, "other")
    assert "not the key of the certificate" in refusal(files(tmp_path, key=other))


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    signed = AUTHORITY.server()
    certificate, key = signed.write(tmp_path, "locked")
    key.write_bytes(
        signed.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "without a passphrase" in refusal(files(tmp_path, certificate=certificate, key=key))


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)])
def test_a_key_that_others_can_read_is_told_of(tmp_path: Path, mode: int, is_open: bool) -> None:
    given = files(tmp_path)
    given.key.chmod(mode)
    with capture_logs() as logs:
        ServerTls(given)
    assert ("the key of TLS is open to others" in [line["event"] for line in logs]) == is_open


def test_renewed_files_are_taken_once_by_each_address(tmp_path: Path) -> None:
    server = ServerTls(files(tmp_path))
    first, second = server._fetcher(), server._fetcher()
    assert first() is None
    AUTHORITY.server().write(tmp_path, "server")
    renewed = first()
    assert renewed is not None
    assert first() is None
    assert second() is renewed
    assert second() is None
    AUTHORITY.write(tmp_path)
    Authority().write(tmp_path)
    assert first() is not None


def test_files_that_are_half_written_change_nothing(tmp_path: Path) -> None:
    server = ServerTls(files(tmp_path))
    fetch = server._fetcher()
    renewed = AUTHORITY.server()
    with capture_logs() as logs:
        (tmp_path / "server.pem").write_bytes(renewed.certificate_pem)  # the key is not there yet
        assert [fetch() for _ in range(3)] == [None] * 3
        os.unlink(tmp_path / "server.key")
        assert fetch() is None
    assert [line["log_level"] for line in logs] == ["error", "error"]
    renewed.write(tmp_path, "server")
    assert fetch() is not None

"""The certificates of the server: read at the start, and again when their files change.

A renewed certificate is taken for the connections that come after it, without a restart. Files that make no
sense, such as a certificate whose key is not written yet, are told of once and leave things as they are.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from imsd.contract import InvalidRequest

log = structlog.get_logger(__name__)

# More than any chain or bundle of authorities takes.
MAX_FILE_BYTES = 4 << 20

Mark = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files. ``client_ca``: authorities of client certificates.

    ``mutual_addresses``: where a client needs one; empty: everywhere, if there is a ``client_ca``.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    mutual_addresses: Collection[str] = ()


class ServerTls:
    def __init__(self, files: TlsFiles) -> None:
        """Raises InvalidRequest (INVALID_CONFIGURATION) for files that cannot be used."""
        self._files = files
        self._lock = threading.Lock()  # handshakes run in threads of gRPC's own
        self._mark = self._now()
        self._current = self._read()
        self._version = 1
        _warn_of_open_key(files.key)

    def credentials(self, address: str) -> Any:
        """For one address to listen on."""
        asks = self._files.client_ca is not None and (
            not self._files.mutual_addresses or address in self._files.mutual_addresses
        )
        return grpc.dynamic_ssl_server_credentials(
            self._current, self._fetcher(), require_client_authentication=asks
        )

    def _fetcher(self) -> Callable[[], Any]:
        """What gRPC asks with each handshake: a new configuration, or None for no change."""
        seen = self._version

        def fetch() -> Any:
            nonlocal seen
            with self._lock:
                self._look()
                if seen == self._version:
                    return None
                seen = self._version
                return self._current

        return fetch

    def _look(self) -> None:
        mark = self._now()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._current = self._read()
        except InvalidRequest as error:
            log.error("the changed files of TLS cannot be used", error=error.message)
            return
        self._version += 1
        log.info("certificates were renewed", certificate=str(self._files.certificate))

    def _now(self) -> Mark:
        """Changes when one of the files does."""
        return tuple(_mark_of(path) for path in self._paths())

    def _paths(self) -> list[Path]:
        return [path for path in (self._files.certificate, self._files.key, self._files.client_ca) if path]

    def _read(self) -> Any:
        chain, key = _content(self._files.certificate), _content(self._files.key)
        authorities = _content(self._files.client_ca) if self._files.client_ca else None
        certificate = _certificates(self._files.certificate, chain)[0]
        if _public_key(self._files.key, key) != _public_bytes(certificate.public_key()):
            raise _unusable(self._files.key, "it is not the key of the certificate", "tls.key_file")
        if self._files.client_ca and authorities is not None:
            _certificates(self._files.client_ca, authorities)
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            log.warning("the certificate has expired", certificate=str(self._files.certificate))
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def _mark_of(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _unusable(path, "it is no file")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from error
    if len(content) > MAX_FILE_BYTES:
        raise _unusable(path, "it is too long")
    return content


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    """At least one."""
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise _unusable(path, "it holds no certificate in PEM") from error


def _public_key(path: Path, content: bytes) -> bytes:
    """Of a private key."""
    try:
        return _public_bytes(load_pem_private_key(content, password=None).public_key())
    except (TypeError, ValueError) as error:  # TypeError: it wants a passphrase
        raise _unusable(path, "it is no private key in PEM without a passphrase") from error


def _public_bytes(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _warn_of_open_key(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        log.warning("the key of TLS is open to others", key=str(path), mode=f"{stat.S_IMODE(mode):04o}")


def _unusable(path: Path, why: str, field: str = "tls") -> InvalidRequest:
    return InvalidRequest(
        f"{path} cannot be used for TLS: {why}",
        reason="INVALID_CONFIGURATION",
        field=field,
        hint="give the certificate with its chain, its key and the authorities of clients as PEM files",
    )

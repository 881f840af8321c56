"""Certificates made for a test: an authority, what it signs, and the files of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@dataclass(frozen=True)
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """The files of certificate and key, which only the owner may read."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, (self.certificate_pem, self.key_pem), strict=True):
            path.write_bytes(content)
            path.chmod(0o600)
        return paths


class Authority:
    def __init__(self, name: str = "test authority") -> None:
        self._own = _sign(name, None, (), timedelta(days=1))

    @property
    def pem(self) -> bytes:
        return self._own.certificate_pem

    def write(self, folder: Path, name: str = "authority") -> Path:
        path = folder / f"{name}.pem"
        path.write_bytes(self.pem)
        return path

    def server(self, names: Sequence[x509.GeneralName] = LOOPBACK, common_name: str = "server") -> Signed:
        return _sign(common_name, self._own, names, timedelta(days=1))

    def client(self, common_name: str, *uris: str, lifetime: timedelta = timedelta(days=1)) -> Signed:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        return _sign(common_name, self._own, names, lifetime)

    def server_only(self, common_name: str) -> Signed:
        """A certificate that says that it is for servers, and for nothing else."""
        return _sign(common_name, self._own, (), timedelta(days=1), ExtendedKeyUsageOID.SERVER_AUTH)


def _sign(
    common_name: str,
    issuer: Signed | None,
    names: Sequence[x509.GeneralName],
    lifetime: timedelta,
    usage: x509.ObjectIdentifier | None = None,
) -> Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    end = datetime.now(UTC) + lifetime
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=2))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Signed(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)

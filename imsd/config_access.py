"""The sections of who may call over a network: TLS, client certificates, an OpenID Connect provider."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from .config_values import OptionalPath, Texts, split

# Signatures by public keys. "none" is no signature, and the key of an HS256 would be known to whoever checks.
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Tls(BaseModel):
    """With a certificate, every TCP address of `listen` speaks TLS, and may be reached from other machines.

    All files are PEM, and are read again when they change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The certificate of the daemon, with its chain; and its key, without a passphrase.
    cert_file: OptionalPath = None
    key_file: OptionalPath = None

    # Authorities of client certificates; where one is asked for, nobody connects without.
    client_ca_file: OptionalPath = None

    # Of `listen`, the TCP addresses where a client certificate is asked for; none: all of them, if there is
    # a `client_ca_file`.
    mutual_addresses: Texts = ()

    @property
    def is_used(self) -> bool:
        return self.cert_file is not None

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        if self.client_ca_file and not self.cert_file:
            raise ValueError("client_ca_file needs cert_file and key_file")
        if self.mutual_addresses and not self.client_ca_file:
            raise ValueError("mutual_addresses need client_ca_file")
        return self


class Oidc(BaseModel):
    """Tokens of an OpenID Connect provider say who calls. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The provider: the `iss` of its tokens, below which its discovery document lies; empty: none. https, but
    # for a provider on this machine.
    issuer: Annotated[str, Field(max_length=1024)] = ""

    # For whom a token must be: at least one of these stands in its `aud`.
    audience: Texts = ()

    # The claims that name the user, and its groups.
    user_claim: Annotated[str, Field(min_length=1, max_length=128)] = "sub"
    groups_claim: Annotated[str, Field(min_length=1, max_length=128)] = "groups"

    # How a token may be signed.
    algorithms: Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(split), Field(min_length=1)] = (
        "RS256",
        "ES256",
        "EdDSA",
    )

    # How long the keys of the provider are kept; and how often, at most, it is asked again for a key that is
    # not among them.
    keys_seconds: Annotated[float, Field(ge=10, le=86400)] = 3600.0
    refetch_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0

    # By how much the clocks of the provider and of this machine may differ.
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0

    # How long calls go on that began before their token expired.
    call_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = 3600.0

    # How long the provider may take to answer.
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0

    # A file of certificates (PEM) that are trusted beside those of the system.
    ca_file: OptionalPath = None

    @field_validator("issuer")
    @classmethod
    def _is_an_issuer(cls, issuer: str) -> str:
        if not issuer:
            return issuer
        parts = urlsplit(issuer)
        if parts.query or parts.fragment or parts.username or not parts.hostname:
            raise ValueError(f"{issuer!r} is no issuer: https://HOST, with a path if it has one")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError(f"{issuer!r} is not https: anybody could make its tokens")
        return issuer

    @model_validator(mode="after")
    def _has_an_audience(self) -> Self:
        if self.issuer and not self.audience:
            raise ValueError("audience is missing: tokens that were made for other services would count here")
        return self

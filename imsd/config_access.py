"""The sections of who may call over a network: TLS and client certificates."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from .config_values import OptionalPath, Texts

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

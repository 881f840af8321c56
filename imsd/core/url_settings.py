"""What an operator says of fetching files of the web; light, so that nobody pays who fetches none."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from imsd.contract import InvalidRequest

from .url_policy import UrlPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlLimits:
    """How much is asked at once, and how long a server may take; times in seconds, sizes in bytes."""

    connections: int = 4  # of one file
    max_connections: int = 16  # of all files together
    piece_bytes: int = 4 << 20  # asked for at once; each connection holds one in memory
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0  # without a byte
    retry_seconds: float = 120.0  # of attempts that bring no byte
    pause_seconds: float = 0.5  # after the first attempt that failed; doubled after each further one


@dataclass(frozen=True, slots=True)
class UrlSettings:
    """``trust``: whose certificates are believed."""

    policy: UrlPolicy
    limits: UrlLimits
    trust: ssl.SSLContext


def trusted_authorities(ca_file: Path | None, section: str = "url_import") -> ssl.SSLContext:
    """Those of the system, and the certificates (PEM) in ``ca_file`` of a section of the configuration.

    Raises InvalidRequest (INVALID_CONFIGURATION) when it cannot be read.
    """
    trust = ssl.create_default_context()
    if ca_file:
        try:
            trust.load_verify_locations(ca_file)
        except OSError as error:  # an ssl.SSLError is one
            raise InvalidRequest(
                f"the certificates in {ca_file} cannot be read: {error.strerror or error}",
                reason="INVALID_CONFIGURATION",
                field=section,
                hint=f"set {section}.ca_file to a file of certificates in PEM",
            ) from error
    return trust

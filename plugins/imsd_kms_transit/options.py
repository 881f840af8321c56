"""What can be configured of a transit engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from imsd.contract import InvalidRequest, check_one_secret

PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*\Z")
KEY_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitOptions:
    """The keys of a section ``[key_services.NAME]`` with ``driver = "transit"``."""

    # The server: https://HOST[:PORT]; http only on this machine.
    url: str

    # The authority that signed the certificate of the server (PEM); else those of the system.
    ca_file: Path | None = None

    # The path of the transit engine.
    mount: str = "transit"

    # The namespace of all paths; none if empty.
    namespace: str = ""

    # What the names of this service's keys begin with, in a transit engine that others use too.
    key_prefix: str = "imsd-"

    # Who we are: a token, from a file or a credential of the daemon's unit ...
    token_file: Path | None = None
    token_credential: str = ""

    # ... or an AppRole: its id, and its secret id from a file or a credential.
    role_id: str = ""
    secret_id_file: Path | None = None
    secret_id_credential: str = ""
    approle_mount: str = "approle"

    # Until an attempt has its answer, 0.1 to 300 seconds.
    timeout_seconds: float = 10.0

    # After which a call is not tried again, 0 to 300 seconds from its beginning.
    retry_seconds: float = 20.0

    def __post_init__(self) -> None:
        _check_url(self.url)
        for key, path in (("mount", self.mount), ("approle_mount", self.approle_mount)):
            if not PATH.match(path):
                raise _wrong(key, f"{key} is {path!r}, which is no path", "without a / before or after it")
        if self.namespace and not PATH.match(self.namespace):
            raise _wrong("namespace", f"namespace is {self.namespace!r}, which is no path")
        if not KEY_PREFIX.match(self.key_prefix):
            raise _wrong("key_prefix", "key_prefix must be 1 to 32 of A-Z, a-z, 0-9, '_' and '-'")
        if not 0.1 <= self.timeout_seconds <= 300:
            raise _wrong("timeout_seconds", "timeout_seconds must be 0.1 to 300")
        if not 0 <= self.retry_seconds <= 300:
            raise _wrong("retry_seconds", "retry_seconds must be 0 to 300")
        self._check_secrets()

    def _check_secrets(self) -> None:
        has_token = self.token_file is not None or bool(self.token_credential)
        has_secret_id = self.secret_id_file is not None or bool(self.secret_id_credential)
        if has_token and (self.role_id or has_secret_id):
            raise _wrong("role_id", "a token and an AppRole are configured", "set one of them")
        if self.role_id or has_secret_id:
            if not self.role_id:
                raise _wrong("role_id", "role_id is missing: a secret id is configured")
            check_one_secret("secret_id", self.secret_id_file, self.secret_id_credential)
        else:
            check_one_secret("token", self.token_file, self.token_credential)


def files_of(options: TransitOptions) -> Sequence[Path]:
    """The files that hold secrets."""
    return [path for path in (options.token_file, options.secret_id_file) if path is not None]


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _wrong("url", "url is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _wrong("url", "url must be https://HOST or https://HOST:PORT")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password:
        raise _wrong("url", "url must have nothing but a host and a port", "a path goes into mount")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise _wrong("url", "url must begin with https://: tokens and data keys are sent to it")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(field: str, message: str, hint: str = "") -> InvalidRequest:
    return InvalidRequest(message, reason="INVALID_CONFIGURATION", field=field, hint=hint)

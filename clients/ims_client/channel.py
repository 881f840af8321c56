"""The channel to a daemon: a socket, a plain port or TLS, with what says who makes its calls."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from .address import TLS
from .errors import LocalFileFailed, cannot_read

# Messages carry up to 4 MiB of an image; gRPC's own limit is 4 MiB with everything around them.
MAX_MESSAGE_BYTES = 8 << 20

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own waits between connection attempts reach two minutes; a daemon restarts in a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name, how long one attempt may take: a busy daemon is not a missing one.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

# What can stand in a header of HTTP/2, see RFC 6750, 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What says who calls, and who may answer. Empty: nothing.

    ``token``: an API token or one of an OpenID Connect provider. ``ca_file``: the authorities (PEM) that the
    daemon's certificate must come from; empty: those of this system. ``cert_file`` and ``key_file``: a
    client certificate, with its chain, and its key (PEM).
    """

    token: str = field(default="", repr=False)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


def open_channel(address: str, credentials: Credentials) -> Any:
    """A channel to ``address``, as `parse_address` gives it; to be closed.

    Raises ValueError for credentials that do not fit the address: a token that others would see, files of
    TLS for an address without. Raises LocalFileFailed for files that cannot be used.
    """
    if credentials.token and not _TOKEN.match(credentials.token):
        raise ValueError("the token holds characters that no token has")
    if address.startswith(TLS):
        tls = _tls_credentials(credentials)
        channel = grpc.aio.secure_channel(address.removeprefix(TLS), tls, options=CHANNEL_OPTIONS)
    else:
        _require_that_none_is_seen(address, credentials)
        channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return SpeakingChannel(channel, credentials.token) if credentials.token else channel


class SpeakingChannel:
    """A channel whose every call brings a token. (gRPC's own call credentials need TLS.)"""

    def __init__(self, channel: Any, token: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)

    def unary_unary(self, *plan: Any, **options: Any) -> Callable[..., Any]:
        return self._speaking(self._channel.unary_unary(*plan, **options))

    def unary_stream(self, *plan: Any, **options: Any) -> Callable[..., Any]:
        return self._speaking(self._channel.unary_stream(*plan, **options))

    def stream_unary(self, *plan: Any, **options: Any) -> Callable[..., Any]:
        return self._speaking(self._channel.stream_unary(*plan, **options))

    def stream_stream(self, *plan: Any, **options: Any) -> Callable[..., Any]:
        return self._speaking(self._channel.stream_stream(*plan, **options))

    async def close(self) -> None:
        await self._channel.close()

    def _speaking(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*request: Any, **options: Any) -> Any:
            return call(*request, metadata=self._metadata, **options)

        return begin


def _tls_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    if bool(credentials.cert_file) != bool(credentials.key_file):
        raise ValueError("a client certificate needs its key, and a key its certificate")
    authorities = credentials.ca_file or ssl.get_default_verify_paths().cafile
    chain = _read(credentials.cert_file) if credentials.cert_file else None
    key = _read(credentials.key_file) if credentials.key_file else None
    if credentials.ca_file:
        _check(credentials.ca_file, lambda context: context.load_verify_locations(credentials.ca_file))
    if chain:
        _check(
            f"{credentials.cert_file} with {credentials.key_file}",
            # Without a passphrase: nobody is there to be asked for one.
            lambda context: context.load_cert_chain(credentials.cert_file, credentials.key_file, lambda: ""),
        )
    return grpc.ssl_channel_credentials(_read(authorities) if authorities else None, key, chain)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise cannot_read(Path(path), error) from None


def _check(what: str, load: Callable[[ssl.SSLContext], None]) -> None:
    """gRPC tells of a bad file only that it cannot connect."""
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except OSError as error:  # an ssl.SSLError is one
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise LocalFileFailed(
            f"{what} cannot be used for TLS ({why or 'not understood'})",
            "give files in PEM: certificates, and a key without a passphrase that fits its certificate",
        ) from None


def _require_that_none_is_seen(address: str, credentials: Credentials) -> None:
    if address.startswith("unix:"):
        return  # files of TLS may be set for other daemons
    if credentials.ca_file or credentials.cert_file or credentials.key_file:
        raise ValueError(f"{address} is not TLS, and certificates were given: use tls://{address}")
    if credentials.token and not _is_this_machine(address):
        raise ValueError(f"a token is not sent to {address} without TLS: use tls://{address}")


def _is_this_machine(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"

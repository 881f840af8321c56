"""What a call brings along to say who makes it: its metadata, its connection, its certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imsd.contract import Unauthenticated
from imsd.core.authentication import Credentials

MAX_PEER = 255
MAX_CERTIFICATE_ID = 255

# What the server takes of metadata is a little more.
MAX_BEARER = 16 << 10

_SPIFFE = "spiffe://"


def credentials_of(context: Any) -> Credentials:
    """Raises Unauthenticated for what cannot be understood: it is never read as if it were not there."""
    peer = context.peer()
    return Credentials(
        peer=peer[:MAX_PEER],
        is_local=is_local(peer),
        bearer=_bearer(context.invocation_metadata() or ()),
        certificate_id="" if is_local(peer) else _certificate_id(context.auth_context() or {}),
    )


def is_local(peer: str) -> bool:
    """Whether a call came over a unix socket; ``peer``: as gRPC tells it."""
    return peer.startswith("unix:")


def _bearer(metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
    given = [value for key, value in metadata if key == "authorization"]
    if not given:
        return None
    scheme, _, token = str(given[0]).partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip() or len(token) > MAX_BEARER:
        raise Unauthenticated(
            "the call's authorization is not one bearer token",
            hint='send "authorization: Bearer TOKEN", once',
        )
    return token.strip()


def _certificate_id(properties: Mapping[str, Sequence[bytes]]) -> str:
    """The SPIFFE id of the client's certificate, else its common name; empty when it has shown none.

    A certificate with a SPIFFE id beside another URI is none of SPIFFE's (X.509-SVID, 2), and a name that
    only looks like such an id is not one.
    """
    for said in properties.get("peer_spiffe_id", ()):
        return _text(said)
    uris = [_text(uri) for uri in properties.get("peer_uri", ())]
    names = [_text(name) for name in properties.get("x509_common_name", ())]
    if any(each.lower().startswith(_SPIFFE) for each in (*uris, *names)) or len(names) > 1:
        raise _refused_certificate()
    return names[0] if names else ""


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _refused_certificate() from None
    if not text or len(text) > MAX_CERTIFICATE_ID or not text.isprintable():
        raise _refused_certificate()
    return text


def _refused_certificate() -> Unauthenticated:
    return Unauthenticated(
        "the client certificate does not say in one way who it is for",
        hint="use a certificate with one SPIFFE id (a URI) or one common name of at most 255 characters",
    )

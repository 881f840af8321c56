"""What a call may bring along to say who makes it, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from imsd.contract import Unauthenticated
from imsd.grpc_server.credentials import MAX_BEARER, credentials_of

SPIFFE = b"spiffe://ims.test/node/a"


class Call:
    """As grpc's context tells of it."""

    def __init__(self, peer: str = "unix:", *authorization: str, **properties: Sequence[bytes]) -> None:
        self._peer = peer
        self._metadata = (("user-agent", "x"), *(("authorization", value) for value in authorization))
        self._properties = properties

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def auth_context(self) -> dict[str, Any]:
        return dict(self._properties)


def test_a_call_over_the_unix_socket_is_local() -> None:
    given = credentials_of(Call("unix:"))
    assert given.is_local
    assert given.bearer is None
    assert given.certificate_id == ""


@pytest.mark.parametrize(
    "peer", ["ipv4:127.0.0.1:50000", "ipv6:%5B::1%5D:50000", "unix-abstract:x", "", "x:unix:"]
)
def test_a_call_over_tcp_is_not(peer: str) -> None:
    assert not credentials_of(Call(peer)).is_local


@pytest.mark.parametrize("value", ["Bearer abc", "bearer abc", "BEARER  abc "])
def test_a_bearer_token_is_read(value: str) -> None:
    assert credentials_of(Call("unix:", value)).bearer == "abc"


@pytest.mark.parametrize(
    "values",
    [
        ("",),
        ("abc",),
        ("Bearer",),
        ("Bearer ",),
        ("Basic YTpi",),
        ("Bearer a", "Bearer a"),
        ("Bearer a", "Basic YTpi"),
        ("Bearer " + "a" * (MAX_BEARER + 1),),
    ],
)
def test_another_authorization_is_refused_and_never_ignored(values: tuple[str, ...]) -> None:
    with pytest.raises(Unauthenticated):
        credentials_of(Call("unix:", *values))


def test_a_spiffe_id_comes_before_the_common_name() -> None:
    call = Call("ipv4:1", peer_spiffe_id=[SPIFFE], peer_uri=[SPIFFE], x509_common_name=[b"node-a"])
    assert credentials_of(call).certificate_id == SPIFFE.decode()


def test_a_certificate_without_a_spiffe_id_is_known_by_its_common_name() -> None:
    call = Call("ipv4:1", x509_common_name=[b"node-a"], peer_uri=[b"https://node-a.example"])
    assert credentials_of(call).certificate_id == "node-a"


@pytest.mark.parametrize(
    "properties",
    [
        {"x509_common_name": [SPIFFE]},
        {"x509_common_name": [b"SPIFFE://ims.test/node/a"]},
        {"x509_common_name": [b"node-a"], "peer_uri": [SPIFFE, b"https://x"]},  # no peer_spiffe_id: two URIs
        {"x509_common_name": [b"node-a", b"node-b"]},
        {"x509_common_name": [b""]},
        {"x509_common_name": [b"node\n"]},
        {"x509_common_name": [b"\xff"]},
        {"x509_common_name": [b"a" * 256]},
    ],
)
def test_a_certificate_that_says_two_things_is_refused(properties: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        credentials_of(Call("ipv4:1", **properties))

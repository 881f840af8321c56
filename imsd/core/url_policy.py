"""Which addresses of the web the daemon may fetch from. Decides only; no name is looked up here.

The daemon sits inside a network that whoever names a URL does not: what it fetches must be the public
web's, unless the operator allows a network. So there is one spelling of an address that is taken, each
address a name resolves to is judged, and each redirect is judged again, whole (CVE-2026-34881).

Sources: RFC 3986 (URLs), WHATWG URL "ends in a number" (odd spellings of IPv4 addresses), the IANA
special-purpose address registries, RFC 4291 (mapped), 3056 (6to4), 4380 (Teredo), 6052 and 8215 (NAT64).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, NoReturn
from urllib.parse import SplitResult, urljoin, urlsplit

from imsd.contract import InvalidRequest

MAX_URL: Final = 2048
MAX_HOST: Final = 253
HTTPS_PORT: Final = 443
HTTP_PORT: Final = 80

# What a URL may consist of; parsers disagree on a backslash and on what is not ASCII.
_URL = re.compile(r"[!-\[\]-~]+\Z")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z")

# Unicast addresses of the public web; everything else of IPv6 is reserved, local or multicast.
_GLOBAL_V6 = IPv6Network("2000::/3")

# Special-purpose ranges that not every Python from 3.11 on counts among the private ones.
_SPECIAL: Final = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("3fff::/20"),  # documentation
)
_NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL that may be asked, in the parts it was judged by; ``str`` puts them together again."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    def __str__(self) -> str:
        return f"{self._origin}{self.path}{'?' + self.query if self.query else ''}"

    @property
    def shown(self) -> str:
        """For messages and logs: without the query, which may hold a signature or a token."""
        return f"{self._origin}{self.path}"

    @property
    def _origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = HTTPS_PORT if self.scheme == "https" else HTTP_PORT
        return f"{self.scheme}://{host}{'' if self.port == usual else f':{self.port}'}"


class UrlPolicy:
    """``allowed_networks`` may be asked although they are not public; ``ports`` beside 443."""

    def __init__(
        self, *, allow_http: bool = False, ports: Iterable[int] = (), allowed_networks: Iterable[str] = ()
    ) -> None:
        self._allow_http = allow_http
        self._ports = {HTTPS_PORT, *ports, *([HTTP_PORT] if allow_http else [])}
        self._allowed: Sequence[Network] = [ip_network(network) for network in allowed_networks]

    def check(self, text: str) -> CheckedUrl:
        """Judge a URL as far as it can be judged without asking. Raises InvalidRequest (URL_REFUSED)."""
        if not text:
            _refuse("the URL is empty")
        if len(text) > MAX_URL:
            _refuse(f"the URL is longer than {MAX_URL} characters")
        if not _URL.match(text):
            _refuse(
                "the URL has a character that a URL cannot have",
                "write the name of the host in punycode (xn--...) and other characters as %XX",
            )
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            _refuse("the URL is malformed")
        self._check_scheme(parts.scheme)
        if "@" in parts.netloc:
            _refuse("the URL holds a user name or a password", "use one that works without")
        host = self._host(parts)
        usual = HTTPS_PORT if parts.scheme == "https" else HTTP_PORT
        port = usual if port is None else port
        if port not in self._ports:
            _refuse(f"port {port} is not allowed", "an operator allows it with url_import.ports")
        return CheckedUrl(parts.scheme, host, port, parts.path or "/", parts.query)

    def check_redirect(self, base: CheckedUrl, location: str) -> CheckedUrl:
        """Judge where ``base`` sends us, as if it had been asked for. Raises InvalidRequest (URL_REFUSED)."""
        if len(location) > MAX_URL or not _URL.match(location):
            _refuse(f"{base.shown} redirects to something that is no URL")
        try:
            target = urljoin(str(base), location)
        except ValueError:
            _refuse(f"{base.shown} redirects to something that is no URL")
        checked = self.check(target)
        if base.scheme == "https" and checked.scheme != "https":
            _refuse(f"{base.shown} redirects from https to {checked.scheme}")
        return checked

    def check_addresses(self, host: str, addresses: Sequence[str]) -> None:
        """Judge what ``host`` resolves to: one address that is refused refuses all of them.

        Raises InvalidRequest (URL_REFUSED).
        """
        for text in addresses:
            if not self._may_ask(ip_address(text)):
                _refuse(
                    f"{host} has the address {text}, which is not one of the public web",
                    "an operator allows a network with url_import.allowed_networks",
                )

    def _check_scheme(self, scheme: str) -> None:
        if scheme == "http" and not self._allow_http:
            _refuse("the URL is not https", "use https, which proves where the bytes come from")
        if scheme not in ("http", "https"):
            _refuse("the URL does not begin with https://")

    def _host(self, parts: SplitResult) -> str:
        host = parts.hostname or ""
        if parts.netloc.startswith("["):
            return self._literal(host, IPv6Address)
        if len(host) > MAX_HOST:
            _refuse(f"the host is longer than {MAX_HOST} characters")
        labels = host.removesuffix(".").split(".")
        if not all(_LABEL.match(label) for label in labels):
            _refuse(f"{host[:MAX_HOST]!r} is no name of a host")
        if _NUMBER.match(labels[-1]):  # whatever inet_aton takes, and more: no host has such a name
            return self._literal(host, IPv4Address)
        return host

    def _literal(self, host: str, kind: type[IPv4Address] | type[IPv6Address]) -> str:
        """The address that stands for the host, in the one spelling that everybody reads alike."""
        try:
            if "%" in host:
                raise ValueError("an interface is named")
            address = kind(host)
        except ValueError:
            _refuse(f"{host[:MAX_HOST]!r} is no address", "write four decimal numbers, or an IPv6 address")
        self.check_addresses(host, [str(address)])
        return str(address)

    def _may_ask(self, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if any(address.version == network.version and address in network for network in self._allowed):
            return True
        if isinstance(address, IPv6Address) and (carried := _carried(address)):
            return self._may_ask(carried)
        return _is_public(address)


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which packets for ``address`` go in the end, if it carries one."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def _is_public(address: Address) -> bool:
    if any(address.version == network.version and address in network for network in _SPECIAL):
        return False
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _refuse(message: str, hint: str = "") -> NoReturn:
    raise InvalidRequest(message, reason="URL_REFUSED", field="url", hint=hint)

"""What the configuration says of who may call over a network, as the server and the core take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imsd.config import Config
from imsd.core.runtime import Runtime

if TYPE_CHECKING:
    from imsd.core.oidc import OidcTokens
    from imsd.grpc_server.tls import ServerTls


def server_tls(config: Config) -> ServerTls | None:
    """None: no TLS. Reads files. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    tls = config.tls
    if tls.cert_file is None or tls.key_file is None:
        return None
    # Here: who has no certificate need not load what reads one, which takes 7 MiB.
    from imsd.grpc_server.tls import ServerTls, TlsFiles

    return ServerTls(
        TlsFiles(
            certificate=tls.cert_file,
            key=tls.key_file,
            client_ca=tls.client_ca_file,
            mutual_addresses=tls.mutual_addresses,
        )
    )


def oidc_tokens(config: Config, runtime: Runtime) -> OidcTokens | None:
    """None: no provider. Asks it nothing yet. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    said = config.oidc
    if not said.issuer:
        return None
    # Here: who has no provider need not load what speaks to one.
    from imsd.core.oidc import OidcRules, OidcTokens
    from imsd.core.oidc_keys import KeyTimes, ProviderKeys
    from imsd.core.oidc_provider import Provider
    from imsd.core.url_settings import trusted_authorities

    provider = Provider(said.issuer, trusted_authorities(said.ca_file, "oidc"), said.timeout_seconds)
    times = KeyTimes(keep=said.keys_seconds, refetch=said.refetch_seconds)
    rules = OidcRules(
        issuer=said.issuer,
        audience=frozenset(said.audience),
        user_claim=said.user_claim,
        groups_claim=said.groups_claim,
        algorithms=frozenset(said.algorithms),
        leeway_seconds=said.leeway_seconds,
        call_seconds=said.call_seconds,
    )
    return OidcTokens(rules, ProviderKeys(provider, times, runtime.background), runtime.clock)

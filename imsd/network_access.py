"""What the configuration says of calls over a network, as the server and the core take it."""

from __future__ import annotations

from imsd.config import Config
from imsd.grpc_server.tls import ServerTls, TlsFiles


def server_tls(config: Config) -> ServerTls | None:
    """None: no TLS. Reads files. Raises InvalidRequest (INVALID_CONFIGURATION)."""
    tls = config.tls
    if tls.cert_file is None or tls.key_file is None:
        return None
    return ServerTls(
        TlsFiles(
            certificate=tls.cert_file,
            key=tls.key_file,
            client_ca=tls.client_ca_file,
            mutual_addresses=tls.mutual_addresses,
        )
    )

"""Handing an open file over to a daemon on the same machine, so that its bytes need not be sent.

The daemon reads what this process may read; see ``proto/README.md``. Wherever that is not possible (another
machine, a file system that the daemon does not trust, an older daemon), the bytes are sent as usual.
"""

from __future__ import annotations

import secrets
import socket

# Beside the daemon's own socket.
SUFFIX = ".files"
MAGIC = b"imsd-file-1"
TAKEN = b"taken"

TOKEN_BYTES = 32
PATIENCE_SECONDS = 5.0
MAX_ANSWER_BYTES = 1024


def hand_over(address: str, fd: int) -> bytes | None:
    """Hand ``fd`` to the daemon at ``address``; the token to name it by, None if it is not taken. Blocks."""
    if not address.startswith("unix:"):
        return None
    token = secrets.token_bytes(TOKEN_BYTES)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(PATIENCE_SECONDS)
            connection.connect(address.removeprefix("unix:") + SUFFIX)
            socket.send_fds(connection, [MAGIC + token], [fd])
            return token if connection.recv(MAX_ANSWER_BYTES) == TAKEN else None
    except OSError:
        return None

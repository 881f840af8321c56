"""Handing an open file over to a daemon on the same machine, so that its bytes need not be sent.

The daemon reads what this process may read; see ``proto/README.md``. Wherever that is not possible (another
machine, a file system that the daemon does not trust, an older daemon), the bytes are sent as usual.
"""

from __future__ import annotations

import os
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
        # Opened anew: the daemon shall hold neither the lock of this one nor its flags.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return token if _ask(address.removeprefix("unix:") + SUFFIX, token, own) == TAKEN else None
        finally:
            os.close(own)
    except OSError:
        return None


def _ask(path: str, token: bytes, fd: int) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(path)
        socket.send_fds(connection, [MAGIC + token], [fd])
        return connection.recv(MAX_ANSWER_BYTES)

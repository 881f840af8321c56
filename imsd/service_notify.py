"""Telling systemd how the daemon is: the datagram protocol of sd_notify(3), three messages of it."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> None:
    """Send ``READY=1``, ``STATUS=...`` or ``STOPPING=1``; nothing happens outside systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.connect(address)
            out.sendall("\n".join(assignments).encode())
        except OSError:
            return  # a supervisor that went away must not stop the daemon

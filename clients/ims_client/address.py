"""Where the daemon listens: `unix:PATH`, `tls://HOST:PORT` or, on this machine, `HOST:PORT`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

SYSTEM_SOCKET = Path("/run/imsd/imsd.sock")
ADDRESS_VARIABLE = "IMSD_ADDRESS"

TLS = "tls://"

# A host name, an IPv4 address or an IPv6 address in brackets, and a port.
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}\Z")


def parse_address(text: str) -> str:
    """``text`` in its one spelling; a plain path means a unix socket. Raises ValueError."""
    if text.startswith(("/", "./", "../", "~/")):
        return f"unix:{Path(text).expanduser().absolute()}"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if path:
            return f"unix:{Path(path).absolute()}"
    else:
        place = text.removeprefix(TLS)
        if _HOST_PORT.match(place) and int(place.rpartition(":")[2]) <= 65535:
            return text
    raise ValueError(f"{text!r} is not an address: use unix:PATH, tls://HOST:PORT or HOST:PORT")


def socket_candidates(environment: Mapping[str, str], uid: int, home: Path) -> list[Path]:
    """Where a daemon started without ``--listen`` may be found, the likeliest first."""
    if uid == 0:
        return [SYSTEM_SOCKET]
    own = [home / ".local/state/imsd/imsd.sock"]
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        own.insert(0, Path(runtime) / "imsd.sock")
    return [*own, SYSTEM_SOCKET]


def default_address(environment: Mapping[str, str] = os.environ) -> str:
    """``IMSD_ADDRESS``, else the first default socket that exists, else the likeliest one.

    Raises ValueError when ``IMSD_ADDRESS`` is not an address.
    """
    if named := environment.get(ADDRESS_VARIABLE):
        return parse_address(named)
    candidates = socket_candidates(environment, os.geteuid(), Path.home())
    found = next((path for path in candidates if _exists(path)), candidates[0])
    return f"unix:{found}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # a directory on the way is closed to this user
        return False

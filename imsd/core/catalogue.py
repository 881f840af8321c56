"""The catalogue of supported operating systems, as a caller asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import InvalidRequest
from imsd.guest.catalogue.listing import ListedSystem, listed_systems, server_types

from . import checks

MAX_SERVER_TYPE = 64


def systems(architecture: str, server_type: str, *, is_uefi_only: bool) -> Sequence[ListedSystem]:
    """The systems that fit every condition; empty texts fit all. Raises InvalidRequest."""
    checks.text("server_type", server_type, MAX_SERVER_TYPE)
    known = server_types()
    if server_type and server_type.casefold() not in map(str.casefold, known):
        raise InvalidRequest(
            f"no table of supported systems has the server type {server_type!r}",
            field="server_type",
            hint=f"use one of {', '.join(known)}",
        )
    return listed_systems(architecture, server_type, is_uefi_only=is_uefi_only)

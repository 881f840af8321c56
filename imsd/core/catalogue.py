"""The catalogue of supported operating systems, as a caller asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from imsd.contract import InvalidRequest
from imsd.guest.catalogue import supported
from imsd.guest.catalogue.listing import ListedSystem, listed_systems, server_types

from . import checks, limits


def systems(architecture: str, server_type: str, *, is_uefi_only: bool) -> Sequence[ListedSystem]:
    """The systems that fit every condition; empty texts fit all. Raises InvalidRequest."""
    require_server_type(server_type)
    return listed_systems(architecture, server_type, is_uefi_only=is_uefi_only)


def taken_by(server_type: str, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those os_versions with their architecture, which may be empty, that servers of a type take."""
    return [
        (os_version, architecture)
        for os_version, architecture in pairs
        if supported(os_version, server_type, architecture)
    ]


def require_server_type(server_type: str, field: str = "server_type") -> None:
    """Raises InvalidRequest unless it is empty or a table has it."""
    checks.text(field, server_type, limits.MAX_SERVER_TYPE)
    known = server_types()
    if server_type and server_type.casefold() not in map(str.casefold, known):
        raise InvalidRequest(
            f"no table of supported systems has the server type {server_type!r}",
            field=field,
            hint=f"use one of {', '.join(known)}",
        )

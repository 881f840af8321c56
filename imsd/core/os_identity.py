"""The kind, width and platform of an operating system, by its os_version (contract §4.1, §5.2, §9.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imsd.guest.naming import parse_ims_name

LINUX, WINDOWS, OTHER = "linux", "windows", "other"

# The seed writes "Other_Linux (64_bit)", the contract "Other Linux(64 bit)".
_OTHER = re.compile(r"other[ _](linux|windows) ?\((32|64)[ _]bit\)", re.IGNORECASE)

# Of the platforms of the catalogue: all others are Linux.
_OS_TYPES = {"Windows": WINDOWS, "FreeBSD": OTHER}


@dataclass(frozen=True, slots=True)
class OsIdentity:
    """``os_type``: linux, windows, other. ``platform``: as the catalogue calls it, or Other.

    Empty texts and 0: not known.
    """

    os_type: str = ""
    os_bits: int = 0
    platform: str = ""


def identify(os_version: str) -> OsIdentity:
    """What a system is by its name alone; nothing is known of a name that no table has."""
    found = _OTHER.fullmatch(os_version.strip())
    if found:
        return OsIdentity(found.group(1).lower(), int(found.group(2)), "Other")
    system = parse_ims_name(os_version)
    if system is None:
        return OsIdentity()
    return OsIdentity(_OS_TYPES.get(system.family, LINUX), system.bits, system.family)


def identify_with(os_version: str, os_type: str, os_bits: int = 0) -> OsIdentity:
    """`identify`; where the name does not say it, ``os_type`` and ``os_bits``, else another system."""
    named = identify(os_version)
    if named.os_type:
        return named
    if not os_version and not os_type:
        return OsIdentity()
    return OsIdentity(os_type or OTHER, os_bits, "Other")

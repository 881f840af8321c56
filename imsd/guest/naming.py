"""Operating systems as an image management service names them: `CentOS 7.6 64bit`.

The spellings are those of the service's own table of systems that boot with UEFI (6-6) where a family is
in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# Family, as the tables of the catalogue call it → how an os_version is written.
PATTERNS = {
    "CentOS": "CentOS {}",
    "CoreOS": "CoreOS {}",
    "Debian": "Debian GNU/Linux {}",
    "EulerOS": "EulerOS {}",
    "Fedora": "Fedora {}",
    "FreeBSD": "FreeBSD {}",
    "Kylin": "Kylin {}",
    "KylinSec": "KylinSec {}",
    "NeoKylin": "NeoKylin {}",
    "openEuler": "openEuler {}",
    "openSUSE": "openSUSE {}",
    "Oracle Linux": "Oracle Linux Server release {}",
    "Red Hat": "Red Hat Linux Enterprise {}",
    "SUSE Linux Enterprise": "SUSE Linux Enterprise Server {}",
    "Ubuntu": "Ubuntu {} Server",
    "UnionTech": "UOS {}",
    "Windows": "Windows {}",
}
# Other spellings that clients send.
_ALIASES = {
    "redhat linux enterprise": "red hat linux enterprise",
    "red hat enterprise linux": "red hat linux enterprise",
    "redhat": "red hat linux enterprise",
    "debian": "debian gnu/linux",
    "opensuse leap": "opensuse",
}
# The published lists write these without their bits.
_WITHOUT_BITS = frozenset({"CoreOS"})
_BITS = re.compile(r"\s*\(?\b(32|64)[ _-]?bit\)?$", re.IGNORECASE)
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class NamedSystem:
    """A family of the catalogue with a version of it; ``bits``: 32 or 64."""

    family: str
    version: str
    bits: int


def ims_name(system: NamedSystem) -> str:
    """Its os_version."""
    name = PATTERNS[system.family].format(system.version)
    return name if system.family in _WITHOUT_BITS else f"{name} {system.bits}bit"


def other_name(os_type: str, bits: int) -> str:
    """The os_version of a system that is not in the lists; ``os_type``: Linux, Windows or Other."""
    return f"Other_{os_type} ({bits or 64}_bit)" if os_type in ("Linux", "Windows") else ""


@lru_cache(maxsize=1024)
def parse_ims_name(os_version: str) -> NamedSystem | None:
    """The system that an os_version names, in any case and in the spellings in use; None for another."""
    text = " ".join(os_version[:MAX_NAME].split())
    found = _BITS.search(text)
    bits = int(found.group(1)) if found else 64
    text = text[: found.start()] if found else text
    lowered = text.casefold()
    for alias, proper in _ALIASES.items():
        is_longer_already = len(proper) > len(alias) and lowered.startswith(f"{proper} ")
        if lowered.startswith(f"{alias} ") and not is_longer_already:
            text = proper + text[len(alias) :]
            break
    for family, pattern in PATTERNS.items():
        before, _, after = pattern.partition("{}")
        match = re.fullmatch(f"{re.escape(before)}(.+?)(?:{re.escape(after)})?", text, re.IGNORECASE)
        if match and (family != "CentOS" or match.group(1)[0].isdigit()):
            return NamedSystem(family, match.group(1).strip(), bits)
    return None

"""Which FreeBSD a root holds. Source: freebsd-version(1), a script that has it inside."""

from __future__ import annotations

import re

from .file_system import Tree
from .identity import Identity, program_architecture

SCRIPT = "/bin/freebsd-version"
MAX_SCRIPT_BYTES = 64 << 10
_VERSION = re.compile(r"^USERLAND_VERSION=[\"']?((\d+\.\d+)[\w.-]*)", re.MULTILINE)


def identify_freebsd(tree: Tree) -> Identity | None:
    """The FreeBSD in ``tree``, None when it is no root of one. Raises `GuestUnreadable`."""
    match = _VERSION.search(tree.read_text(SCRIPT, MAX_SCRIPT_BYTES) or "")
    if match is None:
        return None
    architecture, program = program_architecture(tree)
    evidence = (f"system: {SCRIPT}", f"architecture: {program}")
    name = f"FreeBSD {match.group(1)}"
    return Identity(
        "Other", "freebsd", name, match.group(1), "FreeBSD", match.group(2), architecture, evidence
    )

"""Which operating system a root holds: the answer that the rules for Linux, Windows and FreeBSD give."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .architecture import Architecture
from .elf import read_elf
from .file_system import FileVolume, Kind, Tree
from .naming import NamedSystem, ims_name, other_name
from .volume import GuestUnreadable

# /bin/sh is everywhere; where it is a link that leads nowhere, another program says the same.
PROGRAMS = (
    "/bin/sh",
    "/usr/bin/env",
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/bin/busybox",
    "/lib/systemd/systemd",
)
# What is longer or has other characters is not the version of anything that is listed.
_LISTED_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z. -]{0,63}")
_LOADER_PLACES = ("/lib64", "/lib", "/usr/lib64", "/usr/lib", "/libexec")


@dataclass(frozen=True, slots=True)
class Identity:
    """``os_type``: Linux, Windows or Other. ``name`` and ``version``: as the system calls itself.

    ``family`` and ``listed_version``: what the catalogue calls it, None and empty where it does not.
    ``evidence``: which files said so.
    """

    os_type: str
    distribution: str
    name: str
    version: str
    family: str | None
    listed_version: str
    architecture: Architecture | None
    evidence: tuple[str, ...]

    @property
    def bits(self) -> int:
        """0 when it is not known."""
        return self.architecture.bits if self.architecture else 0

    @property
    def os_version(self) -> str:
        """As the image service names it; ``Other_Linux (64_bit)`` where it has no name."""
        if self.family and _LISTED_VERSION.fullmatch(self.listed_version):
            return ims_name(NamedSystem(self.family, self.listed_version, self.bits or 64))
        return other_name(self.os_type, self.bits)


def program_architecture(tree: Tree) -> tuple[Architecture | None, str]:
    """What the programs of a Unix root are for, and the path of the one that says so (else empty)."""
    for path in (*PROGRAMS, *_loaders(tree)):
        node = tree.find(path)
        if node is None or node.kind is not Kind.FILE:
            continue
        try:
            return read_elf(FileVolume(tree.file_system, node)).architecture, path
        except GuestUnreadable:
            continue  # a script
    return None, ""


def _loaders(tree: Tree) -> list[str]:
    return [
        f"{place}/{name}"
        for place in _LOADER_PLACES
        for name, _ in tree.list(place)
        if name.startswith(("ld-linux", "ld-musl", "ld-elf", "ld64"))
    ]

"""What the checks of a disk look at: its parts, the root that was found, and what is known of it so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from .boot import BootWays
from .disk import Place
from .file_system import Tree
from .identity import Identity
from .kernels import Kernel, kernels
from .readiness import DriverState
from .signs import LVM_MEMBER

MAX_COMMAND_LINES = 64
MAX_LOADER_BYTES = 1 << 20
# Where boot loaders keep the kernel's command line.
LOADER_FILES = (
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub/grub.conf",
    "/boot/grub/menu.lst",
    "/boot/grub2/grubenv",
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/etc/kernel/cmdline",
)
LOADER_ENTRIES = ("/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries")
_KEYWORDS = ("linux", "linux16", "linuxefi", "kernel", "append", "options")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A kernel's arguments, and the file they stand in."""

    path: str
    arguments: tuple[str, ...]


@dataclass(slots=True)
class Guest:
    """``tree``: of the root, with what it mounts; ``mounts``: what is where in it."""

    tree: Tree
    places: Sequence[Place]
    mounts: Mapping[str, Place]
    identity: Identity
    boot: BootWays
    disk_driver: DriverState | None = None
    network_driver: DriverState | None = None
    _kernels: Sequence[Kernel] | None = None
    _lines: Sequence[CommandLine] | None = field(default=None)

    @property
    def architecture(self) -> str:
        return self.identity.architecture.family if self.identity.architecture else ""

    def kernels(self) -> Sequence[Kernel]:
        """As `kernels.kernels`."""
        if self._kernels is None:
            self._kernels = kernels(self.tree)
        return self._kernels

    def command_lines(self) -> Sequence[CommandLine]:
        """All kernel command lines that boot loaders keep, up to a limit. Raises `GuestUnreadable`."""
        if self._lines is None:
            self._lines = list(islice(_command_lines(self.tree), MAX_COMMAND_LINES))
        return self._lines

    @property
    def has_unread_parts(self) -> bool:
        """Whether some part of the disk may hold a file system that nobody could read."""
        return any(place.problem or _is_sealed(place) for place in self.places)


def _is_sealed(place: Place) -> bool:
    if place.file_system is not None or place.content in ("swap", LVM_MEMBER):
        return False
    return not (place.partition and place.partition.is_bios_boot)


def _command_lines(tree: Tree) -> Iterator[CommandLine]:
    for path in (*LOADER_FILES, *_entries(tree)):
        for line in (tree.read_text(path, MAX_LOADER_BYTES) or "").splitlines():
            arguments = _arguments(path, line)
            if arguments is not None:
                yield CommandLine(path, arguments)


def _arguments(path: str, line: str) -> tuple[str, ...] | None:
    """Those of a kernel that a line has; None when it is about something else."""
    if path.endswith("cmdline"):
        return tuple(line.split())
    if path.endswith("grubenv"):
        return tuple(line.removeprefix("kernelopts=").split()) if line.startswith("kernelopts=") else None
    words = line.split()
    return tuple(words[1:]) if words and words[0].casefold() in _KEYWORDS else None


def _entries(tree: Tree) -> Iterator[str]:
    for place in LOADER_ENTRIES:
        for name, _ in tree.list(place)[:MAX_COMMAND_LINES]:
            if name.endswith(".conf") and "rescue" not in name:
                yield f"{place}/{name}"

"""The guest's tree as it looks when it runs: its root with other file systems mounted into it.

Source of the file: fstab(5). Only what a start needs is mounted: /boot, /boot/efi, /usr, /var and /etc.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from .disk import Place
from .file_system import FileSystem, Kind, Node, Tree
from .kernels import holds_kernels
from .volume import GuestUnreadable, Volume

MAX_FSTAB_ENTRIES = 256
MAX_FSTAB_BYTES = 256 << 10
MAX_LOOKED_UP = 4096
MOUNTED = ("/usr", "/etc", "/var", "/boot", "/boot/efi", "/efi")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FstabEntry:
    """One line. ``device`` as written: ``UUID=…``, ``LABEL=…``, a path."""

    device: str
    path: str
    type: str
    options: tuple[str, ...]


def is_named(place: Place, device: str) -> bool:
    """Whether fstab or a kernel command line may call ``place`` ``device``."""
    key, _, value = device.partition("=")
    by_disk = re.fullmatch(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)", device)
    if by_disk:
        key, value = by_disk.group(1), by_disk.group(2)
    value = value.strip("\"'")
    match key.casefold():
        case "uuid":
            return place.file_system is not None and _same(place.file_system.uuid, value)
        case "label":
            return place.file_system is not None and place.file_system.label == value != ""
        case "partuuid":
            return place.partition is not None and _same(place.partition.uuid, value)
        case "partlabel":
            return place.partition is not None and place.partition.name == value != ""
    return _is_device(place, device)


def _is_device(place: Place, device: str) -> bool:
    if place.partition is not None:
        number = place.partition.number
        return re.fullmatch(rf"/dev/(?:(?:[hsv]|xv)d[a-z]|nvme\d+n1p){number}", device) is not None
    group, _, volume = place.name.partition("/")
    mapped = f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
    return bool(volume) and device in (f"/dev/{place.name}", f"/dev/mapper/{mapped}")


def _same(found: str, named: str) -> bool:
    return found.casefold() == named.casefold() != ""


def read_fstab(tree: Tree) -> list[FstabEntry]:
    """The entries of /etc/fstab; empty when there is none. Raises `GuestUnreadable`."""
    entries = []
    for line in (tree.read_text("/etc/fstab", MAX_FSTAB_BYTES) or "").splitlines():
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        device, path = (_OCTAL.sub(lambda found: chr(int(found.group(1), 8)), text) for text in fields[:2])
        kind = fields[2] if len(fields) > 2 else ""
        options = tuple(fields[3].split(",")) if len(fields) > 3 else ()
        entries.append(FstabEntry(device, path.rstrip("/") or "/", kind, options))
        if len(entries) == MAX_FSTAB_ENTRIES:
            break
    return entries


@dataclass(frozen=True, slots=True)
class _Placed(Node):
    """A node, and the file system it belongs to."""

    home: FileSystem
    inner: Node


class MountedFileSystem(FileSystem):
    """``root`` with others mounted into it."""

    name = "mounted"

    def __init__(self, root: FileSystem) -> None:
        """Raises `GuestUnreadable`."""
        self.label, self.uuid = root.label, root.uuid
        self._root = _place(root, root.root())
        self._mounts: dict[tuple[int, int], _Placed] = {}
        # Rules ask for the same few paths again and again, some in directories of thousands of entries.
        self._looked_up: dict[tuple[int, int, str], _Placed | None] = {}

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        """None: it is put together, never found on a volume."""
        return None

    def mount(self, path: str, file_system: FileSystem) -> bool:
        """Whether there was a directory to mount on. Raises `GuestUnreadable`."""
        point = Tree(self).find(path)
        if not isinstance(point, _Placed) or point.kind is not Kind.DIRECTORY or point == self._root:
            return False
        self._mounts[id(point.home), point.number] = _place(file_system, file_system.root())
        return True

    def root(self) -> Node:
        return self._root

    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        placed = _checked(directory)
        for name, node in placed.home.entries(placed.inner):
            yield name, self._crossed(_place(placed.home, node))

    def lookup(self, directory: Node, name: str) -> Node | None:
        placed = _checked(directory)
        key = (id(placed.home), placed.number, name)
        if key not in self._looked_up:
            node = placed.home.lookup(placed.inner, name)
            if len(self._looked_up) == MAX_LOOKED_UP:
                self._looked_up.clear()
            self._looked_up[key] = None if node is None else _place(placed.home, node)
        found = self._looked_up[key]
        return None if found is None else self._crossed(found)

    def read(self, node: Node, offset: int, length: int) -> bytes:
        placed = _checked(node)
        return placed.home.read(placed.inner, offset, length)

    def link_target(self, node: Node) -> str:
        placed = _checked(node)
        return placed.home.link_target(placed.inner)

    def _crossed(self, placed: _Placed) -> _Placed:
        return self._mounts.get((id(placed.home), placed.number), placed)


def _place(home: FileSystem, node: Node) -> _Placed:
    return _Placed(node.number, node.kind, node.size_bytes, home, node)


def _checked(node: Node) -> _Placed:
    if not isinstance(node, _Placed):
        raise GuestUnreadable("a node of another file system")
    return node


def mounted_tree(root: Place, seen: FileSystem, places: Sequence[Place]) -> tuple[Tree, Mapping[str, Place]]:
    """The guest's tree, and what is mounted where; ``seen``: one of the `FileSystem.roots` on ``root``.

    Raises `GuestUnreadable` when the root cannot be read.
    """
    whole = MountedFileSystem(seen)
    tree = Tree(whole)
    used = {"/": root}
    for entry in sorted(read_fstab(tree), key=lambda each: each.path):
        place = next((each for each in places if is_named(each, entry.device)), None)
        if place is None or place is root:
            continue
        is_mounted = (
            entry.path in MOUNTED and place.file_system and whole.mount(entry.path, place.file_system)
        )
        if is_mounted or entry.path not in MOUNTED:
            used[entry.path] = place
    if "/boot" not in used and not holds_kernels(tree, "/boot"):
        used |= _found_boot(whole, root, places)
    # Systems of one immutable /usr (CoreOS, Flatcar) mount it from the initramfs, without fstab.
    usr = next((each for each in places if each.partition and each.partition.name == "USR-A"), None)
    is_free = usr is not None and usr is not root and "/usr" not in used
    if usr and is_free and usr.file_system and whole.mount("/usr", usr.file_system):
        used["/usr"] = usr
    return tree, used


def _found_boot(whole: MountedFileSystem, root: Place, places: Sequence[Place]) -> dict[str, Place]:
    """Mounts what looks like /boot, where fstab names it in another way (PARTUUID) or not at all."""
    for place in places:
        file_system = None if place is root else place.file_system
        with suppress(GuestUnreadable):  # another one may be it
            if file_system and holds_kernels(Tree(file_system), "/") and whole.mount("/boot", file_system):
                return {"/boot": place}
    return {}

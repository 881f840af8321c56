"""Kernels of a Linux root: their versions, their modules, the initramfs of each.

Sources: the places where distributions install kernels; modules.dep(5); Kconfig's `config-VERSION`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .file_system import Kind, Node, Tree

MAX_MODULE_LIST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 1 << 20
MODULE_PLACES = ("/lib/modules", "/usr/lib/modules")
_IMAGES = re.compile(r"(?:vmlinuz|vmlinux|Image|kernel|bzImage)-(.+?)(?:\.gz|\.efi)?$")
_NOT_FOR_STARTS = re.compile(r"rescue|recovery|kdump|memtest", re.IGNORECASE)
_UNIFIED = ("/boot/EFI/Linux", "/boot/efi/EFI/Linux", "/efi/EFI/Linux")


@dataclass(frozen=True, slots=True)
class Kernel:
    """``version``: as uname -r; empty when only an image without a number is there. ``path`` of its image."""

    version: str
    path: str


def kernels(tree: Tree) -> Sequence[Kernel]:
    """The kernels that may be started, newest first. Raises `GuestUnreadable`."""
    found = {}
    for name, node in tree.list("/boot"):
        match = _IMAGES.match(name)
        if match and node.kind is not Kind.DIRECTORY and not _NOT_FOR_STARTS.search(name):
            found[match.group(1)] = f"/boot/{name}"
    for place in MODULE_PLACES:
        for version, node in tree.list(place):
            path = f"{place}/{version}/vmlinuz"
            if node.kind is Kind.DIRECTORY and version not in found and tree.find(path):
                found[version] = path
    by_age = sorted(found, key=_age, reverse=True)
    return [Kernel(version, found[version]) for version in by_age] or _unnumbered(tree)


def holds_kernels(tree: Tree, directory: str) -> bool:
    """Whether ``directory`` looks like /boot: it has kernels, or unified ones. Raises `GuestUnreadable`."""
    names = [name for name, node in tree.list(directory) if node.kind is not Kind.DIRECTORY]
    unified = [name for name, _ in tree.list(f"{directory}/EFI/Linux")]
    return any(map(_IMAGES.match, names)) or any(name.casefold().endswith(".efi") for name in unified)


def module_directory(tree: Tree, kernel: Kernel) -> str:
    """Where the modules of ``kernel`` are, empty when it has none. Raises `GuestUnreadable`."""
    for place in MODULE_PLACES:
        path = f"{place}/{kernel.version}"
        node = tree.find(path) if kernel.version else None
        if node is not None and node.kind is Kind.DIRECTORY:
            return path
    if kernel.version[:1].isdigit():
        return ""
    for place in MODULE_PLACES:  # vmlinuz-linux, vmlinuz-virt: the directory has the number
        versions = [name for name, node in tree.list(place) if node.kind is Kind.DIRECTORY]
        if versions:
            return f"{place}/{max(versions, key=_age)}"
    return ""


def initramfs_of(tree: Tree, kernel: Kernel) -> tuple[str, Node] | None:
    """Path and node of the initramfs of ``kernel``. Raises `GuestUnreadable`."""
    version = kernel.version
    names = [f"initrd.img-{version}", f"initramfs-{version}.img", f"initrd-{version}", f"initramfs-{version}"]
    paths = [f"/boot/{name}" for name in names]
    if not version:
        paths = ["/boot/initrd.img", "/boot/initrd", "/boot/initramfs.img", "/initrd.img"]
    paths += [f"{place}/{version}/initrd" for place in MODULE_PLACES]
    for path in paths:
        node = tree.find(path)
        if node is not None and node.kind is Kind.FILE and node.size_bytes:
            return path, node
    return None


def built_in(tree: Tree, kernel: Kernel, names: Sequence[str]) -> str:
    """Which of these drivers is part of the kernel's image, and which file says so; empty when none does."""
    path = f"{module_directory(tree, kernel)}/modules.builtin"
    listed = tree.read_file(path, MAX_MODULE_LIST_BYTES) or b""
    for name in names:
        if f"/{name}.ko".encode() in listed:
            return f"{name} is built in: {path}"
    path = f"/boot/config-{kernel.version}"
    config = tree.read_file(path, MAX_CONFIG_BYTES) or b""
    for name in names:
        if f"CONFIG_{name.upper()}=y\n".encode() in config:
            return f"{name} is built in: {path}"
    return ""


def installed_modules(tree: Tree, kernel: Kernel) -> bytes | None:
    """modules.dep of ``kernel``, None when there is none. Raises `GuestUnreadable`."""
    directory = module_directory(tree, kernel)
    return tree.read_file(f"{directory}/modules.dep", MAX_MODULE_LIST_BYTES) if directory else None


def _unnumbered(tree: Tree) -> Sequence[Kernel]:
    """Kernels whose name has no version: in images made by hand, and unified ones."""
    for path in ("/boot/vmlinuz", "/vmlinuz", "/boot/bzImage", "/boot/Image"):
        if tree.find(path):
            return [Kernel("", path)]
    for place in _UNIFIED:
        for name, _ in tree.list(place):
            if name.casefold().endswith(".efi"):
                return [Kernel("", f"{place}/{name}")]
    return []


def _age(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorts 6.1.0-9 before 6.1.0-18."""
    parts = re.findall(r"\d+|[a-z]+", version.casefold())[:32]
    return tuple((part.isdigit(), int(part[:9]) if part.isdigit() else 0, part) for part in parts)

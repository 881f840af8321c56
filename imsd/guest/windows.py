"""Which Windows a root holds, and what its registry says of its drivers and its state.

Sources: Microsoft's documentation of the values below SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion and
SYSTEM\\CurrentControlSet\\Services (Start: 0 boot, 1 system, 2 automatic, 3 on demand, 4 disabled), and
of the states of Windows setup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .architecture import Architecture
from .file_system import FileVolume, Kind, Tree
from .identity import Identity
from .pe import pe_architecture
from .registry import Hive
from .volume import GuestUnreadable

SYSTEM32 = "/Windows/System32"
CURRENT_VERSION = r"Microsoft\Windows NT\CurrentVersion"
FIRST_BUILD_OF_11 = 22_000
MAX_VALUE = 256
_PROGRAMS = ("ntoskrnl.exe", "cmd.exe")
# How Windows says it, how the lists write it.
_SPELLINGS = (
    (r"\(R\)|®|™|\(TM\)", ""),
    (r"^Microsoft ", ""),
    (r" (Evaluation|Eval|Core)$", ""),
    (r"2012 R2 Essentials", "2012 Essentials R2"),
    (r"^(Windows 1[01]) .*", r"\1"),
)


@dataclass(frozen=True, slots=True)
class Driver:
    """``has_file``: in System32\\drivers. ``start``: of its service, None without one."""

    has_file: bool
    start: int | None


def identify_windows(tree: Tree) -> Identity | None:
    """The Windows in ``tree``; None when it is no root of one. Raises `GuestUnreadable`."""
    node = tree.find(f"{SYSTEM32}/config")
    if node is None or node.kind is not Kind.DIRECTORY:
        return None
    architecture, program = _architecture(tree)
    evidence = [f"architecture: {program}"] if program else []
    values: Mapping[str, str] = {}
    try:
        values = _current_version(tree)
    except GuestUnreadable as problem:
        evidence.append(f"registry unreadable: {problem}")
    product, build = values.get("ProductName", ""), values.get("CurrentBuildNumber", "")
    name = _mended(product, build)
    if product:
        evidence.append(f"system: registry, build {build}, {values.get('InstallationType', 'no type')}")
    listed = _listed(name)
    family = "Windows" if listed else None
    return Identity("Windows", "windows", name, build, family, listed, architecture, tuple(evidence))


def open_hive(tree: Tree, name: str) -> Hive | None:
    """A hive of the system such as SYSTEM; None when it is not there. Raises `GuestUnreadable`."""
    node = tree.find(f"{SYSTEM32}/config/{name}")
    if node is None or node.kind is not Kind.FILE:
        return None
    return Hive(FileVolume(tree.file_system, node))


def drivers(tree: Tree, names: tuple[str, ...]) -> dict[str, Driver]:
    """What is there of each driver. Raises `GuestUnreadable`."""
    hive = open_hive(tree, "SYSTEM")
    control_set = hive.control_set() if hive else None
    services = control_set.subkey("Services") if control_set else None
    found = {}
    for name in names:
        service = services.subkey(name) if services else None
        start = service.value("Start") if service else None
        has_file = tree.find(f"{SYSTEM32}/drivers/{name}.sys") is not None
        found[name] = Driver(has_file, start.number() if start else None)
    return found


def _current_version(tree: Tree) -> Mapping[str, str]:
    hive = open_hive(tree, "SOFTWARE")
    key = hive.key(CURRENT_VERSION) if hive else None
    if key is None:
        return {}
    values = {}
    for name in ("ProductName", "EditionID", "CurrentBuildNumber", "InstallationType"):
        value = key.value(name)
        text = value.text() if value else None
        if text:
            values[name] = text[:MAX_VALUE]
    return values


def _mended(product: str, build: str) -> str:
    """Windows 11 still calls itself 10 in its registry."""
    is_11 = build.isdecimal() and int(build[:9]) >= FIRST_BUILD_OF_11
    return product.replace("Windows 10", "Windows 11", 1) if is_11 else product


def _listed(name: str) -> str:
    """``Server 2019 Datacenter`` of ``Windows Server 2019 Datacenter Evaluation``; else empty."""
    for pattern, replacement in _SPELLINGS:
        name = re.sub(pattern, replacement, name).strip()
    return name.removeprefix("Windows ") if name.startswith("Windows ") else ""


def _architecture(tree: Tree) -> tuple[Architecture | None, str]:
    for program in _PROGRAMS:
        path = f"{SYSTEM32}/{program}"
        node = tree.find(path)
        if node is None or node.kind is not Kind.FILE:
            continue
        try:
            return pe_architecture(FileVolume(tree.file_system, node)), path
        except GuestUnreadable:
            continue
    return None, ""

"""Looks at a disk: which system is on it, how it can be started, and what speaks against that.

Whatever is on the disk, `inspect` gives a report: what is damaged becomes a finding, and when the budget
ends, so does the inspection, with what it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .boot import BootWays, boot_ways
from .budget import BudgetExhausted
from .codes import ReportFinding, Severity, finding
from .disk import DiskLayout, Place, read_layout
from .file_system import Tree
from .freebsd import identify_freebsd
from .guest import Guest
from .identity import Identity
from .linux import identify_linux
from .mounts import is_named, mounted_tree, read_fstab
from .preflight import checks_for
from .readiness import (
    DriverState,
    has_guest_agent,
    is_cloud_init_ready,
    linux_disk_drivers,
    linux_network_driver,
    windows_disk_drivers,
    windows_network_driver,
)
from .report import GuestReport, PartitionSummary, Readiness, bounded
from .volume import GuestUnreadable, Volume
from .windows import identify_windows

T = TypeVar("T")
_ORDER = (Severity.BLOCKS_BOOT, Severity.MAY_BLOCK_BOOT, Severity.ADVICE)
IDENTIFY = (identify_windows, identify_freebsd, identify_linux)


@dataclass(slots=True)
class _Root:
    """A root that was found: of a system, on a place, from a directory on."""

    place: Place
    tree: Tree
    mounts: dict[str, Place]
    identity: Identity

    def rank(self) -> tuple[bool, bool, bool, int]:
        """Greater is likelier: a system that is known, on the place its own fstab names, the larger one."""
        is_named_by_itself = any(
            entry.path == "/" and is_named(self.place, entry.device) for entry in read_fstab(self.tree)
        )
        is_whole = self.identity.architecture is not None
        size = self.place.volume.size_bytes if self.place.volume else 0
        return bool(self.identity.distribution), is_whole, is_named_by_itself, size


@dataclass(slots=True)
class _Draft:
    """A report in the making: at any moment what is known so far."""

    findings: list[ReportFinding] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    layout: DiskLayout | None = None
    ways: BootWays | None = None
    guest: Guest | None = None
    has_cloud_init: bool = False
    has_guest_agent: bool = False

    def add(self, code: str, text: str) -> None:
        self.findings.append(finding(code, text))

    def attempt(self, what: str, function: Callable[[], T]) -> T | None:
        """What ``function`` gives; None and a finding when the disk does not let it."""
        try:
            return function()
        except MemoryError:
            raise
        except GuestUnreadable as problem:
            self.add("GUEST_UNREADABLE", f"{what}: {problem}")
        except Exception as error:
            # A reader that trips over damage it did not foresee is no reason to know nothing of the disk.
            self.add(
                "GUEST_UNREADABLE",
                f"{what}: damaged in a way that is not understood ({type(error).__name__})",
            )
        return None

    def report(self) -> GuestReport:
        identity = self.guest.identity if self.guest else None
        architecture = self.guest.architecture if self.guest else ""
        return GuestReport(
            is_inspected=True,
            is_verified=identity is not None,
            os_type=identity.os_type if identity else "",
            distribution=identity.distribution if identity else "",
            name=identity.name if identity else "",
            version=identity.version if identity else "",
            os_version=identity.os_version if identity else "",
            bits=identity.bits if identity else 0,
            architecture=architecture,
            boot_modes=self.ways.modes() if self.ways else (),
            default_boot_mode=self.ways.default_mode(architecture) if self.ways else None,
            has_cloud_init=self.has_cloud_init,
            has_guest_agent=self.has_guest_agent,
            virtio_disk=_readiness(self.guest.disk_driver if self.guest else None),
            virtio_network=_readiness(self.guest.network_driver if self.guest else None),
            partitions=tuple(_summaries(self.layout, self.guest)),
            findings=tuple(sorted(self.findings, key=lambda each: _ORDER.index(each.severity))),
            evidence=tuple(self.evidence),
        )


def inspect(disk: Volume) -> GuestReport:
    """What is on ``disk``. Raises nothing, whatever its content and its budget."""
    draft = _Draft()
    try:
        _fill(draft, disk)
    except BudgetExhausted as reason:
        draft.add("GUEST_PARTLY_INSPECTED", f"the inspection ended early: {reason}")
    except MemoryError:
        draft.add("GUEST_PARTLY_INSPECTED", "the inspection ended early: it needed too much memory")
    return bounded(draft.report())


def _fill(draft: _Draft, disk: Volume) -> None:
    layout = draft.attempt("the layout of the disk", lambda: read_layout(disk))
    if layout is None:
        return
    draft.layout = layout
    draft.findings += layout.findings
    draft.ways = draft.attempt("what starts the disk", lambda: boot_ways(disk, layout))
    _take_notices(draft, layout)
    root = _choose_root(draft, layout)
    if root is None or draft.ways is None:
        draft.add("GUEST_NO_SYSTEM", "no root of an operating system was found")
        return
    guest = Guest(root.tree, layout.places, root.mounts, root.identity, draft.ways)
    draft.guest = guest
    draft.evidence += [f"root: {root.place.name}", *root.identity.evidence]
    if not root.identity.distribution:
        draft.add("GUEST_SYSTEM_UNKNOWN", "there is a root, but nothing in it says which system it is")
    _look_at_readiness(draft, guest)
    for check in checks_for(root.identity.os_type):
        name = check.__name__.strip("_").replace("_", " ")
        draft.findings += draft.attempt(name, lambda check=check: list(check(guest))) or []  # type: ignore[misc]


def _take_notices(draft: _Draft, layout: DiskLayout) -> None:
    """What file systems say of themselves; NTFS has findings of its own."""
    for place in layout.places:
        if place.file_system is not None and place.file_system.name != "ntfs":
            for sentence in place.file_system.noticed:
                draft.add("FILE_SYSTEM_NOT_CLEAN", f"{place.name}: {sentence}")


def _choose_root(draft: _Draft, layout: DiskLayout) -> _Root | None:
    roots = []
    for place in layout.places:
        if place.file_system is None or (place.partition and place.partition.is_esp):
            continue
        root = draft.attempt(f"the root on {place.name}", lambda place=place: _root_on(place, layout.places))  # type: ignore[misc]
        if root is not None:
            roots.append(root)
    if not roots:
        return None
    ranks = [draft.attempt("fstab", root.rank) or (False, False, False, 0) for root in roots]
    best = roots[ranks.index(max(ranks))]
    parts = {id(place) for place in best.mounts.values()}  # a /usr of its own looks like a root too
    known = [root for root, rank in zip(roots, ranks, strict=True) if rank[0] and id(root.place) not in parts]
    if known:
        told = ", ".join(f"{root.identity.name} on {root.place.name}" for root in known[:8])
        draft.add("GUEST_SEVERAL_SYSTEMS", f"beside {best.identity.name} there is {told}")
    return best


def _root_on(place: Place, places: Sequence[Place]) -> _Root | None:
    for seen in place.file_system.roots() if place.file_system else ():
        tree, mounts = mounted_tree(place, seen, places)
        for identify in IDENTIFY:
            identity = identify(tree)
            if identity is not None:
                return _Root(place, tree, dict(mounts), identity)
    return None


def _look_at_readiness(draft: _Draft, guest: Guest) -> None:
    tree = guest.tree
    draft.has_cloud_init = bool(draft.attempt("cloud-init", lambda: is_cloud_init_ready(tree)))
    draft.has_guest_agent = bool(draft.attempt("the guest agent", lambda: has_guest_agent(tree)))
    judges = _judges(draft, guest)
    if judges is None:
        return
    guest.disk_driver = draft.attempt("drivers for virtio disks", judges[0])
    guest.network_driver = draft.attempt("drivers for virtio networks", judges[1])
    states = (guest.disk_driver, guest.network_driver)
    draft.evidence += [f"virtio: {state.evidence}" for state in states if state]


def _judges(
    draft: _Draft, guest: Guest
) -> tuple[Callable[[], DriverState], Callable[[], DriverState]] | None:
    tree = guest.tree
    if guest.identity.os_type == "Windows":
        return (lambda: windows_disk_drivers(tree)), (lambda: windows_network_driver(tree))
    kernels = draft.attempt("kernels", guest.kernels) if guest.identity.os_type == "Linux" else None
    if not kernels:
        return None
    newest = kernels[0]
    draft.evidence.append(f"kernel: {newest.path}")
    return (lambda: linux_disk_drivers(tree, newest)), (lambda: linux_network_driver(tree, newest))


def _readiness(state: DriverState | None) -> Readiness:
    return state.readiness if state else Readiness.UNKNOWN


def _summaries(layout: DiskLayout | None, guest: Guest | None) -> Iterator[PartitionSummary]:
    for place in layout.places if layout else ():
        paths = [path for path, mounted in guest.mounts.items() if mounted is place] if guest else []
        partition = place.partition
        yield PartitionSummary(
            number=partition.number if partition else 0,
            name=partition.name if partition else place.name,
            size_bytes=partition.length if partition else place.volume.size_bytes if place.volume else 0,
            type=partition.type if partition else "",
            file_system=place.file_system.name if place.file_system else place.content,
            label=place.file_system.label if place.file_system else "",
            used_as=", ".join(paths) or _purpose(place),
        )


def _purpose(place: Place) -> str:
    if place.partition and place.partition.is_esp:
        return "EFI system partition"
    if place.partition and place.partition.is_bios_boot:
        return "BIOS boot"
    return "swap" if place.content == "swap" else ""

"""In which modes a disk can be started: BIOS, UEFI, both.

Sources: UEFI 2.10, 3.5.1.1 (the path of the loader that firmware starts without a boot entry); El Torito
1.0 and UEFI 13.3.2.1 for optical discs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from .disk import BootFacts, DiskLayout
from .file_system import FileSystem, Kind, Tree
from .iso9660 import Iso9660FileSystem
from .iso9660_layout import PLATFORM_EFI, PLATFORM_X86
from .report import BootMode
from .volume import GuestUnreadable, Volume

# Name of the fallback loader by the processor that runs it.
FALLBACK_LOADERS = {
    "bootx64.efi": "x86",
    "bootia32.efi": "x86",
    "bootaa64.efi": "arm",
    "bootarm.efi": "arm",
}
MAX_VENDORS = 64
BOOT_CODE_BYTES = 440


@dataclass(frozen=True, slots=True)
class BootWays:
    """What of a disk can be started, and by which firmware.

    ``is_code_complete``: the boot code finds its way without an active partition; ``disc_platforms``: of
    the bootable El Torito entries of an optical disc, None for another disk.
    """

    facts: BootFacts
    is_code_complete: bool = False
    fallback_loaders: tuple[str, ...] = ()
    vendor_loaders: tuple[str, ...] = ()
    disc_platforms: frozenset[int] | None = None

    @property
    def is_disc(self) -> bool:
        return self.disc_platforms is not None

    def modes(self) -> tuple[BootMode, ...]:
        """What the disk can be started with."""
        found = []
        if self._starts_with_bios():
            found.append(BootMode.BIOS)
        if self.fallback_loaders or self.vendor_loaders or PLATFORM_EFI in (self.disc_platforms or ()):
            found.append(BootMode.UEFI)
        return tuple(found)

    def default_mode(self, architecture: str) -> BootMode | None:
        """UEFI on arm; BIOS where a disk can do both; None for a disk that cannot be started."""
        modes = self.modes()
        if not modes:
            return None
        return BootMode.UEFI if architecture == "arm" else modes[0]

    def _starts_with_bios(self) -> bool:
        if PLATFORM_X86 in (self.disc_platforms or ()):
            return True
        has_way = self.is_code_complete or self.facts.has_active_partition or self.facts.has_bios_boot
        return self.facts.has_boot_code and has_way


def boot_ways(disk: Volume, layout: DiskLayout) -> BootWays:
    """Loaders that cannot be read are not there. Raises `GuestUnreadable` when the disk gives no bytes."""
    fallback: list[str] = []
    vendor: list[str] = []
    for place in layout.places:
        if place.file_system is None or not (place.partition and place.partition.is_esp):
            continue
        with suppress(GuestUnreadable):
            found = efi_loaders(place.file_system)
            fallback += found[0]
            vendor += found[1]
    disc = next(
        (each.file_system for each in layout.places if isinstance(each.file_system, Iso9660FileSystem)), None
    )
    code = disk.read(0, min(BOOT_CODE_BYTES, disk.size_bytes))
    return BootWays(
        facts=layout.boot,
        is_code_complete=b"GRUB" in code or layout.table_kind == "none",
        fallback_loaders=tuple(fallback),
        vendor_loaders=tuple(vendor),
        disc_platforms=None
        if disc is None
        else frozenset(e.platform for e in disc.boot_entries if e.is_bootable),
    )


def efi_loaders(file_system: FileSystem) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of the fallback loaders and of other loaders. Raises `GuestUnreadable`."""
    tree = Tree(file_system)
    fallback, vendor = [], []
    for path in _programs(tree):
        name = path.rpartition("/")[2].casefold()
        if path.casefold().startswith("/efi/boot/"):
            if name in FALLBACK_LOADERS:
                fallback.append(path)
        elif not name.startswith(("mm", "fb", "memtest")):  # shim's companions start nothing themselves
            vendor.append(path)
    return tuple(fallback), tuple(vendor)


def _programs(tree: Tree) -> Iterator[str]:
    """The .efi files in the directories of \\EFI, where loaders are installed, and Windows' one below."""
    efi = next((name for name, _ in tree.list("/") if name.casefold() == "efi"), None)
    for vendor, node in tree.list(f"/{efi}")[:MAX_VENDORS] if efi else ():
        if node.kind is Kind.DIRECTORY:
            yield from _files(tree, f"/{efi}/{vendor}", ".efi")
            yield from _files(tree, f"/{efi}/{vendor}/Boot", "bootmgfw.efi")


def _files(tree: Tree, directory: str, ending: str) -> Iterator[str]:
    for name, node in tree.list(directory):
        if node.kind is Kind.FILE and name.casefold().endswith(ending):
            yield f"{directory}/{name}"

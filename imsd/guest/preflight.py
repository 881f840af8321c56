"""The boot preflight: checks that tell, before a disk is used, why it might not start or not be reachable.

Every check is a function of the guest that gives findings; which of them run depends on the system. See
the table of findings in this package's README.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import preflight_linux
from .boot import FALLBACK_LOADERS
from .catalogue import supported, uefi_supported
from .codes import ReportFinding, finding
from .guest import Guest
from .readiness import has_cloud_init, has_guest_agent
from .report import BootMode, GuestReport
from .windows import open_hive

Check = Callable[[Guest], Iterator[ReportFinding]]

GENERALIZED = "IMAGE_STATE_GENERALIZE"
_STATE_KEY = r"Microsoft\Windows\CurrentVersion\Setup\State"


def checks_for(os_type: str) -> Sequence[Check]:
    """The checks of a system; ``os_type``: Linux, Windows or Other."""
    match os_type:
        case "Linux":
            return (check_loader, *preflight_linux.CHECKS, check_agent, check_listed)
        case "Windows":
            return (check_loader, preflight_linux.check_drivers, *_WINDOWS, check_agent, check_listed)
    return (check_loader, check_listed)


def check_loader(guest: Guest) -> Iterator[ReportFinding]:
    modes = guest.boot.modes()
    fitting = {
        name
        for name, family in FALLBACK_LOADERS.items()
        if family == guest.architecture or not guest.architecture
    }
    found = {path.rpartition("/")[2].casefold() for path in guest.boot.fallback_loaders}
    if not modes:
        yield finding("BOOT_NO_LOADER", _why_no_loader(guest))
    elif modes == (BootMode.BIOS,) and guest.architecture == "arm":
        yield finding(
            "BOOT_NO_LOADER", "machines of this processor start with UEFI, and the disk has no loader for it"
        )
    elif BootMode.UEFI in modes and not guest.boot.is_disc and not found & fitting:
        loaders = ", ".join(guest.boot.vendor_loaders[:4]) or ", ".join(sorted(found))
        yield finding("BOOT_NO_FALLBACK_LOADER", f"the disk can be started by {loaders} only")


def check_boot_mode(report: GuestReport, chosen: BootMode) -> Sequence[ReportFinding]:
    """What speaks against starting the disk in the mode that was chosen for it."""
    if not report.boot_modes or chosen in report.boot_modes:
        return ()
    found = " and ".join(mode.value for mode in report.boot_modes)
    text = f"its boot mode is {chosen.value}, but the disk can only be started with {found}"
    return (finding("BOOT_MODE_MISMATCH", text),)


def check_agent(guest: Guest) -> Iterator[ReportFinding]:
    if not has_guest_agent(guest.tree):
        yield finding("GUEST_AGENT_MISSING", "the QEMU guest agent is not installed")


def check_listed(guest: Guest) -> Iterator[ReportFinding]:
    identity = guest.identity
    name = identity.os_version
    if identity.bits == 32:
        yield finding("GUEST_32_BIT", "a 32-bit system uses at most 4 GiB of memory")
    if not supported(name, architecture=guest.architecture) and not uefi_supported(name):
        yield finding("GUEST_NOT_LISTED", f"{name or 'this system'} is in no table of supported systems")


def _check_shutdown(guest: Guest) -> Iterator[ReportFinding]:
    for place in guest.places:
        if place.file_system is None or place.file_system.name != "ntfs":
            continue
        for sentence in place.file_system.noticed:
            code = "WINDOWS_HIBERNATED" if "hibernated" in sentence else "WINDOWS_DIRTY"
            yield finding(code, sentence)


def _check_sysprep(guest: Guest) -> Iterator[ReportFinding]:
    hive = open_hive(guest.tree, "SOFTWARE")
    key = hive.key(_STATE_KEY) if hive else None
    value = key.value("ImageState") if key else None
    state = (value.text() if value else None) or ""
    if state and not state.startswith(GENERALIZED):
        yield finding("WINDOWS_NOT_SYSPREPPED", f"the state of Windows setup is {state}")


def _check_cloudbase(guest: Guest) -> Iterator[ReportFinding]:
    if not has_cloud_init(guest.tree):
        yield finding("CLOUD_INIT_MISSING", "cloudbase-init is not installed")


_WINDOWS: Sequence[Check] = (_check_shutdown, _check_sysprep, _check_cloudbase)


def _why_no_loader(guest: Guest) -> str:
    boot = guest.boot
    if boot.is_disc:
        return "the disc has no bootable entry"
    uefi = (
        "its EFI system partition has no loader" if boot.facts.has_esp else "it has no EFI system partition"
    )
    bios = (
        "it has no boot code"
        if not boot.facts.has_boot_code
        else "its boot code has no partition to go on with"
    )
    return f"the disk cannot be started: {bios}, and {uefi}"

"""Checks of a Linux root: what it mounts, what it starts, what it kept of one machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .codes import ReportFinding, finding
from .guest import Guest
from .kernels import initramfs_of
from .mounts import FstabEntry, is_named, read_fstab
from .network import connects_by_itself, network_facts
from .readiness import has_cloud_init, is_cloud_init_ready, why_cloud_init_is_off
from .report import Readiness

_DEVICE = re.compile(r"/dev/(?:(?:sd|hd|vd|xvd)[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?)$")
_UUID = re.compile(r"(?:(?:PART)?UUID=|/dev/disk/by-(?:part)?uuid/)[\"']?([0-9A-Fa-f-]{4,36})[\"']?$")
_NETWORK_DISABLED = re.compile(r"^network:\s{0,9}\{?\s{0,9}config:\s{0,9}disabled", re.MULTILINE)
_KEYS_KEPT = re.compile(r"^ssh_deletekeys:[ \t]{0,9}(?:false|no|off|0)\b", re.MULTILINE | re.IGNORECASE)
_NOT_MOUNTED = ("noauto", "nofail")
_WITHOUT_DEVICE = ("swap", "none", "")
MAX_TOLD = 8
MAX_SETTINGS = 64
MAX_SETTINGS_BYTES = 64 << 10


def check_fstab(guest: Guest) -> Iterator[ReportFinding]:
    entries = [each for each in read_fstab(guest.tree) if not set(each.options) & set(_NOT_MOUNTED)]
    named = [each.device for each in entries if _DEVICE.match(each.device)]
    if named:
        yield finding(
            "FSTAB_BY_DEVICE_NAME",
            f"/etc/fstab names {_told(named)}, which another machine may call otherwise",
        )
    missing = [each.device for each in entries if _is_missing(guest, each)]
    if missing:
        yield finding("FSTAB_UNKNOWN_UUID", f"/etc/fstab wants {_told(missing)}, which is not on this disk")


def check_kernel(guest: Guest) -> Iterator[ReportFinding]:
    kernels = guest.kernels()
    if not kernels and _lacks_boot(guest):
        yield finding("GUEST_UNREADABLE", "no kernel was found: /boot is on a part that is not on this disk")
        return
    if not kernels:
        yield finding("BOOT_NO_KERNEL", "no kernel was found in /boot and /lib/modules")
        return
    kernel = kernels[0]
    needs_none = kernel.path.casefold().endswith(".efi") or _starts_without_initramfs(guest)
    if not needs_none and initramfs_of(guest.tree, kernel) is None:
        yield finding("BOOT_NO_INITRAMFS", f"the kernel {kernel.path} has no initramfs")


def _lacks_boot(guest: Guest) -> bool:
    is_named = any(entry.path == "/boot" for entry in read_fstab(guest.tree))
    return is_named and "/boot" not in guest.mounts


def _starts_without_initramfs(guest: Guest) -> bool:
    """Whether the kernel has its driver built in, and is not asked for a UUID, which it cannot look for."""
    roots = [each for line in guest.command_lines() for each in line.arguments if each.startswith("root=")]
    is_ready = guest.disk_driver is not None and guest.disk_driver.readiness is Readiness.READY
    return (
        is_ready and bool(roots) and not any(each.startswith(("root=UUID=", "root=LABEL=")) for each in roots)
    )


def check_drivers(guest: Guest) -> Iterator[ReportFinding]:
    disk, network = guest.disk_driver, guest.network_driver
    if disk and disk.readiness is Readiness.MISSING:
        yield finding("VIRTIO_DISK_MISSING", disk.evidence)
    if disk and disk.readiness is Readiness.UNKNOWN:
        yield finding("VIRTIO_DISK_UNKNOWN", disk.evidence)
    if network and network.readiness is Readiness.MISSING:
        yield finding("VIRTIO_NETWORK_MISSING", network.evidence)


def check_command_line(guest: Guest) -> Iterator[ReportFinding]:
    lines = guest.command_lines()
    roots = {
        argument.removeprefix("root="): line.path
        for line in lines
        for argument in line.arguments
        if argument.startswith("root=")
    }
    named = [root for root in roots if _DEVICE.match(root)]
    if named:
        yield finding("BOOT_ROOT_BY_DEVICE_NAME", f"{roots[named[0]]} says root={_told(named)}")
    missing = [root for root in roots if not guest.has_unread_parts and _is_unknown_uuid(guest, root)]
    if missing:
        yield finding(
            "BOOT_ROOT_UNKNOWN_UUID",
            f"{roots[missing[0]]} says root={_told(missing)}, which is not on this disk",
        )
    serial = "ttyAMA" if guest.architecture == "arm" else "ttyS"
    if lines and not any(each.startswith(f"console={serial}") for line in lines for each in line.arguments):
        yield finding("SERIAL_CONSOLE_MISSING", f"no kernel command line has console={serial}0")


def check_network(guest: Guest) -> Iterator[ReportFinding]:
    tree = guest.tree
    is_set_up_anew = _is_set_up_by_cloud_init(guest)
    facts = network_facts(tree, is_written_anew=is_set_up_anew)
    if facts.fixed_mac:
        yield finding("NETWORK_FIXED_MAC", f"{_told(facts.fixed_mac)} names a MAC address")
    if facts.static and not facts.dhcp:
        yield finding(
            "NETWORK_STATIC_ADDRESS", f"{_told(facts.static)} sets an address, and nothing asks for one"
        )
    elif not facts.dhcp and not is_set_up_anew and not connects_by_itself(tree):
        yield finding(
            "NETWORK_NO_DHCP", "no configuration of an interface that asks for an address was found"
        )


def check_cloud_init(guest: Guest) -> Iterator[ReportFinding]:
    if not has_cloud_init(guest.tree):
        yield finding("CLOUD_INIT_MISSING", "cloud-init is not installed")
    elif reason := why_cloud_init_is_off(guest.tree):
        yield finding("CLOUD_INIT_DISABLED", f"cloud-init is not started: {reason}")


def check_leftovers(guest: Guest) -> Iterator[ReportFinding]:
    tree = guest.tree
    machine_id = (tree.read_text("/etc/machine-id", 64) or "").strip()
    if machine_id not in ("", "uninitialized"):
        yield finding("MACHINE_ID_SET", "/etc/machine-id is not empty: all clones would be the same machine")
    keys = [name for name, _ in tree.list("/etc/ssh") if re.fullmatch(r"ssh_host_\w+_key", name)]
    if keys and not _renews_host_keys(guest):
        yield finding("SSH_HOST_KEYS_PRESENT", f"/etc/ssh has {_told(sorted(keys))}")


def _is_set_up_by_cloud_init(guest: Guest) -> bool:
    return is_cloud_init_ready(guest.tree) and not _leaves_network_alone(guest)


def _leaves_network_alone(guest: Guest) -> bool:
    return any(_NETWORK_DISABLED.search(text) for text in _cloud_init_settings(guest))


def _renews_host_keys(guest: Guest) -> bool:
    """Whether cloud-init makes new ones for each new server, as it does unless it is told not to."""
    return is_cloud_init_ready(guest.tree) and not any(
        _KEYS_KEPT.search(text) for text in _cloud_init_settings(guest)
    )


def _cloud_init_settings(guest: Guest) -> Iterator[str]:
    place = "/etc/cloud/cloud.cfg.d"
    names = [f"{place}/{name}" for name, _ in guest.tree.list(place)[:MAX_SETTINGS]]
    for path in ("/etc/cloud/cloud.cfg", *names):
        yield guest.tree.read_text(path, MAX_SETTINGS_BYTES) or ""


def _is_missing(guest: Guest, entry: FstabEntry) -> bool:
    """Swap is not looked at: what is swap here has no file system whose UUID is known."""
    if entry.type in _WITHOUT_DEVICE or guest.has_unread_parts:
        return False
    return _is_unknown_uuid(guest, entry.device)


def _is_unknown_uuid(guest: Guest, device: str) -> bool:
    return _UUID.match(device) is not None and not any(is_named(place, device) for place in guest.places)


def _told(names: list[str]) -> str:
    more = f" and {len(names) - MAX_TOLD} more" if len(names) > MAX_TOLD else ""
    return ", ".join(names[:MAX_TOLD]) + more


CHECKS = (
    check_kernel,
    check_drivers,
    check_fstab,
    check_command_line,
    check_network,
    check_cloud_init,
    check_leftovers,
)

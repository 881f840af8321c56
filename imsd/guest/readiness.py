"""Whether a guest is ready for virtio hardware, and for being set up by cloud-init and watched by an agent.

An initramfs is large, so cheap evidence comes first: what the kernel has built in, which modules there
are at all, how the initramfs was configured. Only when that does not decide is it unpacked, for the names
in it. Sources: initramfs.conf(5), dracut.conf(5), mkinitcpio.conf(5); SUSE's /etc/sysconfig/kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .file_system import FileVolume, Kind, Node, Tree
from .initramfs import InitramfsUnknown, is_initramfs, modules
from .kernels import Kernel, built_in, initramfs_of, installed_modules
from .os_release import parse_assignments
from .report import Readiness
from .volume import GuestUnreadable
from .windows import Driver, drivers

DISK_DRIVERS = ("virtio_blk", "virtio_scsi")
NETWORK_DRIVER = "virtio_net"
WINDOWS_DISK_DRIVERS = ("viostor", "vioscsi")
WINDOWS_NETWORK_DRIVER = "netkvm"
STARTED_AT_BOOT = 0
DISABLED = 4
MAX_CONF_FILES = 64
MAX_CONF_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class DriverState:
    """``evidence``: what the answer rests on."""

    readiness: Readiness
    evidence: str


def linux_disk_drivers(tree: Tree, kernel: Kernel) -> DriverState:
    """Whether ``kernel`` finds a virtio disk when it starts. Raises `GuestUnreadable`."""
    built = built_in(tree, kernel, DISK_DRIVERS)
    if built:
        return DriverState(Readiness.READY, built)
    listed = installed_modules(tree, kernel)
    if listed is not None and not any(_has_module(listed, name) for name in DISK_DRIVERS):
        return DriverState(Readiness.MISSING, f"no module {' or '.join(DISK_DRIVERS)} for {kernel.version}")
    found = initramfs_of(tree, kernel)
    if found is None:
        return DriverState(Readiness.MISSING, f"no initramfs for {kernel.version or kernel.path}")
    path, node = found
    if not is_initramfs(tree.file_system.read(node, 0, 6)):
        return DriverState(Readiness.UNKNOWN, f"{path} is no initramfs that is known here")
    configured = _configured(tree) if listed is not None else ""
    if configured:
        return DriverState(Readiness.READY, f"{path} holds virtio drivers: {configured}")
    return _scanned(tree, path, node)


def linux_network_driver(tree: Tree, kernel: Kernel) -> DriverState:
    """Whether ``kernel`` has a driver for virtio networks. Raises `GuestUnreadable`."""
    built = built_in(tree, kernel, (NETWORK_DRIVER,))
    if built:
        return DriverState(Readiness.READY, built)
    listed = installed_modules(tree, kernel)
    if listed is None:
        return DriverState(Readiness.UNKNOWN, f"no list of modules for {kernel.version or kernel.path}")
    if _has_module(listed, NETWORK_DRIVER):
        return DriverState(Readiness.READY, f"{NETWORK_DRIVER} is a module of {kernel.version}")
    return DriverState(Readiness.MISSING, f"no module {NETWORK_DRIVER} for {kernel.version}")


def windows_disk_drivers(tree: Tree) -> DriverState:
    """Whether Windows finds a virtio disk when it starts. Raises `GuestUnreadable`."""
    found = drivers(tree, WINDOWS_DISK_DRIVERS)
    for name, driver in found.items():
        if driver.has_file and driver.start == STARTED_AT_BOOT:
            return DriverState(Readiness.READY, f"{name}.sys is there, its service starts at boot")
    return DriverState(Readiness.MISSING, "; ".join(_told(name, driver) for name, driver in found.items()))


def windows_network_driver(tree: Tree) -> DriverState:
    """Whether Windows has a driver for virtio networks. Raises `GuestUnreadable`."""
    driver = drivers(tree, (WINDOWS_NETWORK_DRIVER,))[WINDOWS_NETWORK_DRIVER]
    is_ready = driver.has_file and driver.start is not None and driver.start < DISABLED
    readiness = Readiness.READY if is_ready else Readiness.MISSING
    return DriverState(readiness, _told(WINDOWS_NETWORK_DRIVER, driver))


def has_cloud_init(tree: Tree) -> bool:
    """Whether cloud-init (on Windows cloudbase-init) is installed. Raises `GuestUnreadable`."""
    return any(
        tree.find(path) for path in ("/etc/cloud/cloud.cfg", "/usr/local/etc/cloud/cloud.cfg", *_CLOUDBASE)
    )


def why_cloud_init_is_off(tree: Tree) -> str:
    """What keeps cloud-init from being started; empty when nothing does. Raises `GuestUnreadable`."""
    if tree.find(_CLOUD_INIT_SWITCH) is not None:
        return f"{_CLOUD_INIT_SWITCH} is there"
    own_units = tree.list(_OWN_UNITS)
    for name, node in own_units:
        is_mask = node.kind is Kind.LINK and tree.file_system.link_target(node) == "/dev/null"
        if is_mask and name in _CLOUD_INIT_UNITS:
            return f"{_OWN_UNITS}/{name} masks it"
    has_units = any(tree.find(f"{place}/cloud-init.target") for place in _UNIT_PLACES)
    return "none of its services is enabled" if has_units and not _is_cloud_init_enabled(tree) else ""


def is_cloud_init_ready(tree: Tree) -> bool:
    """Whether cloud-init is installed and started. Raises `GuestUnreadable`."""
    return has_cloud_init(tree) and not why_cloud_init_is_off(tree)


def has_guest_agent(tree: Tree) -> bool:
    """Whether the QEMU guest agent is installed. Raises `GuestUnreadable`."""
    return any(tree.find(path) for path in _AGENTS)


def _is_cloud_init_enabled(tree: Tree) -> bool:
    """Whether a target of systemd wants a service of it: by `systemctl enable`, or by the distribution."""
    return any(
        name.startswith("cloud-") and name.endswith(".service")
        for place in (_OWN_UNITS, *_UNIT_PLACES)
        for target in _CLOUD_INIT_TARGETS
        for name, _ in tree.list(f"{place}/{target}.wants")
    )


_CLOUD_INIT_SWITCH = "/etc/cloud/cloud-init.disabled"
# Units of systemd, see systemd.unit(5): here a link to /dev/null masks one.
_OWN_UNITS = "/etc/systemd/system"
_UNIT_PLACES = ("/lib/systemd/system", "/usr/lib/systemd/system")
# The stages that bring the network and the data of an instance; since version 24.3 all are one process.
_CLOUD_INIT_UNITS = ("cloud-init.target", "cloud-init.service", "cloud-init-main.service")
# By version: up to 0.7, in Red Hat's packages longer, the services hung on the second one.
_CLOUD_INIT_TARGETS = ("cloud-init.target", "multi-user.target")
_CLOUDBASE = (
    "/Program Files/Cloudbase Solutions/Cloudbase-Init",
    "/Program Files (x86)/Cloudbase Solutions/Cloudbase-Init",
)
_AGENTS = (
    "/usr/sbin/qemu-ga",
    "/usr/bin/qemu-ga",
    "/usr/local/bin/qemu-ga",
    "/Program Files/Qemu-ga/qemu-ga.exe",
    "/Program Files (x86)/Qemu-ga/qemu-ga.exe",
)


def _told(name: str, driver: Driver) -> str:
    file = "is there" if driver.has_file else "is missing"
    service = "no service" if driver.start is None else f"its service has Start={driver.start}"
    return f"{name}.sys {file}, {service}"


def _has_module(listed: bytes, name: str) -> bool:
    return (
        re.search(rb"(?:^|/)%s\.ko(?:[.:\s]|$)" % name.replace("_", "[_-]").encode(), listed, re.MULTILINE)
        is not None
    )


def _configured(tree: Tree) -> str:
    """Why the initramfs must hold virtio drivers; empty when its configuration does not say so."""
    tools = (
        (("/usr/sbin/update-initramfs", "/usr/sbin/mkinitramfs"), _initramfs_tools),
        (("/usr/bin/dracut", "/sbin/dracut", "/usr/sbin/dracut"), _dracut),
        (("/usr/bin/mkinitcpio",), _mkinitcpio),
        (("/sbin/mkinitrd", "/sbin/mkinitrd_setup"), _mkinitrd),
    )
    present = [judge for programs, judge in tools if any(tree.find(program) for program in programs)]
    if present[1:] and present[0] is _initramfs_tools:
        return ""  # two tools: which of them made it is not known
    for judge in present:
        reason = judge(tree)
        if reason:
            return reason
    return ""


def _initramfs_tools(tree: Tree) -> str:
    path = "/etc/initramfs-tools/modules"
    named = _named(tree.read_text(path, MAX_CONF_BYTES) or "", path)
    if named:
        return named
    value = ""
    for text in _conf_files(tree, "/etc/initramfs-tools/initramfs.conf", ("/etc/initramfs-tools/conf.d",)):
        value = parse_assignments(text).get("MODULES", value)
    return "MODULES=most in /etc/initramfs-tools" if value == "most" else ""


def _dracut(tree: Tree) -> str:
    fields: dict[str, str] = {}
    directories = ("/usr/lib/dracut/dracut.conf.d", "/etc/dracut.conf.d")
    for text in _conf_files(tree, "/etc/dracut.conf", directories):
        for name, value in parse_assignments(text).items():
            fields[name] = f"{fields.get(name, '')} {value}" if name.endswith("drivers") else value
    drivers_named = " ".join(fields.get(name, "") for name in ("add_drivers", "force_drivers", "drivers"))
    named = _named(drivers_named, "dracut.conf")
    if named:
        return named
    return 'hostonly="no" in dracut.conf' if fields.get("hostonly") == "no" else ""


def _mkinitcpio(tree: Tree) -> str:
    text = tree.read_text("/etc/mkinitcpio.conf", MAX_CONF_BYTES) or ""
    return _named(parse_assignments(text).get("MODULES", "").strip("()"), "/etc/mkinitcpio.conf")


def _mkinitrd(tree: Tree) -> str:
    text = tree.read_text("/etc/sysconfig/kernel", MAX_CONF_BYTES) or ""
    return _named(
        parse_assignments(text).get("INITRD_MODULES", ""), "INITRD_MODULES of /etc/sysconfig/kernel"
    )


def _named(names: str, place: str) -> str:
    """That a disk driver is among ``names``, and where; empty when none is."""
    words = [name.replace("-", "_") for line in names.splitlines() for name in line.split("#")[0].split()]
    return next((f"{driver} in {place}" for driver in DISK_DRIVERS if driver in words), "")


def _conf_files(tree: Tree, first: str, directories: Sequence[str]) -> Iterator[str]:
    """The texts of configuration files in the order in which they count."""
    yield tree.read_text(first, MAX_CONF_BYTES) or ""
    for directory in directories:
        names = sorted(name for name, _ in tree.list(directory))
        for name in names[:MAX_CONF_FILES]:
            yield tree.read_text(f"{directory}/{name}", MAX_CONF_BYTES) or ""


def _scanned(tree: Tree, path: str, node: Node) -> DriverState:
    try:
        for name in modules(FileVolume(tree.file_system, node)):
            if name in DISK_DRIVERS:
                return DriverState(Readiness.READY, f"{name} is in {path}")
    except InitramfsUnknown as problem:
        return DriverState(Readiness.UNKNOWN, f"{path}: {problem}")
    except GuestUnreadable as problem:
        return DriverState(Readiness.UNKNOWN, f"{path} cannot be read: {problem}")
    return DriverState(Readiness.MISSING, f"no {' or '.join(DISK_DRIVERS)} in {path}")

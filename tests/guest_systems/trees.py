"""Root trees of real systems, made of Debian's packages: installed, or only unpacked for other processors.

They are made by root on a machine that reaches a mirror of Debian.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.unit.guest.crafted_guest import cpio
from tests.unit.guest.debian_tools import SEARCH_PATH

SUITE = "bookworm"
APT_FOLDER = Path("/etc/apt")
LISTED_SOURCE = re.compile(rf"^deb[ \t]+(?:\[(.*?)\][ \t]+)?(\S+)[ \t]+{SUITE}[ \t]+(.+)$", re.MULTILINE)
# How this machine reaches its mirrors: proxy, certificates, checks that a snapshot fails.
APT_OPTION = re.compile(
    r'^Acquire::(?:Check-Valid-Until|Check-Date|Retries|https?::[A-Za-z:-]+) "[^"]+";$', re.M
)
BUILD_SECONDS = 900.0

ROOT_UUID = "6f8a1f2e-6d0c-4d53-9a1b-2f3c4d5e6f70"
INSTALLED = (
    *("linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "openssh-server", "cloud-init", "ifupdown"),
    *("isc-dhcp-client", "grub-pc-bin", "grub-efi-amd64-bin", "zstd"),
)
UNPACKED = ("base-files", "dash", "ifupdown", "openssh-server")
FOREIGN = {
    "arm64": ("linux-image-cloud-arm64", "grub-efi-arm64-bin"),
    "i386": ("linux-image-686",),
}
DISCS = ("ipxe", "memtest86+")
NOT_WANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/i18n/*")
# What of a tree tells which system it is and how it starts: enough of one that is never run.
TELLING = (
    *("boot", "etc", "usr/lib/os-release", "usr/lib/modules/*/modules.*", "lib/modules/*/modules.*"),
    *("bin/sh", "bin/dash", "usr/bin/sh", "usr/bin/dash", "usr/sbin/sshd", "usr/sbin/*initramfs"),
    *("usr/lib/systemd/system/cloud-*", "lib/systemd/system/cloud-*"),
)
TOP_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
EMPTY = ("dev", "proc", "sys", "run", "tmp", "var", "boot/efi")
# Names that mkfs.xfs cannot take, and nobody here looks at.
LEFT_OUT = ("etc/ssl", "etc/terminfo", "boot/System.map-*", "boot/grub/*.img")


class Workshop:
    """Files and folders that are made once, by whichever process; kept until ``sources`` are others."""

    def __init__(self, cache: Path, sources: Iterable[Path]) -> None:
        recipe = hashlib.sha256()
        for source in sources:
            recipe.update(source.read_bytes())
        self.folder = cache / recipe.hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """What ``make`` puts at the path it is given; another process that makes it is waited for."""
        result = self.folder / name
        with (self.folder / f".lock-{name}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                unfinished = self.folder / f".new-{name}"
                remove(unfinished)
                make(unfinished)
                unfinished.rename(result)
        return result


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def long_run(*command: str | Path) -> str:
    """What a program prints that may take minutes; fails the test with its last lines when it fails."""
    environment = {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C"}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, f"{command}:\n{(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


def installed_debian(target: Path) -> None:
    """A Debian 12 for this machine's processor (amd64), with kernel, initramfs and cloud-init."""
    _mmdebstrap(target, "minbase", INSTALLED)
    _write_configuration(target, "ttyS0")
    for kept in target.glob("etc/ssh/ssh_host_*"):
        kept.unlink()
    (target / "etc/machine-id").write_text("")


def unpacked_debian(target: Path, architecture: str) -> None:
    """A Debian 12 for another processor: unpacked, never run, its initramfs put together here."""
    packages = (*UNPACKED, *FOREIGN[architecture])
    _mmdebstrap(target, "extract", packages, f"--architectures={architecture}", "--skip=check/qemu")
    version = kernel_version(target)
    home = target / "lib/modules" / version
    modules = sorted(path.relative_to(home) for path in home.rglob("*.ko"))
    (home / "modules.dep").write_text("".join(f"{path}:\n" for path in modules))  # without what needs what
    needed = [path for path in modules if path.stem.startswith(("virtio", "ext4"))]
    packed = cpio(f"usr/lib/modules/{version}/{path}" for path in needed)
    (target / f"boot/initrd.img-{version}").write_bytes(packed)
    lines = ("auto lo", "iface lo inet loopback", "auto ens3", "iface ens3 inet dhcp", "")
    (target / "etc/network/interfaces").write_text("\n".join(lines))
    _write_configuration(target, "ttyAMA0" if architecture == "arm64" else "ttyS0")


def unpacked_discs(target: Path) -> None:
    """A folder with the ISO images of `DISCS`."""
    whole = target.with_name(".whole-discs")
    remove(whole)
    _mmdebstrap(whole, "extract", DISCS)
    target.mkdir()
    for disc in whole.glob("usr/lib/*/*.iso"):
        shutil.copy(disc, target)
    remove(whole)


def _mmdebstrap(target: Path, variant: str, packages: Sequence[str], *options: str) -> None:
    sources = target.with_suffix(".sources")
    sources.write_text("\n".join(_sources()))
    reached_by = [f"--aptopt={line}" for line in APT_OPTION.findall(long_run("apt-config", "dump"))]
    left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_WANTED]
    fixed = ("--mode=root", "--format=directory", "--dpkgopt=force-unsafe-io", f"--variant={variant}")
    named = f"--include={','.join(packages)}"
    long_run("mmdebstrap", *fixed, named, *left_out, *reached_by, *options, SUITE, target, sources)
    sources.unlink()


def _sources() -> list[str]:
    """Where this machine takes its own packages, else Debian's own mirror; without updates, as sections."""
    found = []
    for path in sorted(APT_FOLDER.glob("**/*.sources")):
        for section in re.split(r"\n\s*\n", path.read_text()):
            suites = re.search(r"^Suites:(.*)$", section, re.MULTILINE)
            if suites and SUITE in suites.group(1).split():
                found.append(section.replace(suites.group(0), f"Suites: {SUITE}").strip() + "\n")
    for path in sorted(APT_FOLDER.glob("**/*.list")):
        for options, address, components in LISTED_SOURCE.findall(path.read_text()):
            key = re.search(r"signed-by=(\S+)", options)
            signed = f"Signed-By: {key.group(1)}\n" if key else ""
            found.append(_source(address, components) + signed)
    return found or [_source("http://deb.debian.org/debian", "main")]


def _source(address: str, components: str) -> str:
    return f"Types: deb\nURIs: {address}\nSuites: {SUITE}\nComponents: {components}\n"


def _write_configuration(root: Path, console: str) -> None:
    """What turns unpacked packages into a system that starts: its mount table and its boot menu."""
    version = kernel_version(root)
    (root / "etc/fstab").write_text(f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n")
    (root / "etc/hostname").write_text("guest\n")
    (root / "boot/grub").mkdir(exist_ok=True)
    (root / "boot/efi").mkdir(exist_ok=True)
    (root / "boot/grub/grub.cfg").write_text(
        "set timeout=0\nmenuentry 'Debian GNU/Linux' {\n"
        f"\tlinux /boot/vmlinuz-{version} root=UUID={ROOT_UUID} ro console=tty0 console={console},115200\n"
        f"\tinitrd /boot/initrd.img-{version}\n}}\n"
    )


def kernel_version(root: Path) -> str:
    """Of the one kernel in a tree."""
    (kernel,) = root.glob("boot/vmlinuz-*")
    return kernel.name.removeprefix("vmlinuz-")


def telling_part(root: Path, target: Path) -> None:
    """A copy of what inspection looks at, small enough to be put on many disks."""
    target.mkdir()
    for name in TOP_LINKS:
        if (root / name).is_symlink():
            (target / name).symlink_to(os.readlink(root / name))
    for name in EMPTY:
        (target / name).mkdir(parents=True, exist_ok=True)
    for path in _told(root):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, copy, symlinks=True, dirs_exist_ok=True)
        elif not os.path.lexists(copy):
            shutil.copy2(path, copy, follow_symlinks=False)
    for pattern in LEFT_OUT:
        for path in target.glob(pattern):
            remove(path)


def _told(root: Path) -> Iterator[Path]:
    for pattern in TELLING:
        above = root / pattern.split("/")[0]
        if not above.is_symlink():  # on a merged /usr it is found there
            yield from sorted(root.glob(pattern))


def made_ubuntu(root: Path) -> None:
    """Replace what Debian says of itself by what Ubuntu 22.04 says, with its netplan for its ifupdown."""
    (root / "usr/lib/os-release").write_text(
        'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\n'
        'VERSION="22.04.5 LTS (Jammy Jellyfish)"\nVERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\n'
    )
    (root / "etc/debian_version").write_text("bookworm/sid\n")
    remove(root / "etc/network")
    (root / "etc/netplan").mkdir()
    (root / "etc/netplan/50-cloud-init.yaml").write_text(
        "network:\n    version: 2\n    ethernets:\n        ens3:\n            dhcp4: true\n"
        "            match:\n                name: en*\n            set-name: ens3\n"
    )


def without_virtio(root: Path, target: Path) -> None:
    """A real initramfs by MODULES=list, with no module named in the list."""
    configuration = root / "tmp/initramfs-tools"
    remove(configuration)
    shutil.copytree(root / "etc/initramfs-tools", configuration)
    text = (configuration / "initramfs.conf").read_text()
    (configuration / "initramfs.conf").write_text(text.replace("MODULES=most", "MODULES=list"))
    made = "/tmp/initrd.img"
    long_run("chroot", root, "mkinitramfs", "-d", "/tmp/initramfs-tools", "-o", made, kernel_version(root))
    shutil.move(f"{root}{made}", target)
    remove(configuration)

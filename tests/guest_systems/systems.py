"""The disks of the tests by their names, and what other broken ones are made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

from tests.guest_systems import disks, trees
from tests.guest_systems.disks import Loaders, Part
from tests.guest_systems.trees import Workshop
from tests.unit.guest.guest_disks import MIB
from tests.unit.guest.windows_disks import make_windows_volume

SMALL_DISK_BYTES = 160 * MIB
WHOLE_DISK_BYTES = 1100 * MIB
# The least that mkfs.xfs makes for others than its own tests, and mkfs.btrfs with two copies of metadata.
XFS_BYTES = 320 * MIB
FALLBACK = "EFI/BOOT/BOOTX64.EFI"


class Systems:
    """Everything is made when it is first asked for, and kept for later runs."""

    def __init__(self, cache: Path) -> None:
        here = Path(__file__).parent
        self._trees = Workshop(cache, [here / "trees.py"])
        self._disks = Workshop(cache, [here / f"{name}.py" for name in ("trees", "disks", "systems")])
        for other in set(cache.iterdir()) - {self._trees.folder, self._disks.folder}:
            shutil.rmtree(other, ignore_errors=True)  # of an earlier recipe

    @cached_property
    def debian(self) -> Path:
        """The tree of a whole Debian 12 for amd64."""
        return self._trees.made("debian-amd64", trees.installed_debian)

    @cached_property
    def loaders(self) -> Loaders:
        def make(target: Path) -> None:
            made = disks.make_loaders(self.debian)
            target.mkdir()
            for name in ("boot", "core", "efi"):
                (target / name).write_bytes(getattr(made, name))

        folder = self._disks.made("loaders", make)
        return Loaders(*((folder / name).read_bytes() for name in ("boot", "core", "efi")))

    @cached_property
    def initramfs_without_virtio(self) -> Path:
        make = partial(trees.without_virtio, self.debian)
        return self._trees.made("initramfs-without-virtio", make)

    def tree(self, name: str) -> Path:
        """``amd64``, ``arm64``, ``i386`` or ``ubuntu``: what tells about a system. Not to be changed."""

        def make(target: Path) -> None:
            if name in trees.FOREIGN:
                whole = target.with_name(f".whole-{name}")
                trees.remove(whole)
                trees.unpacked_debian(whole, name)
                trees.telling_part(whole, target)
                if name == "arm64":
                    loader = whole / "usr/lib/grub/arm64-efi/monolithic/grubaa64.efi"
                    shutil.copy(loader, target / "boot/grub/grubaa64.efi")
                trees.remove(whole)
                return
            trees.telling_part(self.debian, target)
            if name == "ubuntu":
                trees.made_ubuntu(target)

        return self._trees.made(f"tree-{name}", make)

    @cached_property
    def discs(self) -> Path:
        """A folder of ISO images, as packages of Debian have them."""
        return self._trees.made("discs", trees.unpacked_discs)

    def disk(self, name: str) -> Path:
        """A disk by its name in `DISKS`."""
        return self._disks.made(f"{name}.raw", lambda target: DISKS[name](self, target))

    def broken(self, target: Path, change: Callable[[Path], None]) -> Path:
        """A disk for BIOS and UEFI of the tree ``amd64`` after ``change``."""
        tree = target.with_suffix(".tree")
        shutil.copytree(self.tree("amd64"), tree, symlinks=True)
        change(tree)
        root = disks.ext4(target.with_suffix(".ext4"), tree, SMALL_DISK_BYTES)
        shutil.rmtree(tree)
        return self.for_both(target, root)

    def for_both(self, target: Path, root: Path) -> Path:
        """A disk of the file system ``root`` that BIOS and UEFI can start; ``root`` goes."""
        esp = disks.esp(target.with_suffix(".esp"), {FALLBACK: self.loaders.efi})
        disks.make_disk(target, "gpt", [Part("bios"), Part("esp", esp), Part("linux", root)], self.loaders)
        root.unlink()
        return target

    def for_bios(self, target: Path, *parts: Part) -> Path:
        """A disk with a master boot record; the images of ``parts`` go."""
        disks.make_disk(target, "dos", parts, self.loaders)
        for part in parts:
            if part.image:
                part.image.unlink()
        return target

    def for_uefi(self, target: Path, root: Path, loaders: dict[str, bytes]) -> Path:
        """A disk without boot code, with ``loaders`` on an EFI system partition; ``root`` goes."""
        esp = disks.esp(target.with_suffix(".esp"), loaders)
        disks.make_disk(target, "gpt", [Part("esp", esp), Part("linux", root)])
        root.unlink()
        return target


def _debian_whole(systems: Systems, target: Path) -> None:
    root = disks.ext4(target.with_suffix(".ext4"), systems.debian, WHOLE_DISK_BYTES)
    systems.for_both(target, root)


def _debian_i386(systems: Systems, target: Path) -> None:
    root = disks.ext4(target.with_suffix(".ext4"), systems.tree("i386"), SMALL_DISK_BYTES)
    systems.for_bios(target, Part("linux", root))


def _debian_arm64(systems: Systems, target: Path) -> None:
    tree = systems.tree("arm64")
    root = disks.ext4(target.with_suffix(".ext4"), tree, SMALL_DISK_BYTES)
    loader = (tree / "boot/grub/grubaa64.efi").read_bytes()
    systems.for_uefi(target, root, {"EFI/BOOT/BOOTAA64.EFI": loader})


def _debian_xfs(systems: Systems, target: Path) -> None:
    root = disks.xfs(target.with_suffix(".xfs"), systems.tree("amd64"), XFS_BYTES)
    systems.for_bios(target, Part("linux", root))


def _debian_lvm(systems: Systems, target: Path) -> None:
    """As CentOS is installed: /boot by itself, the rest of the disk one volume group."""
    tree = target.with_suffix(".tree")
    shutil.copytree(systems.tree("amd64"), tree, symlinks=True)
    boot_tree = tree.with_suffix(".boot")
    (tree / "boot").rename(boot_tree)
    (tree / "boot").mkdir()
    (tree / "etc/fstab").write_text(
        f"/dev/mapper/vg-root / xfs defaults 0 0\nUUID={disks.BOOT_UUID} /boot ext4 defaults 1 2\n"
    )
    menu = boot_tree / "grub/grub.cfg"
    text = menu.read_text().replace(f"root=UUID={trees.ROOT_UUID}", "root=/dev/mapper/vg-root")
    menu.write_text(text.replace("/boot/", "/"))
    boot = disks.ext4(target.with_suffix(".boot.ext4"), boot_tree, SMALL_DISK_BYTES, disks.BOOT_UUID, "boot")
    root = disks.xfs(target.with_suffix(".xfs"), tree, XFS_BYTES)
    volume = disks.logical_volume(target.with_suffix(".lvm"), root)
    for path in (tree, boot_tree, root):
        trees.remove(path)
    systems.for_bios(target, Part("linux", boot), Part("lvm", volume))


def _ubuntu(systems: Systems, target: Path) -> None:
    root = disks.btrfs(target.with_suffix(".btrfs"), systems.tree("ubuntu"), XFS_BYTES)
    systems.for_uefi(target, root, {FALLBACK: systems.loaders.efi})


def _without_virtio(systems: Systems, target: Path) -> None:
    def change(tree: Path) -> None:
        (initramfs,) = tree.glob("boot/initrd.img-*")
        shutil.copy(systems.initramfs_without_virtio, initramfs)
        configuration = tree / "etc/initramfs-tools/initramfs.conf"
        configuration.write_text(configuration.read_text().replace("MODULES=most", "MODULES=list"))

    systems.broken(target, change)


def _windows(systems: Systems, target: Path) -> None:
    volume = make_windows_volume(target.with_suffix(".ntfs"))
    systems.for_bios(target, Part("ntfs", volume))


DISKS: dict[str, Callable[[Systems, Path], None]] = {
    "debian-ext4-bios-uefi": _debian_whole,
    "debian-i386-ext4-bios": _debian_i386,
    "debian-arm64-ext4-uefi": _debian_arm64,
    "debian-xfs-bios": _debian_xfs,
    "debian-lvm-own-boot-bios": _debian_lvm,
    "ubuntu-like-btrfs-uefi": _ubuntu,
    "windows-like-ntfs-bios": _windows,
    "debian-without-virtio": _without_virtio,
}

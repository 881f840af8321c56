"""A real Debian with one thing wrong: what is said, how grave it is, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imsd.guest.codes import CODES, Severity
from imsd.guest.report import GuestReport
from tests.guest_systems import disks
from tests.guest_systems.looking import codes, looked_at
from tests.guest_systems.systems import FALLBACK, SMALL_DISK_BYTES, Systems
from tests.guest_systems.trees import ROOT_UUID, remove
from tests.unit.guest.crafted_guest import cpio

pytestmark = [pytest.mark.slow, pytest.mark.needs_root, pytest.mark.timeout(900)]

OTHER_UUID = "00000000-1111-4222-8333-444444444444"
# What the healthy tree is advised, with nothing wrong.
ALWAYS = {"GUEST_AGENT_MISSING", "GUEST_NOT_LISTED"}
NETWORK = "etc/network/interfaces"

Change = Callable[[Path], None]


def nothing(_: Path) -> None:
    return


def edit(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new))


def by_device_name(tree: Path) -> None:
    edit(tree, "etc/fstab", f"UUID={ROOT_UUID}", "/dev/sda3")
    edit(tree, "boot/grub/grub.cfg", f"root=UUID={ROOT_UUID}", "root=/dev/sda3")


def of_another_disk(tree: Path) -> None:
    edit(tree, "etc/fstab", ROOT_UUID, OTHER_UUID)
    edit(tree, "boot/grub/grub.cfg", ROOT_UUID, OTHER_UUID)


def by_partition_of_another_disk(tree: Path) -> None:
    edit(tree, "boot/grub/grub.cfg", f"root=UUID={ROOT_UUID}", f"root=PARTUUID={OTHER_UUID}")


def by_partition(tree: Path) -> None:
    """As Debian's own cloud images name their parts."""
    root, esp = (f"PARTUUID={disks.partition_uuid(number)}" for number in (3, 2))
    edit(tree, "etc/fstab", f"UUID={ROOT_UUID}", root)
    with (tree / "etc/fstab").open("a") as fstab:
        fstab.write(f"{esp} /boot/efi vfat defaults 0 0\n")
    edit(tree, "boot/grub/grub.cfg", f"root=UUID={ROOT_UUID}", f"root={root}")


def without_cloud_init(tree: Path) -> None:
    remove(tree / "etc/cloud")


def without_network(tree: Path) -> None:
    without_cloud_init(tree)
    (tree / NETWORK).write_text("auto lo\niface lo inet loopback\n")


def with_set_address(tree: Path) -> None:
    lines = "auto ens3\niface ens3 inet static\n  address 192.0.2.7/24\n  hwaddress 52:54:00:12:34:56\n"
    (tree / NETWORK).write_text(lines)


def cloud_init_switched_off(tree: Path) -> None:
    (tree / "etc/cloud/cloud-init.disabled").write_text("")
    (tree / NETWORK).write_text("auto ens3\niface ens3 inet dhcp\n")


def cloud_init_not_enabled(tree: Path) -> None:
    """As `systemctl disable` leaves it."""
    remove(tree / "etc/systemd/system/cloud-init.target.wants")
    (tree / NETWORK).write_text("auto ens3\niface ens3 inet dhcp\n")


def cloud_init_masked(tree: Path) -> None:
    (tree / "etc/systemd/system/cloud-init.service").symlink_to("/dev/null")
    (tree / NETWORK).write_text("auto ens3\niface ens3 inet dhcp\n")


def without_initramfs(tree: Path) -> None:
    for path in tree.glob("boot/initrd*"):
        path.unlink()


def without_kernel(tree: Path) -> None:
    without_initramfs(tree)
    for path in tree.glob("boot/vmlinuz*"):
        path.unlink()


def of_one_machine(tree: Path) -> None:
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tree / "etc/ssh/ssh_host_ed25519_key").write_text("secret\n")
    (tree / "etc/cloud/cloud.cfg.d/99-keys.cfg").write_text("ssh_deletekeys: false\n")
    edit(tree, "boot/grub/grub.cfg", "console=ttyS0,115200", "quiet")


BROKEN: list[tuple[Change, set[str], set[str], set[str]]] = [
    # what is changed, what then blocks the boot, what may, what is advised beside `ALWAYS`
    (nothing, set(), set(), set()),
    (by_partition, set(), set(), set()),
    (by_device_name, set(), {"FSTAB_BY_DEVICE_NAME", "BOOT_ROOT_BY_DEVICE_NAME"}, set()),
    (of_another_disk, {"BOOT_ROOT_UNKNOWN_UUID"}, {"FSTAB_UNKNOWN_UUID"}, set()),
    (by_partition_of_another_disk, {"BOOT_ROOT_UNKNOWN_UUID"}, set(), set()),
    (without_cloud_init, set(), {"NETWORK_NO_DHCP"}, {"CLOUD_INIT_MISSING"}),
    (without_network, set(), {"NETWORK_NO_DHCP"}, {"CLOUD_INIT_MISSING"}),
    (with_set_address, set(), {"NETWORK_STATIC_ADDRESS", "NETWORK_FIXED_MAC"}, set()),
    (cloud_init_switched_off, set(), set(), {"CLOUD_INIT_DISABLED"}),
    (cloud_init_not_enabled, set(), set(), {"CLOUD_INIT_DISABLED"}),
    (cloud_init_masked, set(), set(), {"CLOUD_INIT_DISABLED"}),
    (without_initramfs, {"VIRTIO_DISK_MISSING"}, {"BOOT_NO_INITRAMFS"}, set()),
    (without_kernel, {"BOOT_NO_KERNEL"}, set(), set()),
    (of_one_machine, set(), set(), {"MACHINE_ID_SET", "SSH_HOST_KEYS_PRESENT", "SERIAL_CONSOLE_MISSING"}),
]


def check(report: GuestReport, blocks: set[str], may_block: set[str], advice: set[str]) -> bool:
    """Whether exactly these are said, each with its remedy."""
    expected = {
        Severity.BLOCKS_BOOT: blocks,
        Severity.MAY_BLOCK_BOOT: may_block,
        Severity.ADVICE: advice | ALWAYS,
    }
    assert codes(report) == {severity: found for severity, found in expected.items() if found}
    return all(found.remedy == CODES[found.code][1] != "" for found in report.findings)


@pytest.mark.parametrize(
    ("change", "blocks", "may_block", "advice"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
def test_what_is_wrong_is_said_and_nothing_else(
    systems: Systems, tmp_path: Path, change: Change, blocks: set[str], may_block: set[str], advice: set[str]
) -> None:
    report = looked_at(systems.broken(tmp_path / "disk", change))
    assert check(report, blocks, may_block, advice)


@pytest.mark.parametrize(
    ("loaders", "blocks", "may_block"),
    [
        ({FALLBACK: b"MZ"}, set(), set()),
        ({"EFI/debian/grubx64.efi": b"MZ"}, set(), {"BOOT_NO_FALLBACK_LOADER"}),
        ({"EFI/BOOT/BOOTAA64.EFI": b"MZ"}, set(), {"BOOT_NO_FALLBACK_LOADER"}),
        ({"EFI/debian/grub.cfg": b"search"}, {"BOOT_NO_LOADER"}, set()),
        ({}, {"BOOT_NO_LOADER"}, set()),
    ],
    ids=["fallback", "vendor", "other-processor", "menu-only", "empty"],
)
def test_loaders_on_the_efi_partition(
    systems: Systems, tmp_path: Path, loaders: dict[str, bytes], blocks: set[str], may_block: set[str]
) -> None:
    root = disks.ext4(tmp_path / "root", systems.tree("amd64"), SMALL_DISK_BYTES)
    report = looked_at(systems.for_uefi(tmp_path / "disk", root, loaders))
    assert check(report, blocks, may_block, set())


def only_what_is_needed(tree: Path) -> None:
    """As an installer leaves it that builds the initramfs for the machine at hand."""
    edit(tree, "etc/initramfs-tools/initramfs.conf", "MODULES=most", "MODULES=dep")


def after_microcode(tree: Path) -> None:
    """As an initramfs is put together on a machine with microcode for its processor."""
    only_what_is_needed(tree)
    (initramfs,) = tree.glob("boot/initrd.img-*")
    microcode = cpio(["kernel/x86/microcode/GenuineIntel.bin"], bytes(50_000))
    initramfs.write_bytes(microcode + bytes(-len(microcode) % 512) + initramfs.read_bytes())


@pytest.mark.parametrize("change", [only_what_is_needed, after_microcode])
def test_drivers_are_found_in_a_real_initramfs(systems: Systems, tmp_path: Path, change: Change) -> None:
    report = looked_at(systems.broken(tmp_path / "disk", change))
    assert check(report, set(), set(), set())
    assert any(line.startswith("virtio: virtio_") and "initrd.img" in line for line in report.evidence)


def test_drivers_that_are_not_in_a_real_initramfs_block_the_boot(systems: Systems) -> None:
    report = looked_at(systems.disk("debian-without-virtio"))
    assert check(report, {"VIRTIO_DISK_MISSING"}, set(), set())

"""The boot preflight: each finding appears where it should, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imsd.guest.boot import BootWays
from imsd.guest.codes import CODES, ReportFinding, Severity
from imsd.guest.disk import BootFacts, Place
from imsd.guest.guest import Guest
from imsd.guest.kernels import kernels
from imsd.guest.preflight import check_boot_mode, checks_for
from imsd.guest.readiness import DriverState, linux_disk_drivers, linux_network_driver
from imsd.guest.report import BootMode, GuestReport, Readiness
from tests.unit.guest.crafted_guest import BIOS_BOOTABLE, KERNEL, MODULES, ROOT_UUID, cpio, guest, place
from tests.unit.guest.memory_tree import Link, Paths, elf

NO_BIOS = BootFacts(has_boot_code=False, has_active_partition=False, has_bios_boot=False, has_esp=True)
OTHER_UUID = "99999999-2222-3333-4444-555555555555"
GRUB = "/boot/grub/grub.cfg"
INTERFACES = "/etc/network/interfaces"
# As cloud-init writes them for one server.
NETPLAN_OF_ONE = """network:
  version: 2
  ethernets:
    ens3:
      match: {macaddress: "52:54:00:12:34:56"}
      addresses: [192.0.2.7/24]
"""
IFCFG_OF_ONE = (
    "# Created by cloud-init on instance boot automatically, do not edit.\n#\n"
    "BOOTPROTO=none\nHWADDR=52:54:00:12:34:56\nIPADDR=192.0.2.7\n"
)
LEFT_ALONE: Paths = {"/etc/cloud/cloud.cfg.d/99-x.cfg": "network: {config: disabled}\n"}
HOST_KEY: Paths = {"/etc/ssh/ssh_host_ed25519_key": "secret"}
UNITS, OWN_UNITS = "/lib/systemd/system", "/etc/systemd/system"
UNIT: Paths = {f"{UNITS}/cloud-init.target": "[Unit]\n"}


def found_in(subject: Guest) -> list[ReportFinding]:
    listed = kernels(subject.tree)
    if listed:
        subject.disk_driver = linux_disk_drivers(subject.tree, listed[0])
        subject.network_driver = linux_network_driver(subject.tree, listed[0])
    return [each for check in checks_for("Linux") for each in check(subject)]


def codes_in(subject: Guest) -> set[str]:
    return {each.code for each in found_in(subject)}


def test_nothing_speaks_against_a_good_guest() -> None:
    assert found_in(guest()) == []


CHANGES: list[tuple[str, Paths, list[str]]] = [
    ("FSTAB_BY_DEVICE_NAME", {"/etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n"}, []),
    ("FSTAB_BY_DEVICE_NAME", {"/etc/fstab": "/dev/hda1 / ext4\n"}, []),
    ("FSTAB_BY_DEVICE_NAME", {"/etc/fstab": "/dev/nvme0n1p1 / ext4\n"}, []),
    ("FSTAB_UNKNOWN_UUID", {"/etc/fstab": f"UUID={OTHER_UUID} /data ext4 defaults 0 2\n"}, []),
    ("FSTAB_UNKNOWN_UUID", {"/etc/fstab": f"/dev/disk/by-uuid/{OTHER_UUID} /data ext4\n"}, []),
    ("FSTAB_UNKNOWN_UUID", {"/etc/fstab": "PARTUUID=6f8a1f2e-05 /data ext4\n"}, []),
    ("BOOT_NO_KERNEL", {}, [f"/boot/vmlinuz-{KERNEL}"]),
    ("BOOT_ROOT_BY_DEVICE_NAME", {GRUB: "linux /vmlinuz root=/dev/sda1 console=ttyS0\n"}, []),
    ("BOOT_ROOT_BY_DEVICE_NAME", {"/etc/kernel/cmdline": "root=/dev/xvda1 ro"}, []),
    (
        "BOOT_ROOT_BY_DEVICE_NAME",
        {"/boot/loader/entries/a.conf": "title x\noptions root=/dev/vda1 ro\n"},
        [],
    ),
    ("BOOT_ROOT_BY_DEVICE_NAME", {"/boot/grub2/grubenv": "# GRUB\nkernelopts=root=/dev/sda2 ro\n"}, []),
    ("BOOT_ROOT_UNKNOWN_UUID", {GRUB: f"linux /vmlinuz root=UUID={OTHER_UUID} console=ttyS0\n"}, []),
    ("BOOT_ROOT_UNKNOWN_UUID", {GRUB: f"linux /vmlinuz root=PARTUUID={OTHER_UUID} console=ttyS0\n"}, []),
    ("SERIAL_CONSOLE_MISSING", {GRUB: f"linux /vmlinuz root=UUID={ROOT_UUID} quiet\n"}, []),
    ("VIRTIO_DISK_MISSING", {f"/boot/initrd.img-{KERNEL}": cpio(["a/ahci.ko", "b/nvme.ko"])}, []),
    ("VIRTIO_DISK_MISSING", {f"{MODULES}/modules.dep": "kernel/drivers/net/virtio_net.ko:\n"}, []),
    ("VIRTIO_DISK_UNKNOWN", {f"/boot/initrd.img-{KERNEL}": b"\x02\x21\x4c\x18" + bytes(99)}, []),
    ("VIRTIO_DISK_UNKNOWN", {f"/boot/initrd.img-{KERNEL}": b"\x1f\x8b" + bytes(99)}, []),
    ("VIRTIO_DISK_UNKNOWN", {f"/boot/initrd.img-{KERNEL}": b"hello, world"}, []),
    ("VIRTIO_NETWORK_MISSING", {f"{MODULES}/modules.dep": "kernel/drivers/block/virtio_blk.ko:\n"}, []),
    ("NETWORK_NO_DHCP", {"/etc/cloud/cloud-init.disabled": ""}, [INTERFACES]),
    ("NETWORK_NO_DHCP", {"/etc/cloud/cloud.cfg.d/99-x.cfg": "network: {config: disabled}\n"}, [INTERFACES]),
    ("NETWORK_NO_DHCP", {}, [INTERFACES, "/etc/cloud/cloud.cfg"]),
    ("NETWORK_STATIC_ADDRESS", {INTERFACES: "iface ens3 inet static\n address 10.0.0.2/24\n"}, []),
    ("NETWORK_FIXED_MAC", {INTERFACES: "iface ens3 inet dhcp\n hwaddress ether 52:54:00:00:00:01\n"}, []),
    ("NETWORK_FIXED_MAC", {"/etc/netplan/01-site.yaml": NETPLAN_OF_ONE}, []),
    (
        "NETWORK_FIXED_MAC",
        {"/etc/netplan/50-cloud-init.yaml": NETPLAN_OF_ONE, "/etc/cloud/cloud-init.disabled": ""},
        [],
    ),
    (
        "NETWORK_STATIC_ADDRESS",
        {"/etc/netplan/50-cloud-init.yaml": NETPLAN_OF_ONE, **LEFT_ALONE},
        [INTERFACES],
    ),
    ("CLOUD_INIT_MISSING", {}, ["/etc/cloud/cloud.cfg"]),
    ("CLOUD_INIT_DISABLED", {"/etc/cloud/cloud-init.disabled": ""}, []),
    ("CLOUD_INIT_DISABLED", UNIT, []),
    ("CLOUD_INIT_DISABLED", {f"{OWN_UNITS}/cloud-init.service": Link("/dev/null")}, []),
    ("CLOUD_INIT_DISABLED", {f"{OWN_UNITS}/cloud-init.target": Link("/dev/null")}, []),
    ("NETWORK_NO_DHCP", UNIT, [INTERFACES]),
    ("MACHINE_ID_SET", {"/etc/machine-id": "0123456789abcdef0123456789abcdef\n"}, []),
    ("SSH_HOST_KEYS_PRESENT", HOST_KEY, ["/etc/cloud/cloud.cfg"]),
    ("SSH_HOST_KEYS_PRESENT", {**HOST_KEY, "/etc/cloud/cloud.cfg": "ssh_deletekeys:   0\n"}, []),
    ("SSH_HOST_KEYS_PRESENT", {**HOST_KEY, "/etc/cloud/cloud.cfg.d/1.cfg": "ssh_deletekeys: false\n"}, []),
    ("GUEST_AGENT_MISSING", {}, ["/usr/sbin/qemu-ga"]),
    ("GUEST_NOT_LISTED", {"/etc/debian_version": "12.15\n"}, []),
    ("GUEST_32_BIT", {"/bin/sh": elf(3, 32)}, []),
]


@pytest.mark.parametrize(("code", "changes", "without"), CHANGES)
def test_a_finding_appears_with_its_cause(code: str, changes: Paths, without: list[str]) -> None:
    found = {each.code: each for each in found_in(guest(changes, without=without))}
    assert code in found
    assert (found[code].severity, found[code].remedy) == CODES[code]
    assert found[code].message


HARMLESS: list[tuple[str, Paths]] = [
    (
        "FSTAB",
        {"/etc/fstab": "# /dev/sda1 / ext4\nLABEL=root / ext4\n/dev/sr0 /cd iso9660\n"},
    ),
    ("FSTAB", {"/etc/fstab": f"UUID={OTHER_UUID} /data ext4 nofail 0 2\n/dev/sdb1 /m ext4 noauto\n"}),
    ("FSTAB", {"/etc/fstab": f"UUID={OTHER_UUID} none swap sw 0 0\n"}),
    ("FSTAB", {"/etc/fstab": f"UUID={ROOT_UUID.upper()} / ext4\n"}),
    ("FSTAB", {"/etc/fstab": "tmpfs /tmp tmpfs\nproc /proc proc\n10.0.0.1:/x /n nfs\n"}),
    ("BOOT_ROOT", {GRUB: "linux /vmlinuz root=LABEL=root console=ttyS0\n# linux root=/dev/sda1\n"}),
    ("BOOT_ROOT", {GRUB: "linux /vmlinuz root=/dev/mapper/vg-root console=ttyS0\n"}),
    ("MACHINE_ID", {"/etc/machine-id": "uninitialized\n"}),
    ("SSH_HOST", HOST_KEY),
    ("SSH_HOST", {**HOST_KEY, "/etc/cloud/cloud.cfg": "# ssh_deletekeys: 0\nssh_deletekeys: true\n"}),
    ("SSH_HOST", {"/etc/ssh/ssh_host_rsa_key.pub": "public"}),
    (
        "VIRTIO_DISK",
        {
            f"{MODULES}/modules.builtin": "kernel/drivers/block/virtio_blk.ko\n",
            f"{MODULES}/modules.dep": "a.ko:\n",
        },
    ),
    ("NETWORK_NO", {INTERFACES: "", "/usr/sbin/NetworkManager": b"x", "/etc/cloud/cloud-init.disabled": ""}),
    ("NETWORK_NO", {INTERFACES: ""}),
    ("NETWORK", {INTERFACES: "", "/etc/netplan/50-cloud-init.yaml": NETPLAN_OF_ONE}),
    ("NETWORK", {INTERFACES: "", "/etc/sysconfig/network-scripts/ifcfg-eth0": IFCFG_OF_ONE}),
    ("BOOT_ROOT", {GRUB: "linux /vmlinuz root=PARTUUID=6f8a1f2e-01 console=ttyS0\n"}),
    ("BOOT_ROOT", {GRUB: "linux /vmlinuz root=PARTUUID=6f8a1f2e-05/PARTNROFF=1 console=ttyS0\n"}),
    ("FSTAB", {"/etc/fstab": "PARTUUID=6f8a1f2e-01 / ext4\n"}),
    ("CLOUD_INIT", {**UNIT, f"{OWN_UNITS}/cloud-init.target.wants/cloud-init.service": Link("x")}),
    ("CLOUD_INIT", {**UNIT, f"{UNITS}/cloud-init.target.wants/cloud-init-main.service": Link("x")}),
    ("CLOUD_INIT", {**UNIT, f"{OWN_UNITS}/multi-user.target.wants/cloud-config.service": Link("x")}),
    ("CLOUD_INIT", {f"{OWN_UNITS}/other.service": Link("/dev/null")}),
    ("NETWORK", {INTERFACES: "#iface ens3 inet static\niface ens3 inet dhcp\n"}),
]


@pytest.mark.parametrize(("prefix", "changes"), HARMLESS)
def test_a_finding_does_not_appear_without_cause(prefix: str, changes: Paths) -> None:
    assert [code for code in codes_in(guest(changes)) if code.startswith(prefix)] == []


def test_a_kernel_without_initramfs_may_not_start() -> None:
    codes = codes_in(guest(without=[f"/boot/initrd.img-{KERNEL}"]))
    assert {"BOOT_NO_INITRAMFS", "VIRTIO_DISK_MISSING"} <= codes


@pytest.mark.parametrize(
    ("root", "found"),
    [
        ("PARTUUID=6f8a1f2e-01", set()),
        ("UUID=" + ROOT_UUID, {"BOOT_NO_INITRAMFS"}),
        ("LABEL=x", {"BOOT_NO_INITRAMFS"}),
    ],
)
def test_a_kernel_with_its_drivers_built_in_needs_no_initramfs_but_for_a_uuid(
    root: str, found: set[str]
) -> None:
    changes: Paths = {
        f"{MODULES}/modules.builtin": "a/virtio_blk.ko\n",
        GRUB: f"linux /vmlinuz root={root} console=ttyS0\n",
    }
    assert codes_in(guest(changes, without=[f"/boot/initrd.img-{KERNEL}"])) == found


def test_a_kernel_on_a_part_that_was_not_found_is_no_missing_one() -> None:
    changes: Paths = {"/etc/fstab": f"UUID={ROOT_UUID} / ext4\nPARTUUID=1-2 /boot ext4\n"}
    codes = codes_in(guest(changes, without=[f"/boot/vmlinuz-{KERNEL}"]))
    assert "GUEST_UNREADABLE" in codes
    assert "BOOT_NO_KERNEL" not in codes


def test_a_uuid_on_another_partition_is_known() -> None:
    fstab: Paths = {"/etc/fstab": f"UUID={ROOT_UUID} / ext4\nUUID={OTHER_UUID} /data ext4\n"}
    assert codes_in(guest(fstab, others=[place(2, {}, uuid=OTHER_UUID)])) == set()


@pytest.mark.parametrize(
    "other",
    [
        place(2, None, content="crypto_LUKS"),
        place(2, None),
        replace(place(2, None), problem="damaged"),
    ],
)
def test_a_uuid_may_be_on_a_part_that_nobody_could_read(other: Place) -> None:
    changes: Paths = {
        "/etc/fstab": f"UUID={OTHER_UUID} /data ext4\n",
        GRUB: f"linux /vmlinuz root=UUID={OTHER_UUID} console=ttyS0\n",
    }
    assert codes_in(guest(changes, others=[other])) == set()


@pytest.mark.parametrize("content", ["swap", "LVM2_member"])
def test_swap_holds_no_file_system_of_that_uuid(content: str) -> None:
    changes: Paths = {"/etc/fstab": f"UUID={OTHER_UUID} /data ext4\n"}
    assert codes_in(guest(changes, others=[place(2, None, content=content)])) == {"FSTAB_UNKNOWN_UUID"}


@pytest.mark.parametrize(
    ("ways", "code"),
    [
        (BootWays(NO_BIOS), "BOOT_NO_LOADER"),
        (BootWays(replace(BIOS_BOOTABLE, has_active_partition=False)), "BOOT_NO_LOADER"),
        (BootWays(NO_BIOS, disc_platforms=frozenset()), "BOOT_NO_LOADER"),
        (BootWays(NO_BIOS, vendor_loaders=("/EFI/debian/grubx64.efi",)), "BOOT_NO_FALLBACK_LOADER"),
        (BootWays(NO_BIOS, fallback_loaders=("/EFI/BOOT/BOOTAA64.EFI",)), "BOOT_NO_FALLBACK_LOADER"),
        (BootWays(NO_BIOS, fallback_loaders=("/EFI/BOOT/BOOTX64.EFI",)), None),
        (BootWays(NO_BIOS, fallback_loaders=("/efi/boot/bootia32.efi",)), None),
        (BootWays(NO_BIOS, disc_platforms=frozenset({0xEF})), None),
        (BootWays(BIOS_BOOTABLE), None),
    ],
)
def test_a_disk_needs_a_loader(ways: BootWays, code: str | None) -> None:
    assert codes_in(guest(ways=ways)) == ({code} if code else set())


def test_a_machine_of_arm_needs_a_loader_for_uefi() -> None:
    codes = codes_in(guest({"/bin/sh": elf(183)}, ways=BootWays(BIOS_BOOTABLE)))
    assert "BOOT_NO_LOADER" in codes
    assert "SERIAL_CONSOLE_MISSING" in codes


@pytest.mark.parametrize(
    ("modes", "chosen", "count"),
    [
        ((BootMode.BIOS,), BootMode.UEFI, 1),
        ((BootMode.UEFI,), BootMode.BIOS, 1),
        ((BootMode.BIOS, BootMode.UEFI), BootMode.BIOS, 0),
        ((), BootMode.BIOS, 0),
    ],
)
def test_a_boot_mode_that_is_chosen_must_fit(
    modes: tuple[BootMode, ...], chosen: BootMode, count: int
) -> None:
    found = check_boot_mode(GuestReport(boot_modes=modes), chosen)
    assert len(found) == count
    assert all(each.code == "BOOT_MODE_MISMATCH" and each.severity is Severity.BLOCKS_BOOT for each in found)


def test_a_driver_that_is_not_known_to_be_there_is_no_missing_one() -> None:
    subject = guest()
    subject.disk_driver = DriverState(Readiness.UNKNOWN, "nobody knows")
    [check] = [each for each in checks_for("Linux") if each.__name__ == "check_drivers"]
    assert [each.code for each in check(subject)] == ["VIRTIO_DISK_UNKNOWN"]


def test_another_system_has_the_checks_of_its_loader_and_its_name() -> None:
    names = [check.__name__ for check in checks_for("Other")]
    assert names == ["check_loader", "check_listed"]

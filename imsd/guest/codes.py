"""What the inspection of a disk may find: codes that keep their meaning, and what to do about each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    BLOCKS_BOOT = "blocks_boot"
    MAY_BLOCK_BOOT = "may_block_boot"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True)
class ReportFinding:
    """``message`` says what was found in this disk, ``remedy`` what to do about it."""

    code: str
    severity: Severity
    message: str
    remedy: str


_BLOCKS, _MAY, _ADVICE = Severity.BLOCKS_BOOT, Severity.MAY_BLOCK_BOOT, Severity.ADVICE

CODES: dict[str, tuple[Severity, str]] = {
    "GUEST_NOT_INSPECTED": (_ADVICE, "state the operating system yourself; the image is used as it is"),
    "GUEST_PARTLY_INSPECTED": (_ADVICE, "treat what is not said as unknown and state it yourself"),
    "GUEST_NO_SYSTEM": (_ADVICE, "use it as a data disk, or state the operating system yourself"),
    "GUEST_SYSTEM_UNKNOWN": (_ADVICE, "state the operating system yourself"),
    "GUEST_SEVERAL_SYSTEMS": (_ADVICE, "check that the system named here is the one that boots"),
    "GUEST_NOT_LISTED": (
        _ADVICE,
        "test it on the server type you want: no table of supported systems has it",
    ),
    "GUEST_32_BIT": (_ADVICE, "use servers of at most 4 GiB of memory, or a 64-bit system"),
    "GUEST_UNREADABLE": (
        _MAY,
        "check the file systems in the machine (fsck, xfs_repair, chkdsk) and export again",
    ),
    "VOLUME_UNREADABLE": (
        _MAY,
        "check the file system in its machine (fsck, xfs_repair, chkdsk) and export again",
    ),
    "DISK_ENCRYPTED": (
        _MAY,
        "decrypt the disk before it is imported, or see that the key can be given at start",
    ),
    "RAID_MEMBER": (_MAY, "import a disk that is whole by itself: copy the system off the RAID"),
    "LVM_DAMAGED": (_MAY, "check the volume group in its machine (vgck) and export all of its disks as one"),
    "GPT_DAMAGED": (_BLOCKS, "restore the partition table: sgdisk --load-backup, or export the disk again"),
    "GPT_BACKUP_USED": (_MAY, "write the partition table anew: sgdisk -e, then sgdisk -v"),
    "GPT_IGNORED": (_ADVICE, "remove the table that is not meant: wipefs lists both"),
    "HYBRID_MBR": (_ADVICE, "check that both tables name the same partitions"),
    "PARTITIONS_IGNORED": (_ADVICE, "nothing, if the system is on one of the partitions that count"),
    "PARTITION_CHAIN_BROKEN": (_MAY, "check the partition table in its machine (fdisk) and export again"),
    "PARTITION_BEYOND_END": (_MAY, "export the disk again: its end is missing"),
    "FILE_SYSTEM_NOT_CLEAN": (
        _ADVICE,
        "shut the machine down and export again: the disk was taken while it was in use",
    ),
    "BOOT_NO_LOADER": (_BLOCKS, "install a boot loader: grub-install for BIOS, or one in EFI/BOOT for UEFI"),
    "BOOT_NO_FALLBACK_LOADER": (
        _MAY,
        "copy the loader to EFI/BOOT/BOOTX64.EFI (BOOTAA64.EFI on arm): grub-install --removable;"
        " boot entries in firmware do not travel with a disk",
    ),
    "BOOT_MODE_MISMATCH": (
        _BLOCKS,
        "use the boot mode that the disk supports, or install the other boot loader",
    ),
    "BOOT_NO_KERNEL": (_BLOCKS, "install a kernel into /boot"),
    "BOOT_NO_INITRAMFS": (
        _MAY,
        "build the initramfs: update-initramfs -c -k all, or dracut --regenerate-all",
    ),
    "BOOT_ROOT_BY_DEVICE_NAME": (
        _MAY,
        "use root=UUID=… on the kernel command line: blkid shows it; then update-grub",
    ),
    "BOOT_ROOT_UNKNOWN_UUID": (_BLOCKS, "update the boot loader's configuration in the machine: update-grub"),
    "FSTAB_BY_DEVICE_NAME": (_MAY, "use UUID=… or LABEL=… in /etc/fstab: blkid shows them"),
    "FSTAB_UNKNOWN_UUID": (_MAY, "mend the entry in /etc/fstab, or add nofail to its options"),
    "VIRTIO_DISK_MISSING": (
        _BLOCKS,
        "Linux: add virtio_blk and virtio_scsi to the initramfs (/etc/initramfs-tools/modules or dracut"
        " --add-drivers) and build it anew; Windows: install viostor from the virtio-win disc",
    ),
    "VIRTIO_DISK_UNKNOWN": (
        _MAY,
        "see that the initramfs holds virtio_blk: lsinitramfs or lsinitrd lists it",
    ),
    "VIRTIO_NETWORK_MISSING": (
        _MAY,
        "Linux: install a kernel with virtio_net; Windows: install NetKVM from the virtio-win disc",
    ),
    "NETWORK_STATIC_ADDRESS": (_MAY, "set the interface to DHCP; a clone would take the same address"),
    "NETWORK_FIXED_MAC": (
        _MAY,
        "remove the MAC address: a server gets another one, and its network stays down",
    ),
    "NETWORK_NO_DHCP": (_MAY, "configure DHCP for the first interface, or install cloud-init"),
    "CLOUD_INIT_MISSING": (
        _ADVICE,
        "install cloud-init (Windows: cloudbase-init) to set keys, name and password",
    ),
    "CLOUD_INIT_DISABLED": (
        _ADVICE,
        "remove /etc/cloud/cloud-init.disabled and enable its services: "
        "systemctl enable cloud-init-local cloud-init cloud-config cloud-final",
    ),
    "GUEST_AGENT_MISSING": (_ADVICE, "install qemu-guest-agent for clean shutdowns and consistent backups"),
    "MACHINE_ID_SET": (_ADVICE, "empty /etc/machine-id before export: truncate -s 0 /etc/machine-id"),
    "SSH_HOST_KEYS_PRESENT": (_ADVICE, "remove /etc/ssh/ssh_host_*_key*: every clone would share them"),
    "SERIAL_CONSOLE_MISSING": (_ADVICE, "add console=tty0 console=ttyS0,115200 to the kernel command line"),
    "WINDOWS_HIBERNATED": (_MAY, "start Windows, run powercfg /h off, shut it down fully and export again"),
    "WINDOWS_DIRTY": (_MAY, "start Windows, let chkdsk finish, shut it down cleanly and export again"),
    "WINDOWS_NOT_SYSPREPPED": (_ADVICE, "run sysprep /generalize /oobe /shutdown before export"),
}


def finding(code: str, message: str) -> ReportFinding:
    """The finding ``code`` with what was seen in this disk."""
    severity, remedy = CODES[code]
    return ReportFinding(code, severity, message, remedy)

"""What to type to use an attached image: to look at it, and to start a machine that leaves it as it is."""

from __future__ import annotations

import shlex

from imsd.v1 import guest_pb2, image_pb2

OVERLAY = "overlay.qcow2"

# QEMU's program, and the firmware that Debian has for it where a machine does not start by BIOS.
X86 = "qemu-system-x86_64"
X86_UEFI = "/usr/share/ovmf/OVMF.fd"
ARM = "qemu-system-aarch64 -M virt -cpu max"
ARM_UEFI = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"


def uses(image: image_pb2.Image, uri: str) -> dict[str, str]:
    """Commands for a shell, by what they are for; those in a row are typed one after the other.

    ``uri`` empty: the disk is not to be had here, and there are none.
    """
    if not uri:
        return {}
    quoted = shlex.quote(uri)
    commands = {"look": f"qemu-img info {quoted}"}
    if image.kind == image_pb2.IMAGE_KIND_ISO:
        return commands | {"start": f"{_machine(image)} -cdrom {quoted}"}
    commands["overlay"] = f"qemu-img create -f qcow2 -F raw -b {quoted} {OVERLAY}"
    if image.kind == image_pb2.IMAGE_KIND_SYSTEM_DISK:
        commands["start"] = f"{_machine(image)} -drive file={OVERLAY},format=qcow2,if=virtio"
    return commands


def _machine(image: image_pb2.Image) -> str:
    """Without a screen: its serial line is the terminal."""
    if image.architecture == guest_pb2.ARCHITECTURE_ARM:
        program, firmware = ARM, ARM_UEFI
    else:
        program, firmware = X86, X86_UEFI if image.boot_mode == guest_pb2.BOOT_MODE_UEFI else ""
    return f"{program} -m 2G -nographic" + (f" -bios {firmware}" if firmware else "")

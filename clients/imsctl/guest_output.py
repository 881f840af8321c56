"""What is found inside a disk, as people and programs read it."""

from __future__ import annotations

from imsd.v1 import guest_pb2 as pb

from . import wording
from .json_fields import enum_text
from .output import print_fields, print_table, printable

SEVERITY_WORDS = {
    pb.GuestFinding.SEVERITY_BLOCKS_BOOT: "will not boot",
    pb.GuestFinding.SEVERITY_MAY_BLOCK_BOOT: "may not work",
    pb.GuestFinding.SEVERITY_ADVICE: "advice",
}


def print_guest(guest: pb.GuestReport) -> None:
    """The system, the partitions, then what speaks against booting, each with its remedy."""
    bits = f" {guest.bits}-bit" if guest.bits else ""
    architecture = enum_text(pb.Architecture, guest.architecture)
    modes = [enum_text(pb.BootMode, mode).upper() for mode in guest.boot_modes]
    print_fields(
        {
            "system": guest.name or ("none that is known" if guest.is_inspected else "not inspected"),
            "version": guest.version,
            "os version": _os_version(guest),
            "processor": f"{architecture}{bits}".strip(),
            "boots by": " or ".join(modes),
            "cloud-init": wording.yes_no(guest.has_cloud_init) if guest.is_verified else "",
            "guest agent": wording.yes_no(guest.has_guest_agent) if guest.is_verified else "",
            "virtio": _virtio(guest),
            "supported on": ", ".join(guest.supported_server_types),
        }
    )
    if guest.partitions:
        print()
        print_table(
            ("PART>", "NAME", "SIZE>", "FILE SYSTEM", "LABEL", "USED AS"),
            [
                (
                    str(part.number) if part.number else "",
                    part.name,
                    wording.size(part.size_bytes),
                    part.file_system,
                    part.label,
                    part.used_as,
                )
                for part in guest.partitions
            ],
        )
    for found in guest.findings:
        print()
        print(printable(f"{SEVERITY_WORDS[found.severity]}: {found.message} [{found.code}]"))
        print(printable(f"  {found.remedy}"))


def _os_version(guest: pb.GuestReport) -> str:
    is_doubtful = guest.os_version and not guest.is_verified
    return f"{guest.os_version} (not verified)" if is_doubtful else guest.os_version


def _virtio(guest: pb.GuestReport) -> str:
    """``disk ready, network missing``; nothing when neither is known."""
    parts = [("disk", guest.virtio_disk), ("network", guest.virtio_network)]
    return ", ".join(f"{name} {enum_text(pb.Readiness, value)}" for name, value in parts if value)

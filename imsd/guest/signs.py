"""What holds no files that can be read here, but is worth a name: encrypted, swap, parts of something larger.

Names as blkid has them. References: LUKS 1.2.3 and LUKS2 specifications; Linux, include/linux/swap.h and
include/uapi/linux/raid/md_p.h; BitLocker as libbde describes it; exFAT's and squashfs' own.
"""

from __future__ import annotations

from .lvm import is_physical_volume
from .volume import Volume

LVM_MEMBER = "LVM2_member"
RAID_MEMBER = "linux_raid_member"
# What is in there cannot be known without a key.
ENCRYPTED = frozenset({"crypto_LUKS", "BitLocker"})

# Name, offset, signature.
SIGNATURES = (
    ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    ("BitLocker", 3, b"-FVE-FS-"),
    ("exfat", 3, b"EXFAT   "),
    ("squashfs", 0, b"hsqs"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("swap", 16374, b"SWAPSPACE2"),  # pages of 16 KiB
    ("swap", 65526, b"SWAPSPACE2"),  # pages of 64 KiB
    (RAID_MEMBER, 0, b"\xfc\x4e\x2b\xa9"),  # metadata 1.1
    (RAID_MEMBER, 4096, b"\xfc\x4e\x2b\xa9"),  # metadata 1.2
)
RAID_MAGIC = b"\xfc\x4e\x2b\xa9"


def recognise(volume: Volume) -> str:
    """The name of what is there; empty when nothing is known. Raises `GuestUnreadable` for missing bytes."""
    for name, offset, signature in SIGNATURES:
        if _has(volume, offset, signature):
            return name
    if is_physical_volume(volume):
        return LVM_MEMBER
    return RAID_MEMBER if any(_has(volume, place, RAID_MAGIC) for place in _raid_places(volume)) else ""


def _has(volume: Volume, offset: int, signature: bytes) -> bool:
    is_inside = 0 <= offset <= volume.size_bytes - len(signature)
    return is_inside and volume.read(offset, len(signature)) == signature


def _raid_places(volume: Volume) -> tuple[int, int]:
    """Metadata 1.0 and 0.90 lie near the end."""
    size = volume.size_bytes
    return (size - 8192) // 4096 * 4096, size // 65536 * 65536 - 65536

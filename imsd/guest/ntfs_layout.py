"""NTFS on disk: structures, constants and limits; the boot sector.

Sources: the NTFS documentation of the Linux-NTFS project (flatcap.org/linux-ntfs/ntfs), [MS-FSCC] 2.1.2
for reparse points. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from .record import check_power_of_two, check_range, unpack
from .volume import GuestUnreadable, Volume

BOOT_BYTES = 512
OEM_NAME = slice(3, 11)
OEM_NTFS = b"NTFS    "
OEM_BITLOCKER = b"-FVE-FS-"
# At 0x0B: bytes per sector, sectors per cluster, …, sectors, cluster of the MFT, of its mirror, size of a
# record and of an index block (see `_size`), serial number.
BOOT = struct.Struct("<HB26xQQQb3xb3xQ")
BOOT_OFFSET = 0x0B

# magic, offset and count of the update sequence, …, sequence number, …, offset of the first attribute,
# flags, bytes in use, …, base record
RECORD = struct.Struct("<4sHH8xH2xHHI4xQ")
RECORD_MAGIC = b"FILE"
RECORD_IN_USE = 1
RECORD_DIRECTORY = 2
# A sector's last two bytes are replaced; a sector is 512 bytes here, whatever the disk has.
FIXUP_BYTES = 512

# type, length, non-resident, name length (in characters), name offset, flags, id
ATTRIBUTE = struct.Struct("<IIBBHHH")
RESIDENT = struct.Struct("<IH")  # value length, value offset; at 16
# at 16: first cluster, last cluster, offset of the runs, log2 of the compression unit, …, allocated size,
# size, initialized size
NON_RESIDENT = struct.Struct("<QQHB5xQQQ")
DETAILS_OFFSET = 16
ATTRIBUTE_COMPRESSED = 0x0001
ATTRIBUTE_ENCRYPTED = 0x4000

ATTRIBUTE_LIST = 0x20
VOLUME_NAME = 0x60
VOLUME_STATE = 0x70
DATA = 0x80
INDEX_ROOT = 0x90
INDEX_ALLOCATION = 0xA0
REPARSE_POINT = 0xC0
DIRECTORY_INDEX = "$I30".encode("utf-16-le")

# type, length, name length, name offset, first cluster, record, id
LIST_ENTRY = struct.Struct("<IHBBQQH")
VOLUME_STATE_FIELDS = struct.Struct("<8xBBH")  # major and minor version, flags
VOLUME_DIRTY = 1

# type, collation, bytes of a block, …
INDEX_ROOT_FIELDS = struct.Struct("<III4x")
INDEX_HEADER = struct.Struct("<III")  # offset of the entries, used bytes, allocated bytes
INDEX_BLOCK = struct.Struct("<4sHH8xQ")  # magic, offset and count of the update sequence, …, VCN
INDEX_BLOCK_MAGIC = b"INDX"
INDEX_ENTRY = struct.Struct("<QHHH2x")  # record, length, key length, flags
INDEX_HAS_CHILD = 1
INDEX_END = 2
CHILD = struct.Struct("<Q")  # the last 8 bytes of an entry that has one
# In the key of an entry: …, size, file attributes, reparse tag, name length, name space
FILE_NAME = struct.Struct("<48xQIIBB")
NAME_SPACE_DOS = 2
FILE_DIRECTORY = 0x1000_0000
FILE_REPARSE_POINT = 0x400

REPARSE = struct.Struct("<IHH")  # tag, length, reserved
REPARSE_NAMES = struct.Struct("<HH4x")  # offset and length of the substitute name, then of the printed one
TAG_MOUNT_POINT = 0xA000_0003
TAG_SYMLINK = 0xA000_000C
TAG_WSL_LINK = 0xA000_001D

REFERENCE_MASK = (1 << 48) - 1  # the rest is a sequence number

MFT_RECORD = 0
VOLUME_RECORD = 3
ROOT_RECORD = 5
UPCASE_RECORD = 10
FIRST_USER_RECORD = 16
UPCASE_BYTES = 2 * 65_536

MIN_SECTOR_BYTES, MAX_SECTOR_BYTES = 256, 4096
MAX_CLUSTER_BYTES = 2 << 20
MIN_RECORD_BYTES, MAX_RECORD_BYTES = 512, 16_384
MIN_INDEX_BLOCK_BYTES, MAX_INDEX_BLOCK_BYTES = 512, 65_536
MAX_RECORDS = 1 << 32
MAX_STREAM_BYTES = 1 << 56
MAX_CLUSTERS = 1 << 48
MAX_RUNS = 65_536
MAX_LIST_BYTES = 256 << 10  # as in Windows
MAX_EXTENSION_RECORDS = 1024
MAX_INDEX_DEPTH = 16
MAX_UNIT_BYTES = 64 << 10  # of compression, as in Windows
MAX_REPARSE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the boot sector says. ``mft_start`` in bytes from the start of the volume."""

    cluster_bytes: int
    record_bytes: int
    index_block_bytes: int
    mft_start: int
    serial: int

    @classmethod
    def read(cls, volume: Volume) -> Self | None:
        """None when this is no NTFS. Raises `GuestUnreadable`, also for a volume under BitLocker."""
        if volume.size_bytes < BOOT_BYTES:
            return None
        boot = volume.read(0, BOOT_BYTES)
        if boot[OEM_NAME] == OEM_BITLOCKER:
            raise GuestUnreadable("encrypted by BitLocker")
        if boot[OEM_NAME] != OEM_NTFS:
            return None
        sector, per_cluster, _, mft, _, record, block, serial = unpack(BOOT, boot, BOOT_OFFSET, "boot sector")
        check_power_of_two(sector, MIN_SECTOR_BYTES, MAX_SECTOR_BYTES, "NTFS sector size")
        # Above 128, it is the negative of an exponent.
        sectors = per_cluster if per_cluster <= 128 else 1 << (256 - per_cluster)
        cluster = check_power_of_two(sector * sectors, sector, MAX_CLUSTER_BYTES, "NTFS cluster size")
        check_range(mft, 1, volume.size_bytes // cluster, "cluster of the MFT")
        return cls(
            cluster_bytes=cluster,
            record_bytes=check_power_of_two(
                _size(record, cluster), MIN_RECORD_BYTES, MAX_RECORD_BYTES, "NTFS record size"
            ),
            index_block_bytes=check_power_of_two(
                _size(block, cluster), MIN_INDEX_BLOCK_BYTES, MAX_INDEX_BLOCK_BYTES, "NTFS index block size"
            ),
            mft_start=mft * cluster,
            serial=serial,
        )


def _size(field: int, cluster_bytes: int) -> int:
    """Clusters, or the negative of an exponent of two."""
    return field * cluster_bytes if field >= 0 else 1 << -field


def repaired(content: bytes, magic: bytes, what: str) -> bytes:
    """A record or index block with the last bytes of its sectors put back.

    Raises `GuestUnreadable` when it is something else or was written only in part.
    """
    found, offset, count = struct.Struct("<4sHH").unpack_from(content)
    if found != magic:
        raise GuestUnreadable(f"{what} does not begin with {magic.decode()}")
    if count != len(content) // FIXUP_BYTES + 1 or not 8 <= offset <= FIXUP_BYTES - 2 - 2 * count:
        raise GuestUnreadable(f"{what} has an update sequence of {count} at {offset}")
    mended = bytearray(content)
    mark = content[offset : offset + 2]
    for index in range(1, count):
        end = index * FIXUP_BYTES
        if content[end - 2 : end] != mark:
            raise GuestUnreadable(f"{what} was written only in part")
        mended[end - 2 : end] = content[offset + 2 * index : offset + 2 * index + 2]
    return bytes(mended)

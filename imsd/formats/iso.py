"""ISO: an optical disc (ECMA-119 / ISO 9660, or UDF) as a file. Its bytes are the disk, like RAW's.

References: ECMA-119 §8 (volume descriptors), El Torito 1.0 (boot record), ECMA-167 part 2 (UDF).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import ClassVar

from imsd.contract import ByteRange

from .raw import open_blocks
from .reader import Finding, FormatReader, OpenedImage
from .source import ByteSource

SECTOR_BYTES = 2048

# Volume descriptors start at sector 16, one a sector; those of UDF follow those of ISO 9660. Discs have
# three to six; a terminator ends the set, this bound ends the search.
DESCRIPTORS_OFFSET = 16 * SECTOR_BYTES
MAX_DESCRIPTORS = 17
DESCRIPTORS_END = DESCRIPTORS_OFFSET + MAX_DESCRIPTORS * SECTOR_BYTES

ISO_IDENTIFIER = b"CD001"
UDF_IDENTIFIERS = (b"NSR02", b"NSR03")
BOOT_RECORD, PRIMARY = 0, 1
EL_TORITO = b"EL TORITO SPECIFICATION"

# In a primary volume descriptor: sectors of the volume at 80, bytes of a sector at 128.
VOLUME_SIZE = struct.Struct("<I")
SECTOR_SIZE = struct.Struct("<H")


class IsoReader(FormatReader):
    name: ClassVar[str] = "iso"
    summary: ClassVar[str] = "an optical disc (ISO 9660 or UDF)"
    is_streamable: ClassVar[bool] = True

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        blocks = open_blocks(source, max_virtual_size_bytes)
        return OpenedImage(self.name, blocks, list(_findings(source)))


def descriptors(area: bytes | memoryview) -> Iterator[memoryview]:
    """The whole volume descriptors in ``area``, the file's bytes from `DESCRIPTORS_OFFSET`."""
    view = memoryview(area)
    for start in range(0, len(view) - SECTOR_BYTES + 1, SECTOR_BYTES):
        yield view[start : start + SECTOR_BYTES]


def is_iso(area: bytes | memoryview) -> bool:
    """Whether a volume of ISO 9660 or UDF is described in ``area``, see `descriptors`."""
    first = next(descriptors(area), memoryview(b""))
    if first[1:6] == ISO_IDENTIFIER:
        return True
    return any(descriptor[1:6] in UDF_IDENTIFIERS for descriptor in descriptors(area))


def _findings(source: ByteSource) -> Iterator[Finding]:
    length = min(source.size_bytes, DESCRIPTORS_END) - DESCRIPTORS_OFFSET
    source.require([ByteRange(DESCRIPTORS_OFFSET, length)])
    volumes = [d for d in descriptors(source.read(DESCRIPTORS_OFFSET, length)) if d[1:6] == ISO_IDENTIFIER]
    if not any(d[0] == BOOT_RECORD and d[7 : 7 + len(EL_TORITO)] == EL_TORITO for d in volumes):
        yield Finding("ISO_NOT_BOOTABLE", "the disc has no El Torito boot record: it boots no server")
    for volume in volumes:
        if volume[0] != PRIMARY:
            continue
        size_bytes = VOLUME_SIZE.unpack_from(volume, 80)[0] * SECTOR_SIZE.unpack_from(volume, 128)[0]
        if size_bytes > source.size_bytes:
            yield Finding(
                "ISO_SHORTER_THAN_VOLUME",
                f"the volume has {size_bytes} bytes but the file only {source.size_bytes}: "
                "the end of the disc may be missing",
            )
        return

"""Programs of Windows and of UEFI: which processors they are for.

Source: Microsoft, "PE Format". All numbers are little-endian.
"""

from __future__ import annotations

import struct

from .architecture import Architecture
from .record import check_range, unpack
from .volume import GuestUnreadable, Volume

DOS_HEADER_BYTES = 64
PE_OFFSET = struct.Struct("<60xI")
PE_HEADER = struct.Struct("<4sH18xH")  # magic, machine, …, kind of the optional header
MAX_PE_OFFSET = 1 << 20
OPTIONAL_HEADER_BITS = {0x10B: 32, 0x20B: 64}

MACHINE_X86 = 0x14C
MACHINE_X86_64 = 0x8664
MACHINE_ARM = 0x1C4
MACHINE_ARM64 = 0xAA64
FAMILIES = {MACHINE_X86: "x86", MACHINE_X86_64: "x86", MACHINE_ARM: "arm", MACHINE_ARM64: "arm"}


def pe_architecture(program: Volume) -> Architecture:
    """Raises `GuestUnreadable` for what is no such program."""
    if program.size_bytes < DOS_HEADER_BYTES:
        raise GuestUnreadable("not a Windows program: too short")
    head = program.read(0, DOS_HEADER_BYTES)
    (start,) = unpack(PE_OFFSET, head, 0, "DOS header")
    if head[:2] != b"MZ":
        raise GuestUnreadable("not a Windows program: no DOS header")
    check_range(start, 4, MAX_PE_OFFSET, "place of a PE header")
    magic, machine, kind = PE_HEADER.unpack(program.read(start, PE_HEADER.size))
    if magic != b"PE\0\0" or kind not in OPTIONAL_HEADER_BITS:
        raise GuestUnreadable("not a Windows program: no PE header")
    return Architecture(FAMILIES.get(machine, ""), OPTIONAL_HEADER_BITS[kind])

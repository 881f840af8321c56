"""Optical discs made by hand, by the letter of ECMA-119: their descriptors, and no files."""

from __future__ import annotations

import random
import struct

SECTOR = 2048


def disc(*, bootable: bool, sectors: int = 40, first: bytes = b"") -> bytes:
    """A disc of so many sectors; ``first``: what stands before the descriptors, as on hybrid discs."""
    content = bytearray(first.ljust(sectors * SECTOR, b"\0"))
    primary = bytearray(SECTOR)
    primary[:7] = b"\x01CD001\x01"
    primary[80:84] = struct.pack("<I", sectors)
    primary[128:130] = struct.pack("<H", SECTOR)
    boot = b"\x00CD001\x01EL TORITO SPECIFICATION" if bootable else b""
    for sector, descriptor in enumerate([bytes(primary), boot, b"\xffCD001\x01"], 16):
        content[sector * SECTOR : sector * SECTOR + len(descriptor)] = descriptor
    return bytes(content)


def sound_file(chosen: random.Random) -> bytes:
    """A small disc: bootable or not, with or without a boot sector, of ISO 9660 or of UDF too."""
    first = chosen.choice([b"", b"\x33\xed".ljust(510, b"\x90") + b"\x55\xaa"])
    content = bytearray(disc(bootable=chosen.random() < 0.5, sectors=chosen.randrange(20, 60), first=first))
    if chosen.random() < 0.3:
        content[19 * SECTOR : 19 * SECTOR + 7] = b"\0" + chosen.choice([b"NSR02", b"NSR03"]) + b"\1"
    return bytes(content)

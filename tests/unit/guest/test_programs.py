"""Headers of programs: of Windows (PE) and of Linux (ELF)."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import pytest

from imsd.guest.architecture import Architecture
from imsd.guest.elf import ElfHeader, read_elf
from imsd.guest.pe import pe_architecture
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.windows_disks import program

LOADER = "/lib/ld.so.1"


def elf(machine: int, bits: int, order: str = "<", *, is_static: bool = False) -> bytes:
    """A program with one or two program headers."""
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]).ljust(12, b"\0")
    kinds = [1] if is_static else [1, 3]
    place = struct.Struct(order + ("I" if bits == 32 else "Q"))
    start, size = (52, 32) if bits == 32 else (64, 56)
    head = (
        ident + struct.pack(order + "HHI", 2, machine, 1) + place.pack(0) + place.pack(start) + place.pack(0)
    )
    head += struct.pack(order + "IHHHHHH", 0, start, size, len(kinds), 0, 0, 0)
    text = start + size * len(kinds)
    headers = b""
    for kind in kinds:
        if bits == 32:
            headers += struct.pack(order + "IIIIIIII", kind, text, 0, 0, len(LOADER) + 1, 0, 0, 0)
        else:
            headers += struct.pack(order + "IIQQQQQQ", kind, 0, text, 0, 0, len(LOADER) + 1, 0, 0)
    return head + headers + LOADER.encode() + b"\0"


@pytest.mark.parametrize(
    ("machine", "family", "bits"),
    [(0x8664, "x86", 64), (0x14C, "x86", 32), (0xAA64, "arm", 64), (0x1C4, "arm", 32), (0x200, "", 64)],
)
def test_the_architecture_of_a_windows_program(machine: int, family: str, bits: int) -> None:
    assert pe_architecture(BytesVolume(program(machine))) == Architecture(family, bits)


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (0, b"ZM"),
        (60, b"\xff\xff\xff\xff"),
        (60, bytes(4)),
        (60, b"\xfe\3\0\0"),
        (128, b"NE"),
        (152, b"\0\0"),
    ],
)
def test_what_is_no_windows_program_is_refused(offset: int, content: bytes) -> None:
    damaged = bytearray(program())
    damaged[offset : offset + len(content)] = content
    with pytest.raises(GuestUnreadable):
        pe_architecture(BytesVolume(bytes(damaged)))


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize(
    ("machine", "bits", "order", "family"),
    [
        (62, 64, "<", "x86"),
        (3, 32, "<", "x86"),
        (183, 64, "<", "arm"),
        (40, 32, "<", "arm"),
        (22, 64, ">", ""),
    ],
)
def test_the_architecture_of_a_linux_program(
    machine: int, bits: int, order: str, family: str, is_static: bool
) -> None:
    found = read_elf(BytesVolume(elf(machine, bits, order, is_static=is_static)))
    assert found == ElfHeader(Architecture(family, bits), "" if is_static else LOADER)


def test_a_real_program_is_read() -> None:
    found = read_elf(BytesVolume(Path(sys.executable).resolve().read_bytes()))
    assert found.architecture.bits == 64
    assert found.interpreter.startswith("/lib")


@pytest.mark.parametrize(
    ("offset", "content"),
    [
        (0, b"\x7fELG"),
        (4, b"\3"),
        (5, b"\0"),
        (32, b"\xff" * 8),  # place of the program headers
        (54, b"\1\0"),  # their size
        (56, b"\xff\xff"),  # their number
        (64 + 56 + 8, b"\xff" * 8),  # place of the loader's path
        (64 + 56 + 32, b"\xff" * 8),  # its length
    ],
)
def test_what_is_no_linux_program_is_refused(offset: int, content: bytes) -> None:
    damaged = bytearray(elf(62, 64))
    damaged[offset : offset + len(content)] = content
    with pytest.raises(GuestUnreadable):
        read_elf(BytesVolume(bytes(damaged)))


@pytest.mark.parametrize("whole", [elf(62, 64), elf(3, 32), program()], ids=["elf64", "elf32", "pe"])
def test_damaged_programs_are_only_ever_unreadable(whole: bytes) -> None:
    refused = 0
    for seed in range(300):
        chosen = random.Random(seed)
        damaged = bytearray(whole[: chosen.randrange(len(whole) + 1)])
        for _ in range(chosen.randrange(4)):
            if damaged:
                damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        for read in (read_elf, pe_architecture):
            try:
                read(BytesVolume(bytes(damaged)))
            except GuestUnreadable:
                refused += 1
    assert refused > 300

"""Programs of Linux and BSD: which processors they are for, and what loads them.

Source: "Tool Interface Standard: Executable and Linking Format", and elf(5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .architecture import Architecture
from .record import check_range
from .volume import GuestUnreadable, Volume

IDENT_BYTES = 16
MAGIC = b"\x7fELF"
BITS = {1: 32, 2: 64}
BYTE_ORDERS = {1: "<", 2: ">"}
MACHINE = "H"  # at 18, in every class
MACHINE_OFFSET = 18
# By bits: at which offset, place of the program headers, …, size and number of program headers.
PROGRAM_HEADERS = {32: (28, "I10xHH"), 64: (32, "Q14xHH")}
# By bits: type, …, place in the file, …, bytes in the file.
PROGRAM_HEADER = {32: "II8xI", 64: "I4xQ16xQ"}
INTERPRETER = 3

MAX_PROGRAM_HEADERS = 128
MAX_PROGRAM_HEADER_BYTES = 128
MAX_INTERPRETER_BYTES = 4096

FAMILIES = {3: "x86", 62: "x86", 40: "arm", 183: "arm"}


@dataclass(frozen=True, slots=True)
class ElfHeader:
    """``interpreter``: path of the loader, empty for a program that needs none."""

    architecture: Architecture
    interpreter: str


def read_elf(program: Volume) -> ElfHeader:
    """Raises `GuestUnreadable` for what is no such program."""
    if program.size_bytes < IDENT_BYTES:
        raise GuestUnreadable("not an ELF program: too short")
    ident = program.read(0, IDENT_BYTES)
    bits, order = BITS.get(ident[4]), BYTE_ORDERS.get(ident[5])
    if ident[:4] != MAGIC or bits is None or order is None:
        raise GuestUnreadable("not an ELF program")
    (machine,) = _fields(program, MACHINE_OFFSET, order + MACHINE)
    architecture = Architecture(FAMILIES.get(machine, ""), bits)
    return ElfHeader(architecture, _interpreter(program, bits, order))


def _interpreter(program: Volume, bits: int, order: str) -> str:
    offset, layout = PROGRAM_HEADERS[bits]
    start, size, count = _fields(program, offset, order + layout)
    layout = order + PROGRAM_HEADER[bits]
    check_range(count, 0, MAX_PROGRAM_HEADERS, "number of program headers")
    if not count:
        return ""
    check_range(size, struct.calcsize(layout), MAX_PROGRAM_HEADER_BYTES, "size of a program header")
    table = program.read(start, count * size)
    for index in range(count):
        kind, place, length = struct.unpack_from(layout, table, index * size)
        if kind == INTERPRETER:
            path = program.read(place, check_range(length, 0, MAX_INTERPRETER_BYTES, "length of a path"))
            return path.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return ""


def _fields(program: Volume, offset: int, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, program.read(offset, struct.calcsize(layout)))

"""Which format a file has: decided once, from all signatures it carries, and never guessed again.

Formats bear their signatures at the start, at 64 bytes, at 32 KiB, or only at the very end, and a
hostile file may bear several. Exactly one may match; an optical disc may start with a boot sector like
any disk; a file without a signature is RAW. What the sender declared must be what is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from imsd.contract import ByteRange, ImageRefused

from .iso import DESCRIPTORS_END, DESCRIPTORS_OFFSET, is_iso
from .ova import NAME as OVA
from .ova import holds_disks, is_ova
from .qcow2_layout import MAGIC as QCOW_MAGIC
from .qed_layout import MAGIC as QED_MAGIC
from .reader import OpenedImage
from .registry import READERS
from .source import ByteSource
from .unwrap import wrapper_of
from .vdi_layout import SIGNATURE as VDI_SIGNATURE
from .vhd_layout import COOKIE as VHD_COOKIE
from .vhd_layout import FOOTER_BYTES as VHD_FOOTER_BYTES
from .vhd_layout import OLD_FOOTER_BYTES as VHD_OLD_FOOTER_BYTES
from .vhdx_layout import SIGNATURE as VHDX_SIGNATURE
from .vmdk_layout import MAGIC as VMDK_MAGIC
from .vmdk_layout import OLD_ESX_MAGIC, SE_SPARSE_MAGIC
from .zvhd_layout import ZVHD2_COOKIE, ZVHD_COOKIE

# From this many first bytes on `head_formats` sees all that stands at the start of a file.
HEAD_BYTES = DESCRIPTORS_END

PAGE_BYTES = 4096
TAIL_BYTES = PAGE_BYTES

VDI_SIGNATURE_OFFSET = 0x40
VMDK_MAGICS = (VMDK_MAGIC, OLD_ESX_MAGIC, SE_SPARSE_MAGIC)

# Formats whose only signature may stand at the end of the file: its start looks like a raw disk.
SIGNED_AT_END = frozenset({"vhd"})

# Files that hold disks and are none: what was declared speaks of the disks.
PACKAGES = frozenset({OVA})

# A VMDK descriptor starts with its comment, or with any comments and blank lines before `version=`: what
# QEMU takes for one is one.
VMDK_DESCRIPTOR = re.compile(
    rb"\s*#[ \t]*disk descriptor|(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*version[ \t]*=[ \t]*[0-9]", re.IGNORECASE
)

# (format, whether the first bytes of a file and its last `TAIL_BYTES` bear its signature)
SIGNATURES: list[tuple[str, Callable[[bytes, bytes], bool]]] = [
    ("qcow2", lambda head, tail: head.startswith(QCOW_MAGIC) and head[4:8] != b"\0\0\0\1"),
    ("qcow", lambda head, tail: head.startswith(QCOW_MAGIC) and head[4:8] == b"\0\0\0\1"),
    ("qed", lambda head, tail: head.startswith(QED_MAGIC)),
    ("vhdx", lambda head, tail: head.startswith(VHDX_SIGNATURE)),
    ("vhd", lambda head, tail: head.startswith(VHD_COOKIE) or _has_vhd_footer(tail)),
    ("vdi", lambda head, tail: head.startswith(VDI_SIGNATURE, VDI_SIGNATURE_OFFSET)),
    ("vmdk", lambda head, tail: head.startswith(VMDK_MAGICS) or bool(VMDK_DESCRIPTOR.match(head))),
    ("zvhd", lambda head, tail: head.startswith(ZVHD_COOKIE) or tail.startswith(ZVHD_COOKIE)),
    ("zvhd2", lambda head, tail: head.startswith(ZVHD2_COOKIE) or tail.startswith(ZVHD2_COOKIE)),
    ("iso", lambda head, tail: is_iso(head[DESCRIPTORS_OFFSET:])),
    (OVA, lambda head, tail: is_ova(head)),
]


def detect(source: ByteSource) -> str:
    """The format of a whole file, one of `PACKAGES` among them.

    Raises ImageRefused (IMAGE_EMPTY, FORMAT_AMBIGUOUS), `NeedBytes`.
    """
    if not source.size_bytes:
        raise ImageRefused("the file is empty", reason="IMAGE_EMPTY", hint="send a file that holds a disk")
    found = list(_matching(*_ends(source)))
    if len(found) > 1:
        raise ambiguous(found)
    return found[0] if found else "raw"


def head_formats(head: bytes) -> list[str]:
    """All formats that the start of a file speaks for.

    Provisional, from `HEAD_BYTES` bytes on as good as it gets before the end of the file is known: some
    signatures stand there, and then the file is refused when all of it has come.
    """
    return list(_matching(head[:HEAD_BYTES], b""))


def check_tail(tail: bytes, found: str) -> None:
    """The last `TAIL_BYTES` of a file whose start is that of format ``found`` speak for no other.

    Raises ImageRefused (FORMAT_AMBIGUOUS).
    """
    if others := [name for name in _matching(b"", tail) if name != found]:
        raise ambiguous([found, *others])


def wrapper_at(head: bytes, declared: str) -> str | None:
    """What a file that starts with ``head`` was compressed with; None for one that is a disk image itself.

    The declared format speaks of what is inside, but for `raw`: then the disk itself starts like this.
    Raises ImageRefused (FORMAT_AMBIGUOUS).
    """
    wrapper = None if declared == "raw" else wrapper_of(head)
    if wrapper and (formats := head_formats(head)):
        raise ambiguous([wrapper, *formats])
    return wrapper


def find_wrapper(source: ByteSource, declared: str) -> str | None:
    """As `wrapper_at`, of a whole file. Raises ImageRefused (FORMAT_AMBIGUOUS), `NeedBytes`."""
    head, tail = _ends(source)
    wrapper = wrapper_at(head, declared)
    if wrapper:
        check_tail(tail, wrapper)
    return wrapper


def require_declared(declared: str | None, found: str) -> None:
    """Raises ImageRefused (FORMAT_MISMATCH) unless nothing, or what was found, was declared."""
    if found in PACKAGES and declared != "raw":
        return
    if declared and declared != found:
        raise ImageRefused(
            f"the file was declared {declared} but is {found}",
            reason="FORMAT_MISMATCH",
            hint="leave the format out" if found in PACKAGES else _declare(found),
        )


def _declare(found: str) -> str:
    return (
        f"declare {found}, or leave the format out; of an image that waits for its file, change it with "
        f"`imsctl image set --format {found}`"
    )


def ambiguous(found: Sequence[str]) -> ImageRefused:
    return ImageRefused(
        f"the file carries the signatures of several formats: {', '.join(found)}",
        reason="FORMAT_AMBIGUOUS",
        hint="convert it with the program that wrote it, naming the format it is meant to have",
    )


def open_image(source: ByteSource, declared: str | None, max_virtual_size_bytes: int) -> OpenedImage:
    """Detect the format, compare it with the ``declared`` one if any, and open the file's disk.

    Raises ImageRefused (FORMAT_MISMATCH, FORMAT_AMBIGUOUS, FORMAT_UNSUPPORTED, IMAGE_*), `NeedBytes`.
    """
    found = detect(source)
    require_declared(declared, found)
    if found in PACKAGES:
        raise holds_disks(found)
    return READERS[found].open(source, max_virtual_size_bytes)


def _matching(head: bytes, tail: bytes) -> Iterator[str]:
    return (name for name, is_signed in SIGNATURES if is_signed(head, tail))


def _has_vhd_footer(tail: bytes) -> bool:
    return any(tail[-length:].startswith(VHD_COOKIE) for length in (VHD_FOOTER_BYTES, VHD_OLD_FOOTER_BYTES))


def _ends(source: ByteSource) -> tuple[bytes, bytes]:
    """The first `HEAD_BYTES` of a file and its last `TAIL_BYTES`, or what there is of them."""
    size = source.size_bytes
    head = ByteRange(0, min(size, HEAD_BYTES))
    tail = ByteRange(max(0, size - TAIL_BYTES), min(size, TAIL_BYTES))
    source.require([head, tail])
    return _bytes(source, head), _bytes(source, tail)


def _bytes(source: ByteSource, place: ByteRange) -> bytes:
    return bytes(source.read(place.offset, place.length))

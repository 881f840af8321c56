"""What every reader of a disk format is, and what it may say about a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .source import BlockSource, ByteSource

# The largest virtual disk the service accepts unless configured otherwise: 64 TiB, what VHDX and QED
# can hold. A file that claims more is refused before anything is allocated.
MAX_VIRTUAL_SIZE_BYTES = 64 << 40


@dataclass(frozen=True, slots=True)
class Finding:
    """Something noticed about a file that does not prevent its use; ``code`` is stable."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """A file understood: its disk, and what was noticed.

    ``variant`` says in a few words which kind of the format it is, for people; empty when there is one.
    """

    format_name: str
    blocks: BlockSource
    findings: Sequence[Finding] = ()
    variant: str = ""


class FormatReader(ABC):
    """One disk format. ``open`` checks everything that can be checked before data is read.

    ``is_streamable``: the disk's blocks are the file's bytes in order, so that it can be stored
    while it arrives.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    is_streamable: ClassVar[bool] = False

    @abstractmethod
    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        """Raises `ImageRefused` with the reason of the first check that fails, and `NeedBytes`."""


def binary_size(size_bytes: int) -> str:
    """A power of two as people write it: ``64 KiB``."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} bytes"

"""Which file system a volume holds."""

from __future__ import annotations

from .btrfs import BtrfsFileSystem
from .ext import ExtFileSystem
from .fat import FatFileSystem
from .file_system import FileSystem
from .iso9660 import Iso9660FileSystem
from .ntfs import NtfsFileSystem
from .volume import GuestUnreadable, Volume
from .xfs import XfsFileSystem

# In the order in which they are tried. A disc may carry the boot sector of another file system, so ISO 9660
# comes last: on a partition it is hardly ever there.
FILE_SYSTEMS: tuple[type[FileSystem], ...] = (
    XfsFileSystem,
    ExtFileSystem,
    BtrfsFileSystem,
    NtfsFileSystem,
    FatFileSystem,
    Iso9660FileSystem,
)


def find_file_system(volume: Volume) -> FileSystem | None:
    """The first file system that opens; None when no signature is there.

    Raises `GuestUnreadable` when there is a signature but nothing opens.
    """
    problem: GuestUnreadable | None = None
    for kind in FILE_SYSTEMS:
        try:
            found = kind.open(volume)
        except GuestUnreadable as damaged:
            problem = problem or damaged
            continue
        if found is not None:
            return found
    if problem is not None:
        raise problem
    return None

"""Names in directories of XFS, in all their forms.

Reference: XFS Algorithms & Data Structures, "Directories"; Linux, fs/xfs/libxfs/xfs_da_format.h.
"""

from __future__ import annotations

from collections.abc import Iterator

from .inodes import Name
from .record import Record
from .volume import GuestUnreadable

# A short directory: entries at 0, whether inodes take 8 bytes at 1, the parent, then the entries: length of
# the name at 0, a tag at 1, the name at 3, the type of the file if there is one, the inode.
SHORT_ENTRY_BYTES = 3

# A block of data, also as the only block of its directory: there a list of hashes ends it.
BLOCK_MAGICS = (b"XD2B", b"XDB3")
BLOCK_HEADERS = {b"XD2B": 16, b"XD2D": 16, b"XDB3": 64, b"XDD3": 64}
TAIL_BYTES = 8
HASH_BYTES = 8

# In a block: an unused run has FF FF at 0 and its length at 2; an entry has its inode at 0, the length of its
# name at 8, the name at 9, the type of the file if there is one, and a tag of 2 bytes. Its length is a
# multiple of 8.
UNUSED = 0xFFFF
NAME_OFFSET = 9
TAG_BYTES = 2
# Blocks of data lie below this offset of a directory, hashes above.
DATA_END = 32 << 30


def short_names(fork: Record, has_file_type: bool) -> Iterator[Name]:
    """The entries of a directory that lies in its inode. Raises `GuestUnreadable`."""
    is_wide = fork.u8(1) > 0
    width = 8 if is_wide else 4
    place = 2 + width
    for _ in range(fork.u8(0)):
        length = fork.u8(place)
        name = fork.raw(place + SHORT_ENTRY_BYTES, length)
        place += SHORT_ENTRY_BYTES + length + has_file_type
        yield name, fork.u64(place) if is_wide else fork.u32(place)
        place += width


def block_names(content: bytes, has_file_type: bool) -> Iterator[Name]:
    """The entries of one block of data. Raises `GuestUnreadable`."""
    block = Record(content, "big", "a directory of XFS")
    magic = block.raw(0, 4)
    place = BLOCK_HEADERS.get(magic)
    if place is None:
        raise GuestUnreadable("a directory of XFS is damaged")
    end = len(content)
    if magic in BLOCK_MAGICS:
        end -= TAIL_BYTES + block.u32(end - TAIL_BYTES) * HASH_BYTES
    while place < end:
        if block.u16(place) == UNUSED:
            length = block.u16(place + 2)
            if length < 8:
                raise GuestUnreadable("a directory of XFS is damaged")
            place += length
            continue
        length = block.u8(place + 8)
        name = block.raw(place + NAME_OFFSET, length)
        yield name, block.u64(place)
        place += NAME_OFFSET + length + has_file_type + TAG_BYTES + 7 & ~7

"""Packages to be damaged, and their checksums put right again."""

from __future__ import annotations

import gzip
import random
import tarfile

from tests.packages import ova

BLOCK_BYTES = 512
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def sound_file(chosen: random.Random) -> bytes:
    """A small package of one to three disks of any content, some with long names, some packed."""
    is_packed = chosen.random() < 0.3
    disks = {}
    for number in range(chosen.randrange(1, 4)):
        content = chosen.randbytes(chosen.randrange(1, 3000))
        name = f"{'long/' * chosen.choice([0, 0, 15])}disk{number}.vmdk"
        disks[name] = gzip.compress(content, mtime=0) if is_packed else content
    return ova(
        disks,
        algorithm=chosen.choice(["", "SHA1", "SHA256"]),
        compression="gzip" if is_packed else "",
        firmware=chosen.choice(["", "efi"]),
        tar_format=chosen.choice(FORMATS),
    )


def resealed(file: bytearray) -> bytes:
    """``file`` with the right checksum in every block that is a header of tar."""
    for start in range(0, len(file) - BLOCK_BYTES + 1, BLOCK_BYTES):
        block = file[start : start + BLOCK_BYTES]
        if block.startswith(b"ustar", 257):
            block[148:156] = b" " * 8
            file[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(file)

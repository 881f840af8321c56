"""Damages OVA packages and packed files and takes them apart: only `ImageRefused` may come out, and soon.

    python tests/fuzz/fuzz_packages.py --seconds 60 [--seed N]

A failure prints the seed of the damaged file, which `--seed` makes again.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).parents[2]))

from imsd.contract import ImageRefused
from imsd.formats.detect import PACKAGES, detect, find_wrapper
from imsd.formats.ova import MemberSource, open_package
from imsd.formats.source import MemorySource
from imsd.formats.unwrap import Unwrapper
from tests.fuzz.fuzzing import fuzz
from tests.packages import ova

# What one damaged file may take, on a busy machine.
MAX_SECONDS = 20.0
MAX_UNPACKED_BYTES = 8 << 20

PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
}
# What means something in a header of tar, in a descriptor or in a manifest.
TOKENS = [b"<", b">", b"&", b'"', b"]]>", b"<!--", b"<!ENTITY", b"\0", b"\x80", b"7777", b"path=", b"SHA1("]


def sound_file(chosen: random.Random) -> tuple[bytearray, str]:
    """A small package, perhaps with packed disks, and what all of it is packed with."""
    pack = chosen.choice(["", "", "gzip"])
    disks = {
        f"{'long/' * chosen.choice([0, 0, 15])}disk{number}": PACK[pack](
            chosen.randbytes(chosen.randrange(1, 3000))
        )
        for number in range(chosen.randrange(1, 4))
    }
    file = ova(
        disks,
        algorithm=chosen.choice(["", "SHA1", "SHA256"]),
        compression=pack,
        firmware=chosen.choice(["", "efi"]),
        tar_format=chosen.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    )
    return bytearray(file), chosen.choice(list(PACK))


def damage(chosen: random.Random, file: bytearray) -> bytearray:
    """``file`` with a few bytes wrong, or cut; a header may have the right checksum all the same."""
    for _ in range(chosen.choice([0, 1, 1, 2, 4])):
        at = chosen.randrange(max(1, min(len(file), chosen.choice([512, 2048, 8192, len(file)]))))
        kind = chosen.randrange(4)
        if kind == 0:
            file[at : at + 1] = chosen.randbytes(1)
        elif kind == 1:
            token = chosen.choice(TOKENS)
            file[at : at + len(token)] = token
        elif kind == 2 and chosen.random() < 0.2:
            del file[at + 1 :]
        _mend_checksum(file, at // 512 * 512)
    return file


def _mend_checksum(file: bytearray, start: int) -> None:
    block = file[start : start + 512]
    if block[257:262] == b"ustar":
        block[148:156] = b" " * 8
        file[start + 148 : start + 156] = b"%06o\0 " % sum(block)


def run_one(seed: int) -> str:
    """One damaged file; returns how it ended. Raises whatever must not come out."""
    chosen = random.Random(seed)
    file, wrapper = sound_file(chosen)
    if chosen.random() < 0.7:
        return try_file(PACK[wrapper](bytes(damage(chosen, file))))
    return try_file(bytes(damage(chosen, bytearray(PACK[wrapper](bytes(file))))))


def try_file(file: bytes) -> str:
    """Take a file apart; how it ended: ``ok``, or the reason of its refusal."""
    began = time.monotonic()
    try:
        ending = _take_apart(_unpacked(file))
    except ImageRefused as refused:
        ending = refused.reason
    assert time.monotonic() - began < MAX_SECONDS, "it took too long"
    return ending


def _take_apart(file: bytes) -> str:
    source = MemorySource(file)
    if detect(source) not in PACKAGES:
        return "no package"
    for disk in open_package(source).disks:
        member = MemberSource(source, disk.member)
        content = bytes(member.read(0, member.size_bytes))
        _unpacked(content, disk.wrapper)
    return "ok"


def _unpacked(file: bytes, wrapper: str | None = "") -> bytes:
    wrapper = wrapper or find_wrapper(MemorySource(file), "")
    if not wrapper:
        return file
    unwrapper = Unwrapper(wrapper, MAX_UNPACKED_BYTES)
    unpacked = b"".join(unwrapper.feed(file))
    unwrapper.finish()
    return unpacked


if __name__ == "__main__":
    fuzz(__doc__, run_one)

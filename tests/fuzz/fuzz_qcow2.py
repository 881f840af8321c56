"""Damages QCOW2 files at random and reads them: only `ImageRefused` may come out, and soon.

    python tests/fuzz/fuzz_qcow2.py --seconds 60 [--seed N]

A failure prints the seed of the damaged file, which `--seed` makes again.
"""

from __future__ import annotations

import random
import struct
import sys
import time
import zlib
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).parents[2]))

from imsd.contract import ImageRefused
from imsd.formats.detect import head_formats, open_image
from imsd.formats.source import BlockSource, MemorySource
from tests.fuzz.fuzzing import fuzz

LIMIT = 64 << 40
COMPRESSED, COPIED, ZERO = 1 << 62, 1 << 63, 1

# What one damaged file may take. The slowest seen took 0.2 s on a busy machine.
MAX_SECONDS = 20.0

# Of a disk that claims to be large, so much is read: its start, its end and places between.
MAX_READ_BYTES = 1 << 20

INTERESTING = [0, 1, 2, 3, 7, 8, 9, 16, 21, 63, 64, 104, 255, 511, 512, 1 << 16, 1 << 31, 1 << 32, 1 << 63]


def sound_file(chosen: random.Random) -> bytearray:
    """A small file with clusters of every kind, by the letter of the format."""
    bits = chosen.choice([9, 12, 14, 16])
    is_extended = bits >= 14 and chosen.random() < 0.4
    is_zstd = chosen.random() < 0.5
    cluster = 1 << bits
    count = chosen.randrange(1, 12)
    entries: list[int] = []
    data = bytearray()
    first = 3 * cluster
    for _ in range(count):
        entry, bitmap = _some_cluster(chosen, first, bits, data, is_zstd=is_zstd)
        if is_extended:
            entries += [entry & ~ZERO if not entry & COMPRESSED else entry, bitmap]
        else:
            entries.append(entry)
    features = (8 if is_zstd else 0) | (16 if is_extended else 0) | (chosen.random() < 0.2)
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, bits, count * cluster, 0, 1, cluster, 0, 0, 0, 0
    )
    head += struct.pack(">QQQIIB7x", features, 0, 0, 4, 112, is_zstd)
    parts = (head, struct.pack(">Q", 2 * cluster | COPIED), struct.pack(f">{len(entries)}Q", *entries))
    return bytearray(b"".join(part.ljust(cluster, b"\0") for part in parts) + data)


def _some_cluster(
    chosen: random.Random, first: int, bits: int, data: bytearray, *, is_zstd: bool
) -> tuple[int, int]:
    """An entry and its bitmap; appends to ``data``, which lies in the file from ``first`` on."""
    cluster = 1 << bits
    plain = chosen.choice(
        [
            bytes(cluster),
            chosen.randbytes(64) * (cluster // 64),
            chosen.randbytes(cluster // 2).ljust(cluster),
        ]
    )
    kind = chosen.randrange(4)
    if kind == 0:
        return chosen.choice([0, ZERO]), chosen.choice([0, 0xFFFF_FFFF << 32])
    if kind == 1:
        data += bytes(-len(data) % cluster)
        place = first + len(data)
        data += plain
        return place | COPIED, chosen.choice([0xFFFF_FFFF, 0xFFFF, 0xFF | 0xFF00 << 32])
    packer = zlib.compressobj(1, zlib.DEFLATED, -12)
    content = zstandard.compress(plain, 1) if is_zstd else packer.compress(plain) + packer.flush()
    place = first + len(data)
    data += content
    sectors = (place + len(content) - 1) // 512 - place // 512
    return COMPRESSED | sectors << (62 - (bits - 8)) | place, 0


def damage(chosen: random.Random, file: bytearray) -> bytes:
    """``file`` with a few fields, bits or bytes wrong, or cut, or longer."""
    for _ in range(chosen.choice([0, 1, 1, 2, 3, 8])):
        # The header and the tables are where damage matters most.
        end = min(len(file), chosen.choice([8, 112, 512, 1 << 16, 3 << 16, len(file)]))
        if end < 1:
            break
        at = chosen.randrange(end)
        kind = chosen.randrange(5)
        if kind == 0:
            file[at] ^= 1 << chosen.randrange(8)
        elif kind == 1:
            at = at // 4 * 4
            file[at : at + 4] = (chosen.choice(INTERESTING) % (1 << 32)).to_bytes(4, "big")
        elif kind == 2:
            at = at // 8 * 8
            value = chosen.choice([*INTERESTING, chosen.getrandbits(64), len(file), len(file) - 1])
            file[at : at + 8] = max(0, value).to_bytes(8, "big")
        elif kind == 3:
            del file[at + 1 :]
        else:
            length = chosen.randrange(1, 600)
            file[at : at + length] = chosen.randbytes(length)
    return bytes(file)


def read_some(chosen: random.Random, blocks: BlockSource) -> None:
    """Look at and read parts of a disk as the service does: the whole of it when it is small."""
    size = blocks.size_bytes
    starts = [0, max(0, size - MAX_READ_BYTES), *(chosen.randrange(size) for _ in range(2))]
    for start in starts:
        length = min(MAX_READ_BYTES, size - start)
        extents = blocks.extents(start, length)
        assert sum(extent.length for extent in extents) == length, "extents do not cover the range"
        buffer = bytearray(b"\xee" * length)
        blocks.read_into(start, memoryview(buffer))
        for extent in extents:
            inside = memoryview(buffer)[extent.start - start : extent.end - start]
            assert not extent.is_zero or not any(inside), "a zero extent is not zero"


def run_one(seed: int) -> str:
    """One damaged file; returns how it ended. Raises whatever must not come out."""
    chosen = random.Random(seed)
    return try_file(chosen, damage(chosen, sound_file(chosen)))


def try_file(chosen: random.Random, file: bytes) -> str:
    """Open and read a file; how it ended: ``ok``, or the reason of its refusal."""
    began = time.monotonic()
    try:
        head_formats(file)
        read_some(chosen, open_image(MemorySource(file), None, LIMIT).blocks)
        ending = "ok"
    except ImageRefused as refused:
        ending = refused.reason
    assert time.monotonic() - began < MAX_SECONDS, "it took too long"
    return ending


if __name__ == "__main__":
    fuzz(__doc__, run_one)

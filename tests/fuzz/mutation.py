"""How a file is damaged before it is read: fields, bytes, its length, or parts of another file."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.fuzz.sparse_form import MAX_FILE_BYTES, runs_of_pages

# Gives some bytes for others; at most so many.
Mutate = Callable[[bytes, int], bytes]

# What counts and places are easily wrong with.
INTERESTING = (
    *(0, 1, 2, 3, 7, 8, 9, 12, 16, 21, 31, 32, 63, 64, 104, 127, 128, 255, 256, 511, 512, 4096),
    *(0x7FFF, 0x8000, 0xFFFF, 1 << 16, 1 << 21, 0x7FFF_FFFF, 1 << 31, (1 << 32) - 2, (1 << 32) - 1, 1 << 32),
    *(1 << 41, 1 << 46, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
# Structures begin where pages do, and the first pages of a file hold the most important ones.
REACHES = (1, 1, 2, 4, 16, 64, 1 << 20)
OFFSETS = (16, 64, 128, 512, 4096, 1 << 16)
CHANGES = (1, 1, 1, 2, 2, 3, 4, 8, 24)


def damage(chosen: random.Random, file: bytearray, mutate: Mutate | None = None) -> bytearray:
    """``file``, changed in place in a few places. ``mutate``: another source of bytes for some of them."""
    runs = runs_of_pages(file)
    for _ in range(chosen.choice(CHANGES)):
        if not file:
            return bytearray(chosen.randbytes(64))
        at = _place(chosen, runs, len(file))
        kind = chosen.randrange(20)
        if kind == 0:
            del file[at:]
        elif kind == 1:
            file += chosen.randbytes(chosen.choice((1, 511, 512, 4096)))
        elif kind == 2:
            _shift(chosen, file, at)
        else:
            content = _content(chosen, file, at, mutate)
            file[at : at + len(content)] = content
    del file[MAX_FILE_BYTES:]
    return file


def _place(chosen: random.Random, runs: Sequence[tuple[int, int]], length: int) -> int:
    """Somewhere in the file, most often near the start of a structure."""
    if not runs or chosen.random() < 0.05:
        return chosen.randrange(length)
    if chosen.random() < 0.15:  # some formats have their footer at the end
        return max(0, length - 1 - chosen.randrange(min(length, 4096)))
    start, end = runs[chosen.randrange(min(len(runs), chosen.choice(REACHES)))]
    page = start + chosen.randrange(-(-(end - start) // 512)) * 512 if chosen.random() < 0.5 else start
    at = page + chosen.randrange(chosen.choice(OFFSETS))
    at -= at % chosen.choice((1, 2, 4, 8))
    return min(at, length - 1)


def _content(chosen: random.Random, file: bytearray, at: int, mutate: Mutate | None) -> bytes:
    """What is written there instead, never beyond the end of the file."""
    width = chosen.choice((1, 1, 2, 4, 4, 8, 8))
    order = chosen.choice(("little", "big"))
    kind = chosen.randrange(6)
    if kind == 0:
        content = bytes([file[at] ^ 1 << chosen.randrange(8)])
    elif kind == 1:
        number = chosen.choice((*INTERESTING, len(file), len(file) - 512, chosen.getrandbits(64)))
        content = (max(0, number) % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    elif kind == 2:  # near what it was
        number = int.from_bytes(file[at : at + width], order)  # type: ignore[arg-type]
        number += chosen.choice((-1, 1, 2, 8, -512, 512, number))
        content = (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    elif kind == 3:
        other = chosen.randrange(len(file))
        content = bytes(file[other : other + chosen.choice((4, 8, 16, 64, 512))])
    elif kind == 4 and mutate is not None:
        length = chosen.choice((8, 16, 64, 512))
        content = mutate(bytes(file[at : at + length]), length)
    else:
        content = chosen.randbytes(chosen.choice((1, 2, 4, 8, 64, 600)))
    return content[: len(file) - at]


def _shift(chosen: random.Random, file: bytearray, at: int) -> None:
    """A few bytes more or fewer, as text has them; in blocks, as disks have them."""
    length = chosen.choice((1, 2, 8, 512, 4096))
    if chosen.random() < 0.5:
        del file[at : at + length]
    else:
        file[at:at] = chosen.choice((bytes(length), bytes(file[at : at + length]), chosen.randbytes(length)))

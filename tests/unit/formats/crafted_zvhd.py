"""ZVHD and ZVHD2 files made by hand, by the letter of the format's description, with any field wrong."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import zstandard

from imsd.contract import ImageRefused
from imsd.formats.output import PlainOutput, held_bytes
from imsd.formats.registry import DECODERS, READERS
from imsd.formats.source import MemorySource
from imsd.formats.stream_decoder import MAX_UNIT_BYTES, StreamDecoder, StreamedDisk
from tests.unit.formats.disk_files import LIMIT, bytes_of, noise, read_all, text

BLOCK = 2 << 20
PAGE = 4096
SEGMENT = 32768 * 16

COMPRESSOR = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)


@dataclass(frozen=True)
class Fields:
    """A header or footer page, as written; by default the header of a ZVHD2 disk of four blocks."""

    cookie: bytes = b"z2strm\0\0"
    file_version: int = 0x10000
    size: int = 4 * BLOCK
    alignment: int = 0
    format_version: int = 1
    block_bytes: int = BLOCK
    blocks: int | None = None
    index_position: int = 0
    bitmap_position: int = 0
    index_bytes: int = 0
    bitmap_bytes: int = 0
    index_segment_bytes: int = 0
    bitmap_segment_bytes: int = 0
    index_segments: int = 0
    bitmap_segments: int = 0
    stored_blocks: int = 0
    covers_zero_blocks: int = 0
    compression: int = 1
    extension: bytes = b""
    checksum_error: int = 0

    def page(self) -> bytes:
        head = struct.pack(
            "<8sIIQI4sIIQQIII16s4B",
            self.cookie,
            2,
            self.file_version,
            (1 << 64) - 1,
            848_735_530,
            b"tap\0",
            0x10003,
            0,
            self.size,
            -(-self.size // (1 << 30)) << 30 & (1 << 64) - 1,
            0,
            4,
            0,
            b"one of 16 bytes.",
            0,
            0,
            self.alignment,
            self.format_version,
        )
        if self.cookie == b"z2strm\0\0":
            head += self._tables()
        page = bytearray(head.ljust(144, b"\0") + self.extension).ljust(PAGE, b"\0")
        checksum = (~sum(page[:512]) + self.checksum_error) & 0xFFFF_FFFF
        page[64:68] = checksum.to_bytes(4, "little")
        return bytes(page)

    def _tables(self) -> bytes:
        return struct.pack(
            "<IIQQIIIIIIIBB",
            self.block_bytes,
            -(-self.size // BLOCK) & 0xFFFF_FFFF if self.blocks is None else self.blocks,
            self.index_position,
            self.bitmap_position,
            self.index_bytes,
            self.bitmap_bytes,
            self.index_segment_bytes,
            self.bitmap_segment_bytes,
            self.index_segments,
            self.bitmap_segments,
            self.stored_blocks,
            self.covers_zero_blocks,
            self.compression,
        )


ZVHD_HEADER = Fields(cookie=b"stream\0\0", format_version=0)


@dataclass(frozen=True)
class Parts:
    """What of a record or of the end of a file is wrong."""

    magic: bytes = b"hwstream bg\0"
    claimed: int | None = None
    end: bytes = b"end\0"


def record(block: int, payload: bytes, parts: Parts = Parts()) -> bytes:
    """One record, with garbage between payload and end as other writers leave it."""
    claimed = len(payload) if parts.claimed is None else parts.claimed
    head = struct.pack("<12sII28x", parts.magic, claimed, block)
    length = -(-(48 + len(payload) + 4) // PAGE) * PAGE
    return (head + payload).ljust(length - 4, b"\xa5") + parts.end


def padded(plain: bytes) -> bytes:
    return plain.ljust(BLOCK, b"\0")


def pieces_of_stream(blocks: Sequence[bytes], level: int = 6) -> list[bytes]:
    """Payloads of blocks: one zlib stream, cut behind a sync flush at each."""
    packer = zlib.compressobj(level)
    return [packer.compress(padded(plain)) + packer.flush(zlib.Z_SYNC_FLUSH) for plain in blocks]


def frame(plain: bytes) -> bytes:
    return COMPRESSOR.compress(padded(plain))


def zvhd(records: Sequence[bytes], header: Fields = ZVHD_HEADER, last: Fields | None = None) -> bytes:
    return header.page() + b"".join(records) + (last or header).page()


def zvhd_of(blocks: Mapping[int, bytes], header: Fields = ZVHD_HEADER, level: int = 6) -> bytes:
    """A sound ZVHD file of blocks, by number in order."""
    payloads = pieces_of_stream(list(blocks.values()), level)
    return zvhd([record(block, payload) for block, payload in zip(blocks, payloads, strict=True)], header)


@dataclass(frozen=True)
class Changes:
    """What is to be wrong in a ZVHD2 file; ``footer`` gets the sound one."""

    footer: Callable[[Fields], Fields] = lambda fields: fields
    entries: Callable[[list[tuple[int, int, int]]], list[tuple[int, int, int]]] = lambda entries: entries
    bitmap: Callable[[bytearray], object] = lambda bitmap: None
    end_page: bytes | None = None
    extension: bytes = b""


def zvhd2(
    records: Sequence[tuple[int, bytes]],
    header: Fields = Fields(),
    changes: Changes = Changes(),
) -> bytes:
    """A ZVHD2 file of records (block, record), one entry of the index and bit of the bitmap for each."""
    position = PAGE
    entries = []
    blocks = -(-header.size // BLOCK)
    bitmap = bytearray(-(-blocks // 32768) * 4096)
    for block, content in records:
        entries.append((position, block, len(content)))
        position += len(content)
        bitmap[block // 8] |= 1 << block % 8
    changes.bitmap(bitmap)
    stored = len(entries)
    if header.covers_zero_blocks:
        by_block = {block: (offset, block, length) for offset, block, length in entries}
        entries = [by_block.get(block, (0, 0, 0)) for block in range(blocks)]
    index = b"".join(struct.pack("<QII", *entry) for entry in changes.entries(entries))
    index = index.ljust(-(-len(entries) // 32768) * SEGMENT, b"\0")
    start = position + PAGE
    footer = replace(
        header,
        index_position=start,
        bitmap_position=start + len(index),
        index_bytes=len(index),
        bitmap_bytes=len(bitmap),
        index_segment_bytes=SEGMENT,
        bitmap_segment_bytes=4096,
        index_segments=len(index) // SEGMENT,
        bitmap_segments=len(bitmap) // 4096,
        stored_blocks=stored,
    )
    end_page = header.page() if changes.end_page is None else changes.end_page
    content = b"".join(content for _, content in records)
    return b"".join(
        (header.page(), content, end_page, index, bitmap, changes.extension, changes.footer(footer).page())
    )


def zvhd2_of(blocks: Mapping[int, bytes], header: Fields = Fields()) -> bytes:
    """A sound ZVHD2 file of blocks, by number in order."""
    pack = frame if header.compression else lambda plain: zlib.compress(padded(plain), 6)
    return zvhd2([(block, record(block, pack(plain))) for block, plain in blocks.items()], header)


def some_blocks(chosen: random.Random, blocks: int) -> dict[int, bytes]:
    """Some blocks of a disk, of all kinds, by number in order; a part of each has content."""
    found = {}
    for block in range(blocks):
        if chosen.random() < 0.6:
            length = chosen.choice([512, 4096, 70_144])
            kind = chosen.choice([text, noise])
            found[block] = bytes(512 * chosen.randrange(8)) + kind(length, chosen.randrange(1 << 30))
    return found


def some_size(chosen: random.Random) -> int:
    return BLOCK * chosen.randrange(6) + 512 * chosen.choice([1, 9, 2048, 4096])


def sound_zvhd(chosen: random.Random) -> bytes:
    """A small file, by the letter of the format."""
    size = some_size(chosen)
    content = within(some_blocks(chosen, -(-size // BLOCK)), size)
    return zvhd_of(content, replace(ZVHD_HEADER, size=size), chosen.choice([1, 6]))


def sound_zvhd2(chosen: random.Random) -> bytes:
    """A small file, by the letter of the format, with either compression and either kind of index."""
    fields = Fields(
        size=some_size(chosen),
        compression=chosen.choice([0, 1, 1]),
        covers_zero_blocks=chosen.choice([0, 0, 1]),
    )
    return zvhd2_of(within(some_blocks(chosen, -(-fields.size // BLOCK)), fields.size), fields)


def with_checksums(file: bytearray) -> bytes:
    """``file`` with right checksums in its first and last page, as far as they are there."""
    for start in {0, len(file) - PAGE}:
        if 0 <= start <= len(file) - 512:
            file[start + 64 : start + 68] = bytes(4)
            checksum = ~sum(file[start : start + 512]) & 0xFFFF_FFFF
            file[start + 64 : start + 68] = checksum.to_bytes(4, "little")
    return bytes(file)


SOUND_FILES = {"zvhd": sound_zvhd, "zvhd2": sound_zvhd2}


def within(blocks: Mapping[int, bytes], size: int) -> dict[int, bytes]:
    """``blocks`` without what lies beyond the end of a disk."""
    return {block: plain[: max(0, size - block * BLOCK)] for block, plain in blocks.items()}


def disk_of(blocks: Mapping[int, bytes], size: int) -> bytes:
    content = np.zeros(-(-size // BLOCK) * BLOCK, np.uint8)
    for block, plain in blocks.items():
        content[block * BLOCK : block * BLOCK + len(plain)] = np.frombuffer(plain, np.uint8)
    return content[:size].tobytes()


def decoded(
    name: str,
    file: bytes,
    arrivals: Callable[[], int] = lambda: MAX_UNIT_BYTES,
    *,
    resumes: bool = False,
    limit: int = LIMIT,
) -> tuple[bytes, StreamedDisk]:
    """The disk of a file that arrives in pieces as long as ``arrivals`` says; resumed after every unit."""
    decoder: StreamDecoder = DECODERS[name].begin(limit)
    pending = bytearray()
    arrived = 0
    outputs: list[PlainOutput] = []
    while arrived < len(file):
        count = arrivals()
        pending += file[arrived : arrived + count]
        arrived = min(len(file), arrived + count)
        while pending:
            with memoryview(pending) as view:
                step = decoder.step(view)
            if not step.consumed:
                assert len(pending) < MAX_UNIT_BYTES
                break
            del pending[: step.consumed]  # an error if the decoder kept hold of them
            outputs += step.outputs
            assert held_bytes(step.outputs) <= 4 << 20
            assert decoder.position == arrived - len(pending)
            if resumes:
                state = decoder.state()
                assert len(state) <= 33 << 10
                decoder = DECODERS[name].resume(state, limit)
    disk = decoder.finish(len(file))
    content = bytes_of(outputs)
    assert len(content) == disk.size_bytes
    return content, disk


def refusal(call: Callable[[], object]) -> str:
    """Why ``call`` is refused, which it must be."""
    with pytest.raises(ImageRefused) as refused:
        call()
    assert refused.value.message
    assert refused.value.hint
    return refused.value.reason


def read(name: str, file: bytes, limit: int = LIMIT) -> bytes:
    """The disk, read at random."""
    return read_all(READERS[name].open(MemorySource(file), limit).blocks)


def reasons(file: bytes, name: str = "zvhd2", limit: int = LIMIT) -> set[str]:
    """Why reading at random and decoding front to back refuse a file: best for the same reason."""
    return {
        refusal(lambda: read(name, file, limit)),
        refusal(lambda: decoded(name, file, limit=limit)),
    }

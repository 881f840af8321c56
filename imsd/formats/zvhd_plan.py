"""The plan of a ZVHD or ZVHD2 file that is written front to back: pages and tables before the first byte."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from .qcow2_plan import ClusterSizes
from .raw import round_up
from .vhd_layout import geometry
from .zvhd_layout import (
    BITMAP_SEGMENT_BYTES,
    BLOCK_BYTES,
    CHECKSUM_OFFSET,
    COOKIES,
    CREATOR,
    CREATOR_VERSION,
    FEATURES,
    FILE_VERSION,
    FORMAT_VERSIONS,
    HEAD,
    INDEX_SEGMENT_BYTES,
    KIND,
    NO_OFFSET,
    PAGE_BYTES,
    RECORD,
    RECORD_END,
    SHOWN_SIZE_UNIT,
    TABLES,
    USED_BYTES,
    ZVHD2,
    Compression,
    Tables,
    page_checksum,
    segments,
)

Numbers = npt.NDArray[np.int64]

UUID_BYTES = 16


@dataclass(frozen=True, slots=True)
class PayloadSizes:
    """``full``: of a block that does not shrink; ``stream_start``: how much more the first stored one has."""

    full: int
    stream_start: int = 0


class RecordPlan:
    """Made when all sizes are known; see `ClusterSizes`, whose clusters are the blocks."""

    def __init__(self, sizes: ClusterSizes, payloads: PayloadSizes) -> None:
        self.sizes = sizes
        self._payloads = payloads
        self._tables = sorted(sizes.tables)
        # Per table of sizes: stored blocks, and bytes of records, before its own.
        self._stored_before = [0]
        self._bytes_before = [0]
        digest = hashlib.sha256(sizes.size_bytes.to_bytes(8, "little"))
        for position in range(len(self._tables)):
            blocks, lengths = self._records(position)
            self._stored_before.append(self._stored_before[-1] + len(blocks))
            self._bytes_before.append(self._bytes_before[-1] + int(lengths.sum()))
            digest.update(blocks.tobytes() + lengths.tobytes())
        # As good as random, and the same for the same file.
        self.uuid = digest.digest()[:UUID_BYTES]
        self.stored_blocks = self._stored_before[-1]
        self.records_end = PAGE_BYTES + self._bytes_before[-1]

    def payload_bytes(self, block: int) -> int:
        """What the payload of a stored block is measured to have."""
        table, inside = divmod(block, self.sizes.per_table)
        size = int(self.sizes.tables[table][inside])
        more = self._payloads.stream_start if self.is_first(block) else 0
        return more + (self._payloads.full if size == BLOCK_BYTES else size)

    def is_first(self, block: int) -> bool:
        """Whether no block before ``block``, a stored one, is stored."""
        table, inside = divmod(block, self.sizes.per_table)
        return table == self._tables[0] and not self.sizes.tables[table][:inside].any()

    def entries(self, first: int, count: int) -> bytes:
        """The entries of the index for ``count`` stored blocks, the first of which is number ``first``."""
        parts: list[Numbers] = []
        position = bisect_right(self._stored_before, first) - 1
        while count > 0:
            blocks, lengths = self._records(position)
            offsets = PAGE_BYTES + self._bytes_before[position] + np.cumsum(lengths) - lengths
            low = first - self._stored_before[position]
            rows = np.stack([offsets, blocks | lengths << 32], axis=1)[low : low + count]
            parts.append(rows)
            first, count, position = first + len(rows), count - len(rows), position + 1
        return np.concatenate(parts).astype("<u8").tobytes()

    def bitmap_part(self, table: int) -> bytes:
        """The bits of the blocks of one table of sizes, whole segments; empty where all are zero."""
        if table not in self.sizes.tables:
            return b""
        bits = np.packbits(self.sizes.tables[table] > 0, bitorder="little").tobytes()
        return bits.ljust(round_up(len(bits), BITMAP_SEGMENT_BYTES), b"\0")

    def _records(self, position: int) -> tuple[Numbers, Numbers]:
        """Numbers of the stored blocks of one table of sizes, and lengths of their records."""
        table = self.sizes.tables[self._tables[position]]
        stored = np.flatnonzero(table)
        payloads = table[stored].astype(np.int64)
        payloads[payloads == BLOCK_BYTES] = self._payloads.full
        if position == 0:
            payloads[0] += self._payloads.stream_start
        lengths = -(-(RECORD.size + payloads + len(RECORD_END)) // PAGE_BYTES) * PAGE_BYTES
        return stored + self._tables[position] * self.sizes.per_table, lengths


def make_page(name: str, size_bytes: int, uuid: bytes, tables: Tables | None = None) -> bytes:
    """The used part of a header or footer page; with ``tables``, of the footer of ZVHD2."""
    head = HEAD.pack(
        COOKIES[name],
        FEATURES,
        FILE_VERSION,
        NO_OFFSET,
        0,  # the time it was made: not told, so that the same disk gives the same file
        CREATOR,
        CREATOR_VERSION,
        0,
        size_bytes,
        round_up(size_bytes, SHOWN_SIZE_UNIT),
        geometry(size_bytes),
        KIND,
        0,
        uuid,
        0,
        0,
        0,
        FORMAT_VERSIONS[name],
    )
    if name == ZVHD2:
        blocks = -(-size_bytes // BLOCK_BYTES)
        head += TABLES.pack(BLOCK_BYTES, blocks, *astuple(tables or Tables()), 0, Compression.ZSTD)
    page = bytearray(head.ljust(USED_BYTES, b"\0"))
    page[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 4] = page_checksum(page).to_bytes(4, "little")
    return bytes(page)


def tables_of(plan: RecordPlan) -> Tables:
    """Index and bitmap behind the end page."""
    index_segments, bitmap_segments = segments(plan.stored_blocks), segments(plan.sizes.clusters)
    index = plan.records_end + PAGE_BYTES
    return Tables(
        index_position=index,
        bitmap_position=index + index_segments * INDEX_SEGMENT_BYTES,
        index_bytes=index_segments * INDEX_SEGMENT_BYTES,
        bitmap_bytes=bitmap_segments * BITMAP_SEGMENT_BYTES,
        index_segment_bytes=INDEX_SEGMENT_BYTES,
        bitmap_segment_bytes=BITMAP_SEGMENT_BYTES,
        index_segments=index_segments,
        bitmap_segments=bitmap_segments,
        stored_blocks=plan.stored_blocks,
    )

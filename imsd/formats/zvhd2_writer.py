"""ZVHD2: writing, in one pass. The same disk from the same kind of source gives the same file.

A stored image gives its zstd frames as they are: a payload may be made of several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from .cluster_codec import stored_frame, stored_frame_bytes, zstd_frame
from .output import Output, Zeros
from .qcow2_encoders import CompressingEncoder, VerbatimEncoder
from .qcow2_plan import Sizes
from .source import BlockSource, FrameSource
from .writer import Piece, Spool
from .zvhd_layout import (
    BITMAP_SEGMENT_BYTES,
    BLOCK_BYTES,
    INDEX_SEGMENT_BYTES,
    PAGE_BYTES,
    SEGMENT_ENTRIES,
    ZVHD2,
    segments,
)
from .zvhd_plan import PayloadSizes, tables_of
from .zvhd_record_writer import RecordWriter

ZVHD2_COMPRESSIONS = ("zstd",)

# Segments of the index that are rendered at once: 4 MiB.
PART_SEGMENTS = 8


class Zvhd2Writer(RecordWriter):
    name: ClassVar[str] = ZVHD2

    def __init__(self, blocks: BlockSource, spool: Spool | None = None) -> None:
        """``spool``: saves compressing what has no frames twice."""
        encoder = (
            VerbatimEncoder(blocks, BLOCK_BYTES)
            if isinstance(blocks, FrameSource)
            else CompressingEncoder(blocks, BLOCK_BYTES, zstd_frame, spool=spool)
        )
        super().__init__(blocks, encoder, PayloadSizes(full=stored_frame_bytes(BLOCK_BYTES)))

    def file_size_bytes(self) -> int:
        tables = tables_of(self._planned())
        return tables.bitmap_position + tables.bitmap_bytes + PAGE_BYTES

    def _payload_outputs(self, first: int, sizes: Sizes) -> Iterator[Sequence[Output]]:
        compressed = self._encoder.render(first, sizes)
        for index in np.flatnonzero(sizes).tolist():
            if sizes[index] == BLOCK_BYTES:
                yield [stored_frame(self._encoder.plain(first + index, 1))]
            else:
                yield next(compressed)

    def _last_pieces(self) -> Iterator[Piece]:
        plan = self._planned()
        for first in range(0, plan.stored_blocks, PART_SEGMENTS * SEGMENT_ENTRIES):
            yield partial(self._render_index, first)
        for first in range(0, plan.sizes.clusters, plan.sizes.per_table):
            yield partial(self._render_bitmap, first)
        yield partial(self._page, tables_of(plan))

    def _render_index(self, first: int) -> Sequence[Output]:
        plan = self._planned()
        count = min(PART_SEGMENTS * SEGMENT_ENTRIES, plan.stored_blocks - first)
        entries = plan.entries(first, count)
        unused = segments(count) * INDEX_SEGMENT_BYTES - len(entries)
        return [entries, Zeros(unused)] if unused else [entries]

    def _render_bitmap(self, first: int) -> Sequence[Output]:
        plan = self._planned()
        bits = plan.bitmap_part(first // plan.sizes.per_table)
        blocks = min(plan.sizes.per_table, plan.sizes.clusters - first)
        return [bits or Zeros(segments(blocks) * BITMAP_SEGMENT_BYTES)]

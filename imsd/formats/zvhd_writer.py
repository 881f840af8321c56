"""ZVHD: writing, in one pass.

No block looks back at the one before, so that blocks are compressed in parallel and imsd reads them at
random; other readers see one stream. The same disk gives the same file, but for what `deflate_piece` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from imsd.contract import DataLoss

from .output import Output
from .qcow2_encoders import CompressingEncoder
from .qcow2_plan import Sizes
from .source import BlockSource
from .zvhd_codec import (
    EMPTY_BLOCK,
    STREAM_START,
    deflate_piece,
    deflate_piece_smaller,
    stored_piece,
    stored_piece_bytes,
)
from .zvhd_layout import BLOCK_BYTES, PAGE_BYTES, ZVHD, record_bytes
from .zvhd_plan import PayloadSizes
from .zvhd_record_writer import RecordWriter

ZVHD_COMPRESSIONS = ("zlib",)


class ZvhdWriter(RecordWriter):
    name: ClassVar[str] = ZVHD

    def __init__(self, blocks: BlockSource) -> None:
        encoder = CompressingEncoder(blocks, BLOCK_BYTES, deflate_piece)
        payloads = PayloadSizes(full=stored_piece_bytes(BLOCK_BYTES), stream_start=len(STREAM_START))
        super().__init__(blocks, encoder, payloads)

    def file_size_bytes(self) -> int:
        return self._planned().records_end + PAGE_BYTES

    def _payload_outputs(self, first: int, sizes: Sizes) -> Iterator[Sequence[Output]]:
        stored = np.flatnonzero(sizes).tolist()
        plain = self._encoder.plain(first + stored[0], stored[-1] - stored[0] + 1)
        for index in stored:
            start = (index - stored[0]) * BLOCK_BYTES
            yield [self._payload(first + index, plain[start : start + BLOCK_BYTES], int(sizes[index]))]

    def _payload(self, block: int, plain: memoryview, size: int) -> bytes:
        plan = self._planned()
        planned = record_bytes(plan.payload_bytes(block))
        start = STREAM_START if plan.is_first(block) else b""
        ways = (stored_piece,) if size == BLOCK_BYTES else (deflate_piece, deflate_piece_smaller)
        for compress in ways:
            payload = start + compress(plain)
            # A record is as long as its payload says: one that came out shorter is made up for.
            while record_bytes(len(payload)) < planned:
                payload += EMPTY_BLOCK
            if record_bytes(len(payload)) == planned:
                return payload
        raise DataLoss("the disk changed while it was written")

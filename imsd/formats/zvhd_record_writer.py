"""What the writers of ZVHD and ZVHD2 share: a header, then the records of all blocks that are not zero."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from imsd.contract import DataLoss

from .data_windows import WINDOW_BYTES, DataWindows
from .output import Output, Zeros, length_of
from .qcow2_encoders import ClusterEncoder, measuring
from .qcow2_plan import ClusterSizes, Sizes
from .source import BlockSource
from .writer import FormatWriter, Piece
from .zvhd_layout import (
    BLOCK_BITS,
    PAGE_BYTES,
    RECORD,
    RECORD_END,
    RECORD_MAGIC,
    Tables,
    record_bytes,
)
from .zvhd_plan import PayloadSizes, RecordPlan, make_page


class RecordWriter(FormatWriter):
    """``encoder``: how long each block becomes; ``payloads``: what the format adds to that."""

    name: ClassVar[str]

    def __init__(self, blocks: BlockSource, encoder: ClusterEncoder, payloads: PayloadSizes) -> None:
        self._encoder = encoder
        self._payloads = payloads
        self._sizes = ClusterSizes(blocks.size_bytes, BLOCK_BITS)
        self._windows = DataWindows(blocks)
        self._plan: RecordPlan | None = None

    def measure(self) -> Iterator[Callable[[], None]]:
        return measuring(self._encoder, self._sizes, self._windows)

    def pieces(self) -> Iterator[Piece]:
        yield self._page
        for first, sizes in self._sizes.groups(WINDOW_BYTES):
            yield partial(self._render, first, sizes)
        yield self._page
        yield from self._last_pieces()

    @abstractmethod
    def _payload_outputs(self, first: int, sizes: Sizes) -> Iterator[Sequence[Output]]:
        """The payload of each stored block from ``first`` on. Raises `NeedBytes`, DataLoss."""

    def _last_pieces(self) -> Iterator[Piece]:
        """What follows the end page."""
        return iter(())

    def _planned(self) -> RecordPlan:
        if self._plan is None:
            self._plan = RecordPlan(self._sizes, self._payloads)
        return self._plan

    def _page(self, tables: Tables | None = None) -> Sequence[Output]:
        page = make_page(self.name, self._sizes.size_bytes, self._planned().uuid, tables)
        return [page, Zeros(PAGE_BYTES - len(page))]

    def _render(self, first: int, sizes: Sizes) -> Sequence[Output]:
        outputs: list[Output] = []
        stored = np.flatnonzero(sizes).tolist()
        for index, payload in zip(stored, self._payload_outputs(first, sizes), strict=True):
            outputs += self._record(first + index, payload)
        return outputs

    def _record(self, block: int, payload: Sequence[Output]) -> Iterator[Output]:
        length = sum(map(length_of, payload))
        planned = record_bytes(self._planned().payload_bytes(block))
        if record_bytes(length) != planned:
            raise DataLoss("the disk changed while it was written")
        yield RECORD.pack(RECORD_MAGIC, length, block, 0, 0)
        yield from payload
        yield RECORD_END.rjust(planned - RECORD.size - length, b"\0")

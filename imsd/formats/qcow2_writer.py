"""QCOW2: writing version 3, plain or with zlib or zstd clusters, front to back in one pass.

The same disk from the same kind of source gives the same file, byte for byte, but for zlib clusters: see
`cluster_codec.deflate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from imsd.contract import DataLoss, InvalidRequest

from .cluster_codec import DEFLATE_SPARE_BYTES, deflate, deflate_small, deflate_smaller, zstd_frame
from .data_windows import WINDOW_BYTES, DataWindows
from .output import Output, Zeros, length_of
from .qcow2_encoders import ClusterEncoder, CompressingEncoder, PlainEncoder, VerbatimEncoder, measuring
from .qcow2_layout import MAX_L1_BYTES, Compression
from .qcow2_plan import ClusterSizes, Qcow2Plan, Sizes
from .source import BlockSource, FrameSource
from .writer import FormatWriter, Piece, Spool

COMPRESSIONS = ("zstd", "zlib", "zlib-small", "none")

CLUSTER_BITS = 16
# Large enough for many stored frames a cluster, so that few cross a border; not for a small disk, whose
# tables of one cluster each would be larger than itself.
ZSTD_CLUSTER_BITS = 21
ZSTD_SMALL_DISK_BYTES = 64 << 20
MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 12, 21

# Entries of the L1 table that are rendered at once.
PART_ENTRIES = 1 << 19


class Qcow2Writer(FormatWriter):
    """``compression``: one of `COMPRESSIONS`. ``cluster_bits``: 12 to 21, None for what suits best.

    ``spool``: saves compressing everything twice; the file is the same without it, but for zlib clusters.
    """

    def __init__(
        self,
        blocks: BlockSource,
        compression: str = "zstd",
        cluster_bits: int | None = None,
        spool: Spool | None = None,
    ) -> None:
        """Raises InvalidRequest."""
        if compression not in COMPRESSIONS:
            raise InvalidRequest(f"qcow2 has no compression {compression}", field="compression")
        bits = cluster_bits or _cluster_bits(blocks, compression)
        if not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
            raise InvalidRequest(f"clusters of 2^{bits} bytes are outside 2^12 to 2^21", field="cluster_bits")
        if 8 * -(-blocks.size_bytes // (1 << 2 * bits - 3)) > MAX_L1_BYTES:
            raise InvalidRequest(
                f"a disk of {blocks.size_bytes} bytes needs larger clusters than 2^{bits} bytes",
                field="cluster_bits",
            )
        self._compression = Compression.ZSTD if compression == "zstd" else Compression.ZLIB
        self._sizes = ClusterSizes(blocks.size_bytes, bits)
        self._encoder = _encoder(blocks, compression, 1 << bits, spool)
        self._windows = DataWindows(blocks)
        self._plan: Qcow2Plan | None = None

    def measure(self) -> Iterator[Callable[[], None]]:
        return measuring(self._encoder, self._sizes, self._windows)

    def file_size_bytes(self) -> int:
        return self._planned().file_size_bytes

    def pieces(self) -> Iterator[Piece]:
        plan = self._planned()
        cluster_bytes = self._sizes.cluster_bytes
        yield partial(_padded, plan.header, cluster_bytes)
        yield partial(_padded, plan.refcount_table, plan.refcount_clusters * cluster_bytes)
        for number in range(plan.refcount_blocks):
            yield partial(_padded, partial(plan.refcount_block, number), cluster_bytes)
        for first in range(0, plan.l1_entries, PART_ENTRIES):
            yield partial(self._render_l1, first)
        for position in range(len(plan.tables)):
            yield partial(_padded, partial(plan.l2_table, position), cluster_bytes)
        for first, sizes in self._sizes.groups(WINDOW_BYTES):
            if ((sizes > 0) & (sizes < cluster_bytes)).any():
                yield partial(self._render_compressed, first, sizes)
        if padding := -plan.compressed_bytes % cluster_bytes:
            yield partial(_padded, bytes, padding)
        for first, sizes in self._sizes.groups(WINDOW_BYTES):
            if (sizes == cluster_bytes).any():
                yield partial(self._render_plain, first, sizes)

    def _planned(self) -> Qcow2Plan:
        if self._plan is None:
            self._plan = Qcow2Plan(self._sizes, self._compression)
        return self._plan

    def _render_l1(self, first: int) -> Sequence[Output]:
        plan = self._planned()
        count = min(PART_ENTRIES, plan.l1_entries - first)
        is_last = first + count == plan.l1_entries
        end = plan.l1_clusters * self._sizes.cluster_bytes if is_last else 8 * (first + count)
        return _padded(partial(plan.l1_part, first, count), end - 8 * first)

    def _render_compressed(self, first: int, sizes: Sizes) -> Sequence[Output]:
        is_compressed = (sizes > 0) & (sizes < self._sizes.cluster_bytes)
        outputs: list[Output] = []
        rendered = self._encoder.render(first, sizes)
        for size, cluster in zip(sizes[is_compressed].tolist(), rendered, strict=True):
            if sum(map(length_of, cluster)) != size:
                raise DataLoss("the disk changed while it was written")
            outputs += cluster
        return outputs

    def _render_plain(self, first: int, sizes: Sizes) -> Sequence[Output]:
        cluster_bytes = self._sizes.cluster_bytes
        wanted = np.flatnonzero(sizes == cluster_bytes).tolist()
        # All at once: a source that lacks bytes is asked for them once.
        content = self._encoder.plain(first + wanted[0], wanted[-1] - wanted[0] + 1)
        starts = [(index - wanted[0]) * cluster_bytes for index in wanted]
        return [content[start : start + cluster_bytes] for start in starts]


def _cluster_bits(blocks: BlockSource, compression: str) -> int:
    is_large = blocks.size_bytes >= ZSTD_SMALL_DISK_BYTES
    return ZSTD_CLUSTER_BITS if compression == "zstd" and is_large else CLUSTER_BITS


def _encoder(
    blocks: BlockSource, compression: str, cluster_bytes: int, spool: Spool | None
) -> ClusterEncoder:
    if compression == "none":
        return PlainEncoder(blocks, cluster_bytes)
    if compression == "zlib":
        spare_bytes = DEFLATE_SPARE_BYTES
        ways = (deflate, deflate_smaller)
        return CompressingEncoder(blocks, cluster_bytes, *ways, spare_bytes=spare_bytes, spool=spool)
    if compression == "zlib-small":
        return CompressingEncoder(blocks, cluster_bytes, deflate_small, spool=spool)
    if isinstance(blocks, FrameSource):
        return VerbatimEncoder(blocks, cluster_bytes)
    return CompressingEncoder(blocks, cluster_bytes, zstd_frame, spool=spool)


def _padded(render: Callable[[], bytes], length: int) -> Sequence[Output]:
    """What ``render`` gives, then zeros up to ``length`` bytes."""
    content = render()
    outputs: list[Output] = [content] if content else []
    if len(content) < length:
        outputs.append(Zeros(length - len(content)))
    return outputs

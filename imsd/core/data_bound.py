"""A disk whose data is bounded by the size of its file: a bound on work, not on space.

Tables may point all blocks of a disk at one place of the file, and a cluster of a few bytes may unpack to
megabytes. What comes of it is stored once, but all of it is read and hashed: a small file could keep a job at
work for days.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from imsd.contract import ImageRefused
from imsd.formats.source import BlockSource, Extent
from imsd.formats.unwrap import FREE_BYTES, MAX_RATIO


class BoundedDisk(BlockSource):
    """``blocks``, of which at most `MAX_RATIO` times ``file_bytes``, or `FREE_BYTES`, may be data.

    ``data_bytes`` were counted by `extents`, which is to be asked from the front of the disk to its end; what
    is asked again, as after a checkpoint, counts once.
    """

    def __init__(self, blocks: BlockSource, file_bytes: int) -> None:
        self.size_bytes = blocks.size_bytes
        self._blocks = blocks
        self._most_bytes = max(FREE_BYTES, MAX_RATIO * file_bytes)
        self._counted_end = 0
        self.data_bytes = 0
        self._lock = threading.Lock()

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        found = self._blocks.extents(start, length)
        with self._lock:
            self.data_bytes += sum(self._new_bytes(extent) for extent in found if not extent.is_zero)
            self._counted_end = max(self._counted_end, start + length)
            is_too_much = self.data_bytes > self._most_bytes
        if is_too_much:
            raise ImageRefused(
                f"the file holds a disk with more data than {MAX_RATIO} times its size",
                reason="IMAGE_EXPANDS_TOO_MUCH",
                hint="write the disk as a plain file, for example with `qemu-img convert -O raw`",
            )
        return found

    def _new_bytes(self, extent: Extent) -> int:
        return max(extent.end - max(extent.start, self._counted_end), 0)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._blocks.read_into(offset, buffer)

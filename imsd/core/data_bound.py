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

    Counted by `extents`, which is to be asked once for each part of the disk.
    """

    def __init__(self, blocks: BlockSource, file_bytes: int) -> None:
        self.size_bytes = blocks.size_bytes
        self._blocks = blocks
        self._most_bytes = max(FREE_BYTES, MAX_RATIO * file_bytes)
        self._data_bytes = 0
        self._lock = threading.Lock()

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        found = self._blocks.extents(start, length)
        with self._lock:
            self._data_bytes += sum(extent.length for extent in found if not extent.is_zero)
            is_too_much = self._data_bytes > self._most_bytes
        if is_too_much:
            raise ImageRefused(
                f"the file holds a disk with more data than {MAX_RATIO} times its size",
                reason="IMAGE_EXPANDS_TOO_MUCH",
                hint="write the disk as a plain file, for example with `qemu-img convert -O raw`",
            )
        return found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._blocks.read_into(offset, buffer)

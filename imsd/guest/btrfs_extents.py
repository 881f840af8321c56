"""The content of files on btrfs: inline, in extents, preallocated, in holes; compressed by zlib, LZO or zstd.

Source: as in btrfs_layout.py; for LZO, fs/btrfs/lzo.c of Linux.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

import zstandard

from . import btrfs_layout as layout
from . import lzo
from .btrfs_layout import Key, TreeRoot
from .btrfs_trees import Trees
from .record import check_range, cut, unpack
from .volume import GuestUnreadable

CACHED_EXTENTS = 8
MAX_ZSTD_WINDOW = 1 << 20
LZO_LENGTH = struct.Struct("<I")

NOT_COMPRESSED, ZLIB, LZO, ZSTD = 0, 1, 2, 3


class Extents:
    """Reads the extents of all files of one file system."""

    def __init__(self, trees: Trees, sector_bytes: int) -> None:
        self._trees = trees
        self._sector_bytes = sector_bytes
        self._unpacked = lru_cache(CACHED_EXTENTS)(self._unpack_extent)

    def read(self, root: TreeRoot, inode: int, offset: int, length: int) -> bytes:
        """Bytes of a file, zeros where nothing is kept. Raises `GuestUnreadable`."""
        content = bytearray(length)
        first = (inode, layout.EXTENT_ITEM, offset)
        last = (inode, layout.EXTENT_ITEM, offset + length - 1)
        for key, item in self._trees.items(root, first, last, or_before=True):
            if key[:2] == first[:2]:
                begin = max(key[2], offset)
                part = self._part(key, item, begin - key[2], offset + length - begin)
                content[begin - offset : begin - offset + len(part)] = part
        return bytes(content)

    def _part(self, key: Key, item: bytes, skipped: int, most_bytes: int) -> bytes:
        """What an extent holds behind ``skipped`` bytes; empty where it holds none."""
        size, compression, encryption, encoding, kind = unpack(layout.EXTENT, item, 0, "extent")
        if encryption or encoding:
            raise GuestUnreadable(f"a file of inode {key[0]} with an encoding that is not known")
        if kind == layout.EXTENT_INLINE:
            stored = item[layout.EXTENT.size :]
            check_range(size, 0, layout.MAX_COMPRESSED_BYTES, "size of inline content")
            whole = self._decompressed(compression, stored, size)
            return whole[skipped : min(size, skipped + most_bytes)]
        place, stored_bytes, start, length = unpack(layout.EXTENT_PLACE, item, layout.EXTENT.size, "extent")
        wanted = min(length - skipped, most_bytes)
        if kind == layout.EXTENT_PREALLOCATED or not place or wanted <= 0:
            return b""
        if kind != layout.EXTENT_REGULAR:
            raise GuestUnreadable(f"an extent of type {kind}")
        if compression == NOT_COMPRESSED:
            check_range(start + skipped + wanted, 0, stored_bytes, "end of an extent")
            return self._trees.space.read(place + start + skipped, wanted)
        whole = self._unpacked(place, stored_bytes, compression, size)
        return cut(whole, start + skipped, wanted, "compressed extent")

    def _unpack_extent(self, place: int, stored_bytes: int, compression: int, size: int) -> bytes:
        check_range(stored_bytes, 1, layout.MAX_COMPRESSED_BYTES, "compressed size of an extent")
        check_range(size, 1, layout.MAX_COMPRESSED_BYTES, "size of a compressed extent")
        stored = self._trees.space.read(place, stored_bytes)
        return self._decompressed(compression, stored, size).ljust(size, b"\0")

    def _decompressed(self, compression: int, stored: bytes, size: int) -> bytes:
        try:
            if compression == NOT_COMPRESSED:
                return stored
            if compression == ZLIB:
                return zlib.decompressobj().decompress(stored, max(size, 1))
            if compression == ZSTD:
                decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
                with decompressor.stream_reader(stored, read_size=max(len(stored), 1)) as reader:
                    return bytes(reader.read(size))
            if compression == LZO:
                return self._lzo(stored, size)
        except (zlib.error, zstandard.ZstdError) as error:
            raise GuestUnreadable(f"a compressed extent: {error}") from error
        raise GuestUnreadable(f"an extent of compression {compression}")

    def _lzo(self, stored: bytes, size: int) -> bytes:
        """Segments of one sector each. The length of a segment never crosses a border of sectors."""
        (total,) = unpack(LZO_LENGTH, stored, 0, "LZO extent")
        check_range(total, LZO_LENGTH.size, len(stored), "length of an LZO extent")
        position = LZO_LENGTH.size
        out = bytearray()
        while position < total and len(out) < size:
            left = -position % self._sector_bytes
            if left < LZO_LENGTH.size:
                position += left
            (length,) = unpack(LZO_LENGTH, stored, position, "LZO segment")
            position += LZO_LENGTH.size
            out += lzo.decompress(cut(stored, position, length, "LZO segment"), self._sector_bytes)
            position += length
        return bytes(out[:size])

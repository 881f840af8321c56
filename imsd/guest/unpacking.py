"""Compressed streams in pieces of bounded size, however much a byte of them unpacks to."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, cast

import zstandard

from .volume import GuestUnreadable, Volume

# Of the stream at a time, and the most that comes out at a time.
INPUT_BYTES = 256 << 10
OUTPUT_BYTES = 1 << 20
# A stream that wants a larger window is refused by its decoder.
MAX_DECODER_BYTES = 64 << 20


def unpacking(volume: Volume, offset: int, compression: str) -> Iterator[bytes]:
    """What the stream from ``offset`` on unpacks to; ends with the stream, or where ``volume`` cuts it
    short.

    ``compression``: gzip, xz, lzma, bzip2 or zstd. Raises `GuestUnreadable` for what is no such stream.
    """
    source = _Source(volume, offset)
    try:
        match compression:
            case "gzip":
                yield from _deflated(source)
            case "zstd":
                yield from _zstd(source)
            case "bzip2":
                yield from _fed(source, bz2.BZ2Decompressor())
            case _:
                yield from _fed(source, lzma.LZMADecompressor(memlimit=MAX_DECODER_BYTES))
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise GuestUnreadable(f"{compression} data that is damaged") from error


class _Source:
    """A volume as a file that is read once, front to back."""

    def __init__(self, volume: Volume, offset: int) -> None:
        self._volume = volume
        self._offset = offset

    def read(self, most: int = INPUT_BYTES) -> bytes:
        length = min(most, INPUT_BYTES, self._volume.size_bytes - self._offset)
        content = self._volume.read(self._offset, length)
        self._offset += length
        return content


def _deflated(source: _Source) -> Iterator[bytes]:
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while not decoder.eof:
        piece = decoder.unconsumed_tail or source.read()
        content = decoder.decompress(piece, OUTPUT_BYTES)
        if content:
            yield content
        elif not piece:
            return


def _fed(source: _Source, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> Iterator[bytes]:
    while not decoder.eof:
        piece = source.read() if decoder.needs_input else b""
        if decoder.needs_input and not piece:
            return
        content = decoder.decompress(piece, OUTPUT_BYTES)
        if content:
            yield content


def _zstd(source: _Source) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_DECODER_BYTES)
    stream = cast(IO[bytes], source)  # it asks for nothing but `read`
    with decoder.stream_reader(stream, read_size=INPUT_BYTES, read_across_frames=True) as reader:
        while content := reader.read(OUTPUT_BYTES):
            yield content

"""ZVHD, decoded front to back while it arrives; and what ZVHD2 shares with it: the header and the records."""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np

from imsd.contract import ImageRefused

from .output import Packed, PlainOutput, Zeros, without_zeros
from .reader import Finding
from .stream_decoder import Step, StreamDecoder, StreamedDisk
from .zvhd import stream_payload
from .zvhd_codec import HISTORY_BYTES, inflate_piece
from .zvhd_layout import (
    BLOCK_BYTES,
    COOKIES,
    PAGE_BYTES,
    RECORD,
    ZVHD,
    Compression,
    Page,
    bytes_beyond,
    check_same_disk,
    malformed,
    payload_of,
    read_page,
    read_record_start,
    record_bytes,
    truncated,
    undecodable,
)
from .zvhd_records import check_order

# position, size of the disk, last block, records, compression, whether the index covers zero blocks, whether
# bytes beyond the disk were found, whether the records have ended
STATE = struct.Struct("<QQqQB???")


class RecordDecoder(StreamDecoder):
    """The header, then records in the order of their blocks, then the page that ends them."""

    def __init__(self, max_virtual_size_bytes: int) -> None:
        self._limit = max_virtual_size_bytes
        self._page: Page | None = None
        self._last_block = -1
        self._records = 0
        self._has_bytes_beyond = False
        self._has_ended = False

    @classmethod
    def begin(cls, max_virtual_size_bytes: int) -> Self:
        return cls(max_virtual_size_bytes)

    @classmethod
    def resume(cls, state: bytes, max_virtual_size_bytes: int) -> Self:
        decoder = cls(max_virtual_size_bytes)
        if state:
            decoder._restore(state)
        return decoder

    def state(self) -> bytes:
        """At most 33 KiB; nothing before the header was taken."""
        if self._page is None:
            return b""
        fields = (self.position, self._page.size_bytes, self._last_block, self._records)
        flags = (self._page.covers_zero_blocks, self._has_bytes_beyond, self._has_ended)
        return STATE.pack(*fields, self._page.compression, *flags) + self._more_state()

    def step(self, data: memoryview) -> Step:
        if self._has_ended:
            step = self._step_after_records(data)
        elif len(data) < PAGE_BYTES:
            step = Step(0)
        elif self._page is None:
            self._page = read_page(self.name, data[:PAGE_BYTES], self._limit)
            step = Step(PAGE_BYTES)
        elif data[: len(COOKIES[self.name])] == COOKIES[self.name]:
            self._check_end_page(data[:PAGE_BYTES], self._page)
            self._has_ended = True
            step = Step(PAGE_BYTES, list(self._zeros_up_to(self._page.blocks)))
        else:
            step = self._step_record(data, self._page)
        self.position += step.consumed
        return step

    @abstractmethod
    def _decode(self, payload: memoryview) -> bytes:
        """The block in the payload of the record at `position`. Raises ImageRefused."""

    @abstractmethod
    def _step_after_records(self, data: memoryview) -> Step:
        """One unit behind the end page, from ``data``. Raises ImageRefused."""

    @abstractmethod
    def _more_state(self) -> bytes:
        """What a format needs besides; `_restore_more` takes it."""

    @abstractmethod
    def _restore_more(self, state: bytes) -> None:
        """Raises ValueError."""

    def _check_end_page(self, end_page: memoryview, header: Page) -> None:
        """Raises ImageRefused."""

    def _note(self, block: int, length: int) -> None:
        """The record of ``block``, ``length`` bytes at `position`, was read."""

    def _findings(self) -> list[Finding]:
        return [bytes_beyond(self.name)] if self._has_bytes_beyond else []

    def _step_record(self, data: memoryview, page: Page) -> Step:
        payload_bytes, block = read_record_start(self.name, data[: RECORD.size], self.position)
        check_order(self.name, block, self._last_block, page.blocks)
        length = record_bytes(payload_bytes)
        if length > len(data):
            return Step(0)
        payload = payload_of(self.name, data[:length], self.position)
        plain = self._decode(payload)
        outputs = list(self._zeros_up_to(block))
        record = self._kept(page, block, plain, payload)
        if record is None:
            outputs += self._inside(page, block, plain)
        self._note(block, length)
        self._last_block = block
        self._records += 1
        return Step(length, outputs, record)

    def _zeros_up_to(self, block: int) -> Iterator[PlainOutput]:
        """What lies between the last record's block and ``block``."""
        assert self._page is not None
        start, end = (self._last_block + 1) * BLOCK_BYTES, block * BLOCK_BYTES
        length = min(end, self._page.size_bytes) - start
        if length > 0:
            yield Zeros(length)

    def _kept(self, page: Page, block: int, plain: bytes, payload: memoryview) -> Packed | None:
        """The record, by a decoder that gives it to be kept."""
        return None

    def _inside(self, page: Page, block: int, plain: bytes) -> Iterator[PlainOutput]:
        return without_zeros(self._on_disk(page, block, plain))

    def _on_disk(self, page: Page, block: int, plain: bytes) -> memoryview:
        """``plain`` as far as the disk goes; what lies beyond is noted."""
        inside = min(BLOCK_BYTES, page.size_bytes - block * BLOCK_BYTES)
        if np.frombuffer(plain, np.uint8)[inside:].any():
            self._has_bytes_beyond = True
        return memoryview(plain)[:inside]

    def _restore(self, state: bytes) -> None:
        try:
            fields = STATE.unpack_from(state)
            compression = Compression(fields[4])
        except (struct.error, ValueError):
            raise ValueError("this is no state of a decoder") from None
        self.position, size, self._last_block, self._records = fields[:4]
        covers_zero_blocks, self._has_bytes_beyond, self._has_ended = fields[5:]
        self._page = Page(size, compression, covers_zero_blocks)
        self._restore_more(state[STATE.size :])


class ZvhdDecoder(RecordDecoder):
    name: ClassVar[str] = ZVHD

    def __init__(self, max_virtual_size_bytes: int) -> None:
        super().__init__(max_virtual_size_bytes)
        self._history = b""

    def finish(self, file_size_bytes: int) -> StreamedDisk:
        if not self._has_ended or self._page is None:
            raise truncated(ZVHD, f"it ends at {file_size_bytes}, without its last page")
        if file_size_bytes != self.position:
            raise _bytes_follow()
        return StreamedDisk(self._page.size_bytes, self._findings())

    def _decode(self, payload: memoryview) -> bytes:
        plain = inflate_piece(stream_payload(payload, self._records), self._history)
        if plain is None:
            raise undecodable(ZVHD, self.position)
        self._history = plain[-HISTORY_BYTES:]
        return plain

    def _check_end_page(self, end_page: memoryview, header: Page) -> None:
        check_same_disk(ZVHD, header, read_page(ZVHD, end_page, self._limit))

    def _step_after_records(self, data: memoryview) -> Step:
        if len(data):
            raise _bytes_follow()
        return Step(0)

    def _more_state(self) -> bytes:
        return self._history

    def _restore_more(self, state: bytes) -> None:
        if len(state) != (HISTORY_BYTES if self._records else 0):
            raise ValueError("this is no state of a decoder")
        self._history = state


def _bytes_follow() -> ImageRefused:
    return malformed(ZVHD, "bytes follow its last page")

"""Stream-optimized VMDK decoded while it arrives: grains behind markers, in the disk's order.

The grain tables play no part in decoding, but they must tell of just the grains that came: see
`vmdk_tally`. They may come before the grains, one after another (QEMU), or behind markers after the
grains they tell of or at the end (VMware and others). The state has at most `MAX_STATE_BYTES`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import ClassVar, Self

import numpy as np

from .cluster_codec import inflate_zlib_into
from .output import PlainOutput, Zeros
from .raw import SECTOR_BYTES, round_up
from .stream_decoder import Step, StreamDecoder, StreamedDisk
from .vmdk import check_packed_bytes, findings_of
from .vmdk_descriptor import MAX_TEXT_BYTES, check_embedded
from .vmdk_layout import (
    DIRECTORY_AT_END,
    ENTRY_BYTES,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FOOTER_SECTORS,
    GRAIN_MARKER,
    HEADER,
    MAGIC,
    MARKER,
    TABLE_ENTRIES,
    TABLE_SECTORS,
    ZERO_GRAIN,
    Header,
    MarkerKind,
    malformed,
    parse_footer,
    parse_header,
    truncated,
    unsupported,
)
from .vmdk_tally import Numbers, Tally

MAX_STATE_BYTES = 4096
# Bytes of the disk that one step gives, and bytes of tables that one step takes.
STEP_BYTES = 4 << 20
TABLE_STEP_BYTES = 1 << 20
TABLE_BYTES = TABLE_SECTORS * SECTOR_BYTES


def is_stream_optimized(head: bytes) -> bool:
    """Whether the VMDK that starts with ``head`` can be read in one pass, as far as its header tells."""
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        return False
    _, _, flags, _, _, descriptor, descriptor_sectors, _, _, directory, *_ = HEADER.unpack_from(head)
    if flags & (FLAG_COMPRESSED | FLAG_MARKERS) != FLAG_COMPRESSED | FLAG_MARKERS:
        return False
    return bool(directory == DIRECTORY_AT_END or directory >= descriptor + descriptor_sectors)


class Phase(StrEnum):
    """What the next bytes are."""

    START = "start"
    DIRECTORY_FIRST = "directory first"  # before the grains, without a marker
    TABLES_FIRST = "tables first"
    GRAINS = "grains"  # and everything else behind markers
    DIRECTORY = "directory"
    END = "end"
    FOOTER_END = "footer end"


@dataclass(slots=True)
class _State:
    """All that is kept, but for the header. Sectors are those of the file."""

    tally: Tally
    position: int = 0
    phase: Phase = Phase.START
    next_lba: int = 0  # the first sector of the disk that a grain may still have
    given_bytes: int = 0  # of the disk
    directory_sector: int = 0  # where a directory was seen
    directory_done: int = 0  # entries of it
    first_table: int = 0  # sector, for tables that come first


@dataclass(slots=True)
class _Grains:
    """Whole grains at hand: positions in the disk, and where the compressed bytes are in what is at hand."""

    lbas: list[int] = field(default_factory=list)
    markers: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


class VmdkDecoder(StreamDecoder):
    name: ClassVar[str] = "vmdk"

    def __init__(self, max_virtual_size_bytes: int, state: _State, header: Header | None) -> None:
        self._max_virtual_size_bytes = max_virtual_size_bytes
        self._state = state
        self._known_header = header

    @classmethod
    def can_decode(cls, head: bytes) -> bool:
        return is_stream_optimized(head)

    @classmethod
    def begin(cls, max_virtual_size_bytes: int) -> Self:
        return cls(max_virtual_size_bytes, _State(Tally(secrets.randbits(64))), None)

    @classmethod
    def resume(cls, state: bytes, max_virtual_size_bytes: int) -> Self:
        try:
            kept = json.loads(state)
            header = Header(**kept["header"]) if kept["header"] else None
            phase, tally = Phase(kept["state"].pop("phase")), Tally(**kept["state"].pop("tally"))
            decoder = cls(max_virtual_size_bytes, _State(tally, phase=phase, **kept["state"]), header)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("this is not the state of a VMDK decoder") from error
        decoder.position = decoder._state.position
        return decoder

    def state(self) -> bytes:
        header = asdict(self._known_header) if self._known_header else None
        self._state.position = self.position
        return json.dumps({"header": header, "state": asdict(self._state)}).encode()

    def step(self, data: memoryview) -> Step:
        steps = {
            Phase.START: self._start,
            Phase.DIRECTORY_FIRST: self._directory_first,
            Phase.TABLES_FIRST: self._tables_first,
            Phase.GRAINS: self._grains,
            Phase.DIRECTORY: self._directory,
            Phase.END: self._after_end,
            Phase.FOOTER_END: self._after_footer,
        }
        taken = steps[self._state.phase](data)
        self.position += taken.consumed
        return taken

    def finish(self, file_size_bytes: int) -> StreamedDisk:
        header = self._known_header
        if self.position != file_size_bytes or header is None or not self._may_end(header):
            raise truncated(f"it ends at {file_size_bytes}, before the end of its stream")
        if header.directory_sector != self._state.directory_sector:
            raise malformed("its grain directory is not where it should be")
        if not self._state.tally.agrees():
            raise malformed("its grain tables do not tell of the grains that it holds")
        rest = header.size_bytes - self._state.given_bytes
        return StreamedDisk(header.size_bytes, list(findings_of(header)), zeros_at_end=rest)

    def _may_end(self, header: Header) -> bool:
        """Whether the file may end here: QEMU writes nothing after the last grain."""
        if self._state.phase != Phase.GRAINS:
            return self._state.phase in (Phase.END, Phase.FOOTER_END)
        is_past_tables = self.position >= header.first_data_sector * SECTOR_BYTES
        return header.directory_sector is not None and is_past_tables

    @property
    def _header(self) -> Header:
        assert self._known_header is not None
        return self._known_header

    def _start(self, data: memoryview) -> Step:
        """The header and the descriptor."""
        if len(data) < SECTOR_BYTES:
            return Step(0)
        header = parse_header(bytes(data[:SECTOR_BYTES]), self._max_virtual_size_bytes)
        if not is_stream_optimized(bytes(data[:SECTOR_BYTES])):
            raise unsupported("this kind of vmdk file cannot be read while it arrives")
        at = header.descriptor_sector * SECTOR_BYTES
        end = at + min(header.descriptor_sectors * SECTOR_BYTES, MAX_TEXT_BYTES + 1)
        if len(data) < end:
            return Step(0)
        check_embedded(bytes(data[at:end]), header)
        self._known_header = header
        is_first = header.directory_sector is not None and header.directory_sector < header.first_data_sector
        self._state.phase = Phase.DIRECTORY_FIRST if is_first else Phase.GRAINS
        return Step(end)

    def _directory_first(self, data: memoryview) -> Step:
        """A directory before the grains; its tables must follow it one after another."""
        header, state = self._header, self._state
        assert header.directory_sector is not None
        state.directory_sector = header.directory_sector
        if skipped := self._skipped(data, header.directory_sector):
            return Step(skipped)
        first = state.directory_done
        entries = self._directory_part(data)
        if not len(entries):
            return Step(0)
        if not first:
            state.first_table = int(entries[0])
            end = header.directory_sector * SECTOR_BYTES + header.directory_bytes
            if state.first_table * SECTOR_BYTES < end:
                raise _other_order()
        numbers = np.arange(first, first + len(entries), dtype=np.uint64)
        if np.any(entries != np.uint64(state.first_table) + numbers * np.uint64(TABLE_SECTORS)):
            raise _other_order()
        if state.directory_done == header.directory_entries:
            state.phase = Phase.TABLES_FIRST
        return Step(len(entries) * ENTRY_BYTES)

    def _tables_first(self, data: memoryview) -> Step:
        header, state = self._header, self._state
        sector = state.first_table + TABLE_SECTORS * state.tally.table_count
        if skipped := self._skipped(data, sector):
            return Step(skipped)
        left = header.directory_entries - state.tally.table_count
        count = min(left, min(len(data), TABLE_STEP_BYTES) // TABLE_BYTES)
        if sector + TABLE_SECTORS * left > header.first_data_sector:
            raise malformed("its grain tables reach into its grains")
        self._see_tables(sector, data[: count * TABLE_BYTES])
        if count == left:
            state.phase = Phase.GRAINS
        return Step(count * TABLE_BYTES)

    def _grains(self, data: memoryview) -> Step:
        """Grains as many as are at hand, or one of the other things with a marker."""
        if skipped := self._skipped(data, self._header.first_data_sector) or self._padding(data):
            return Step(skipped)
        grains, consumed = self._whole_grains(data)
        if grains.lbas:
            return Step(consumed, self._decoded(data, grains))
        if len(data) < SECTOR_BYTES or GRAIN_MARKER.unpack_from(data)[1]:
            return Step(0)
        return self._marked(data)

    def _whole_grains(self, data: memoryview) -> tuple[_Grains, int]:
        """Grains from the start of ``data``, and where the last one ends."""
        header, grains, at, end = self._header, _Grains(), 0, 0
        most = max(1, STEP_BYTES // header.grain_bytes)
        while len(grains.lbas) < most and at + GRAIN_MARKER.size <= len(data):
            lba, size = GRAIN_MARKER.unpack_from(data, at)
            if not size:
                break
            check_packed_bytes(size, header)
            self._check_lba(lba)
            if at + GRAIN_MARKER.size + size > len(data):
                break
            self._state.next_lba = lba + header.grain_sectors
            grains.lbas.append(lba)
            grains.markers.append(at)
            grains.sizes.append(size)
            end = at + GRAIN_MARKER.size + size
            at = round_up(end, SECTOR_BYTES)
        return grains, min(at, len(data))

    def _check_lba(self, lba: int) -> None:
        if lba % self._header.grain_sectors or lba >= self._header.capacity:
            raise malformed(f"a grain is marked with sector {lba}, where none can be")
        if lba < self._state.next_lba:
            raise unsupported("the grains of this vmdk file are not in the order of the disk")

    def _decoded(self, data: memoryview, grains: _Grains) -> Sequence[PlainOutput]:
        header, state = self._header, self._state
        starts = [lba * SECTOR_BYTES for lba in grains.lbas]
        ends = [min(start + header.grain_bytes, header.size_bytes) for start in starts]
        content = np.empty(sum(ends) - sum(starts), np.uint8).data
        outputs: list[PlainOutput] = []
        run = done = 0  # the bytes of ``content`` that follow the last gap, and all that are filled
        for start, end, marker, size in zip(starts, ends, grains.markers, grains.sizes, strict=True):
            if state.given_bytes < start:
                outputs += [content[run:done]] if run < done else []
                outputs.append(Zeros(start - state.given_bytes))
                run = done
            at = marker + GRAIN_MARKER.size
            if not inflate_zlib_into(data[at : at + size], content[done : done + end - start]):
                raise malformed(f"the compressed grain at {self.position + marker} cannot be decoded")
            done += end - start
            state.given_bytes = end
        outputs.append(content[run:done])
        state.tally.see_grains(
            [lba // header.grain_sectors for lba in grains.lbas],
            [(self.position + marker) // SECTOR_BYTES for marker in grains.markers],
        )
        return outputs

    def _marked(self, data: memoryview) -> Step:
        """A table, or the start of what ends a file. ``data`` has a sector at least."""
        sectors, _, kind = MARKER.unpack_from(data)
        sector = self.position // SECTOR_BYTES + 1
        if kind == MarkerKind.TABLE and sectors == TABLE_SECTORS:
            if len(data) < SECTOR_BYTES + TABLE_BYTES:
                return Step(0)
            self._see_tables(sector, data[SECTOR_BYTES : SECTOR_BYTES + TABLE_BYTES])
            return Step(SECTOR_BYTES + TABLE_BYTES)
        if kind == MarkerKind.DIRECTORY and sectors == -(-self._header.directory_bytes // SECTOR_BYTES):
            if self._state.directory_sector:
                raise malformed("it has a second grain directory")
            self._state.directory_sector = sector
            self._state.phase = Phase.DIRECTORY
            return Step(SECTOR_BYTES)
        if kind == MarkerKind.FOOTER and sectors == 1:
            return self._footer(data)
        if kind == MarkerKind.END_OF_STREAM and not sectors and self._header.directory_sector is not None:
            self._state.phase = Phase.END
            return Step(SECTOR_BYTES)
        raise malformed(
            f"the marker at {self.position}, of kind {kind} with {sectors} sectors, cannot be there"
        )

    def _footer(self, data: memoryview) -> Step:
        length = FOOTER_SECTORS * SECTOR_BYTES
        if len(data) < length:
            return Step(0)
        self._known_header = parse_footer(bytes(data[:length]), self._header, self._max_virtual_size_bytes)
        self._state.phase = Phase.FOOTER_END
        return Step(length)

    def _directory(self, data: memoryview) -> Step:
        """A directory behind its marker."""
        entries = self._directory_part(data)
        if self._state.directory_done == self._header.directory_entries:
            self._state.phase = Phase.GRAINS
        return Step(len(entries) * ENTRY_BYTES)

    def _after_end(self, data: memoryview) -> Step:
        if any(data[:SECTOR_BYTES]):
            raise malformed("other bytes than zeros follow the end of its stream")
        return Step(min(len(data), SECTOR_BYTES))

    def _after_footer(self, data: memoryview) -> Step:
        if len(data):
            raise malformed("its footer is not at its end")
        return Step(0)

    def _directory_part(self, data: memoryview) -> Numbers:
        """Entries of the directory that are at hand."""
        header, state = self._header, self._state
        left = (header.directory_entries - state.directory_done) * ENTRY_BYTES
        length = min(left, len(data), TABLE_STEP_BYTES) // ENTRY_BYTES * ENTRY_BYTES
        entries: Numbers = np.frombuffer(data[:length], "<u4").astype(np.uint64)
        state.tally.see_directory(state.directory_done, entries)
        state.directory_done += len(entries)
        return entries

    def _see_tables(self, sector: int, content: memoryview) -> None:
        entries = np.frombuffer(content, "<u4").astype(np.uint64)
        assert len(entries) % TABLE_ENTRIES == 0
        if self._header.has_zero_grains:
            entries[entries == ZERO_GRAIN] = 0
        self._state.tally.see_tables(sector, entries)

    def _skipped(self, data: memoryview, sector: int) -> int:
        """How much of ``data`` lies before a sector."""
        return max(0, min(len(data), sector * SECTOR_BYTES - self.position))

    def _padding(self, data: memoryview) -> int:
        """How much of ``data`` lies before the next start of a sector."""
        return min(len(data), -self.position % SECTOR_BYTES)


def _other_order() -> Exception:
    return unsupported("the grain tables of this vmdk file do not lie one after another before its grains")

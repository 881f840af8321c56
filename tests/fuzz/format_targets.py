"""Targets of `imsd.formats`: every reader, every decoder, unpacking, packages, detection."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar
from zlib import crc32

import zstandard

from imsd.contract import ImageRefused
from imsd.formats.detect import (
    HEAD_BYTES,
    PACKAGES,
    TAIL_BYTES,
    check_tail,
    detect,
    head_formats,
    open_image,
)
from imsd.formats.output import Zeros
from imsd.formats.ova import describe, member_source
from imsd.formats.registry import DECODERS, READERS
from imsd.formats.source import BlockSource, ByteSource, MemorySource, NeedBytes
from imsd.formats.stream_decoder import MAX_UNIT_BYTES, StreamDecoder
from imsd.formats.tar_members import MAX_MEMBERS, TarWalk
from imsd.formats.unwrap import PIECE_BYTES, WRAPPERS, Unwrapper, wrapper_of
from tests.fuzz.target import Answer, Target, refusable, small_ones
from tests.unit.formats import (
    crafted_iso,
    crafted_ova,
    crafted_qcow,
    crafted_qcow2,
    crafted_qed,
    crafted_vdi,
    crafted_vhd,
    crafted_vhdx,
    crafted_vmdk,
    crafted_zvhd,
)
from tests.unit.formats.crafted_tables import some_bytes
from tests.unit.formats.disk_files import LIMIT, LateSource, check_cover

# Of a disk, which may claim to be large, so much is looked at in each place.
MAX_READ_BYTES = 1 << 20
# A decoder may give any number of bytes, as long as somebody takes them: this is enough of them.
MAX_OUTPUT_BYTES = 48 << 20
MAX_FETCHES = 64

T = TypeVar("T")
Make = Callable[[random.Random], bytes | bytearray]


def _raw(chosen: random.Random) -> bytes:
    return some_bytes(chosen, chosen.choice([1, 511, 512, 1000, 4096, 70_000]))


MAKERS: Mapping[str, Make] = {
    "raw": _raw,
    "iso": crafted_iso.sound_file,
    "qcow2": crafted_qcow2.sound_file,
    "qcow": crafted_qcow.sound_file,
    "qed": crafted_qed.sound_file,
    "vdi": crafted_vdi.sound_file,
    "vhd": crafted_vhd.sound_file,
    "vhdx": crafted_vhdx.sound_file,
    "vmdk": crafted_vmdk.sound_file,
    **crafted_zvhd.SOUND_FILES,
}

REPAIRS: Mapping[str, Callable[[bytearray], bytes]] = {
    "vhd": lambda file: crafted_vhd.resealed(bytes(file)),
    "vhdx": lambda file: crafted_vhdx.resealed(bytes(file)),
    "zvhd": crafted_zvhd.with_checksums,
    "zvhd2": crafted_zvhd.with_checksums,
}

PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, mtime=0),
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
}


def look_at(blocks: BlockSource, places: random.Random) -> str:
    """What is in some places of a disk, all of it when it is small; a digest of what was found."""
    size = blocks.size_bytes
    assert size >= 0
    assert size % 512 == 0, f"a disk of {size} bytes"
    assert size <= LIMIT, f"a disk of {size} bytes was accepted"
    check_cover(_fetched(lambda: blocks.extents(0, size)), 0, size)
    found = hashlib.blake2b(size.to_bytes(8, "big"))
    starts = {0, max(0, size - MAX_READ_BYTES), *(places.randrange(size) for _ in range(2 if size else 0))}
    for start in sorted(starts):
        found.update(_look_at_part(blocks, start, min(MAX_READ_BYTES, size - start)))
    return found.hexdigest()


def _look_at_part(blocks: BlockSource, start: int, length: int) -> bytearray:
    extents = _fetched(lambda: blocks.extents(start, length))
    check_cover(extents, start, length)
    buffer = bytearray(b"\xee" * length)
    _fetched(lambda: blocks.read_into(start, memoryview(buffer)))
    for extent in extents:
        inside = memoryview(buffer)[extent.start - start : extent.end - start]
        assert not extent.is_zero or _is_zero(bytes(inside)), "an extent of zeros has other bytes"
    return buffer


def _is_zero(content: bytes) -> bool:
    return content.count(0) == len(content)


def _fetched(call: Callable[[], T]) -> T:
    """What ``call`` gives when it has the bytes that it asks for."""
    for _ in range(MAX_FETCHES):
        try:
            return call()
        except NeedBytes as need:
            missing = need
        assert isinstance(missing.source, LateSource)
        missing.source.add(missing.ranges)
    raise AssertionError("it never has enough bytes")


def _source(file: bytes, chosen: random.Random) -> ByteSource:
    """The file, at hand or to be fetched: that must not matter."""
    return MemorySource(file) if chosen.random() < 0.8 else LateSource(file)


def read(name: str, file: bytes, chosen: random.Random) -> Answer:
    """By the reader of a format, whatever the file is."""
    source = _source(file, chosen)

    def disk() -> object:
        opened = _fetched(lambda: READERS[name].open(source, LIMIT))
        assert opened.format_name == name
        noticed = [(finding.code, finding.message) for finding in opened.findings]
        return look_at(opened.blocks, random.Random(crc32(file))), noticed, opened.variant

    return refusable(disk)


def find_out(file: bytes, chosen: random.Random) -> Answer:
    """The format first, then the disk; head and tail must not contradict the whole."""
    source = _source(file, chosen)

    def disk() -> object:
        found = _fetched(lambda: detect(source))
        at_start = head_formats(file)
        assert len(at_start) <= 1, "several formats at the start of an accepted file"
        assert found in {*READERS, *PACKAGES}
        assert at_start in ([], [found])
        check_tail(file[-TAIL_BYTES:], found)
        opened = _fetched(lambda: open_image(source, found, LIMIT))
        assert opened.format_name == found
        return found, look_at(opened.blocks, random.Random(crc32(file)))

    return refusable(disk)


def decode(name: str, file: bytes, chosen: random.Random) -> Answer:
    """In one pass; what the reader accepts too must be the same disk."""

    def disk() -> object:
        blocks = _blocks(name, file)
        comparison = _Comparison(blocks)
        decoder = DECODERS[name].begin(LIMIT)
        decoder = _feed(decoder, file, chosen, comparison)
        if comparison.is_enough:
            return None
        streamed = decoder.finish(len(file))
        assert comparison.position + streamed.zeros_at_end == streamed.size_bytes
        assert blocks is None or blocks.size_bytes == streamed.size_bytes, "two sizes of one disk"
        comparison.take(Zeros(streamed.zeros_at_end) if streamed.zeros_at_end else b"")
        assert not comparison.difference, comparison.difference  # of a file that is accepted
        return streamed.size_bytes, comparison.digest.hexdigest()

    return refusable(disk)


def _blocks(name: str, file: bytes) -> BlockSource | None:
    try:
        return READERS[name].open(MemorySource(file), LIMIT).blocks
    except ImageRefused:
        return None


def _feed(
    decoder: StreamDecoder, file: bytes, chosen: random.Random, comparison: _Comparison
) -> StreamDecoder:
    """Gives the file in pieces; the decoder is made anew from its state now and then."""
    view = memoryview(file)
    at_hand = 0
    while decoder.position < len(file) and not comparison.is_enough:
        if chosen.random() < 0.05:
            position, state = decoder.position, decoder.state()
            decoder = type(decoder).resume(state, LIMIT)
            assert decoder.position == position, "it went on elsewhere"
        more = chosen.choice((4096, 1 << 16, MAX_UNIT_BYTES))
        at_hand = min(max(at_hand, decoder.position) + more, len(file))
        step = decoder.step(view[decoder.position : at_hand])
        assert step.consumed or at_hand - decoder.position < MAX_UNIT_BYTES, "it never takes a unit"
        if not step.consumed and at_hand == len(file):
            break
        for output in step.outputs:
            comparison.take(output)
    return decoder


class _Comparison:
    """What a decoder gives, beside what the reader reads there."""

    def __init__(self, blocks: BlockSource | None) -> None:
        self._blocks = blocks
        self.position = 0
        self.given_bytes = 0
        self.digest = hashlib.blake2b()
        self.difference = ""

    @property
    def is_enough(self) -> bool:
        return self.given_bytes > MAX_OUTPUT_BYTES

    def take(self, output: object) -> None:
        length = len(output) if not isinstance(output, Zeros) else output.length  # type: ignore[arg-type]
        if isinstance(output, Zeros):
            for start in {self.position, max(self.position, self.position + length - MAX_READ_BYTES)}:
                self._compare(start, bytes(min(length, MAX_READ_BYTES)))
        else:
            content = bytes(output)  # type: ignore[call-overload]
            self.given_bytes += length
            self.digest.update(b"" if _is_zero(content) else self.position.to_bytes(8, "big") + content)
            self._compare(self.position, content)
        self.position += length

    def _compare(self, start: int, content: bytes) -> None:
        if self._blocks is None or start + len(content) > self._blocks.size_bytes:
            return
        buffer = bytearray(len(content))
        try:
            self._blocks.read_into(start, memoryview(buffer))
        except ImageRefused:
            self._blocks, self.difference = None, ""  # it opened, but the reader refuses its content
            return
        if buffer != content and not self.difference:
            self.difference = f"two contents from byte {start}"


def unwrap(name: str, file: bytes, chosen: random.Random) -> Answer:
    """Unpacked in pieces of any length, which must not matter."""
    assert wrapper_of(file) in (None, *WRAPPERS)

    def plain() -> object:
        unwrapper = Unwrapper(name, LIMIT)
        found = hashlib.blake2b()
        step = chosen.choice((1000, 1 << 16, 1 << 20))
        for start in range(0, len(file), step):
            for piece in unwrapper.feed(file[start : start + step]):
                assert 0 < len(piece) <= PIECE_BYTES
                found.update(piece)
                if unwrapper.given_bytes > MAX_OUTPUT_BYTES:
                    return None
        unwrapper.finish()
        return unwrapper.given_bytes, found.hexdigest()

    return refusable(plain)


def take_apart(file: bytes, chosen: random.Random) -> Answer:
    """The members of a package, its disks and what is to be checked; every byte of them is inside."""
    source = _source(file, chosen)

    def disks() -> object:
        walk, members = TarWalk(source), []
        while member := _fetched(walk.next):
            members.append(member)
        assert len(members) <= MAX_MEMBERS
        package = _fetched(lambda: describe(source, members))
        found = hashlib.blake2b()
        for disk in package.disks:
            assert disk.member.offset + disk.member.size_bytes <= len(file)
            content = member_source(MemorySource(file), disk.member).read(0, disk.member.size_bytes)
            found.update(content)
        return package.descriptor, package.checksums, found.hexdigest()

    return refusable(disks)


def _wrapped(name: str, chosen: random.Random) -> bytes:
    """One or two members of any content, with zeros behind them or none."""
    members = [PACK[name](some_bytes(chosen, chosen.choice([1, 512, 5000, 100_000]))) for _ in range(2)]
    return b"".join(members[: chosen.randrange(1, 3)]) + bytes(chosen.choice([0, 0, 512]))


def _decodable(name: str) -> Iterable[bytes]:
    files = small_ones(MAKERS[name])
    return [file for file in files if DECODERS[name].can_decode(file[:HEAD_BYTES])]


def _of_all_formats() -> Iterable[bytes]:
    """A small file of each format, and some that are two at once."""
    files = [min(small_ones(make), key=len) for make in MAKERS.values()]
    disc = crafted_iso.disc(bootable=True)
    return [*files, *(file[:32768] + disc[len(file[:32768]) :] for file in files)]


def _targets() -> Iterable[Target]:
    for name, make in MAKERS.items():
        yield Target(name, partial(small_ones, make), partial(read, name), REPAIRS.get(name))
    for name in DECODERS:
        yield Target(f"decode-{name}", partial(_decodable, name), partial(decode, name), REPAIRS.get(name))
    for name in WRAPPERS:
        yield Target(f"unwrap-{name}", partial(small_ones, partial(_wrapped, name)), partial(unwrap, name))
    yield Target("package", partial(small_ones, crafted_ova.sound_file), take_apart, crafted_ova.resealed)
    yield Target("detection", _of_all_formats, find_out)


TARGETS = {target.name: target for target in _targets()}

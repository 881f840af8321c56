"""The disk formats imsd knows, and who reads and writes them. A new format is entered here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from imsd.contract import InvalidRequest

from .iso import IsoReader
from .qcow import QcowReader
from .qcow2 import Qcow2Reader
from .qcow2_writer import COMPRESSIONS as QCOW2_COMPRESSIONS
from .qcow2_writer import Qcow2Writer
from .qed import QedReader
from .raw import RawReader
from .raw_writer import RawWriter
from .reader import FormatReader
from .source import BlockSource
from .stream_decoder import StreamDecoder
from .vdi import VdiReader
from .vdi_writer import VdiWriter
from .vhd import VhdReader
from .vhd_writer import VhdWriter
from .vhdx import VhdxReader
from .vhdx_writer import VhdxWriter
from .vmdk import VmdkReader
from .vmdk_decoder import VmdkDecoder
from .vmdk_writer import COMPRESSIONS as VMDK_COMPRESSIONS
from .vmdk_writer import VmdkWriter
from .writer import FormatWriter, Spool
from .zvhd import ZvhdReader
from .zvhd2 import Zvhd2Reader
from .zvhd2_decoder import Zvhd2Decoder, Zvhd2RecordDecoder
from .zvhd2_writer import ZVHD2_COMPRESSIONS, Zvhd2Writer
from .zvhd_decoder import ZvhdDecoder
from .zvhd_writer import ZVHD_COMPRESSIONS, ZvhdWriter

READERS: Mapping[str, FormatReader] = {
    reader.name: reader
    for reader in (
        RawReader(),
        IsoReader(),
        Qcow2Reader(),
        QcowReader(),
        QedReader(),
        VdiReader(),
        VhdReader(),
        VhdxReader(),
        VmdkReader(),
        ZvhdReader(),
        Zvhd2Reader(),
    )
}


# Formats whose files can be decoded in one forward pass; a file of theirs may still be of a kind that cannot.
DECODERS: Mapping[str, type[StreamDecoder]] = {
    decoder.name: decoder for decoder in (VmdkDecoder, ZvhdDecoder, Zvhd2Decoder)
}

# Of them, those whose records can be kept as they come, by decoders that go on with each other's states.
RECORD_DECODERS: Mapping[str, type[StreamDecoder]] = {Zvhd2RecordDecoder.name: Zvhd2RecordDecoder}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a file is to be written; see `open_writer`."""

    compression: str
    may_frame: bool
    spool: Spool | None


@dataclass(frozen=True, slots=True)
class WritableFormat:
    """``open`` makes a writer. The first of ``compressions``, if any, is the default."""

    open: Callable[[BlockSource, Wanted], FormatWriter]
    compressions: Sequence[str] = ()


WRITERS: Mapping[str, WritableFormat] = {
    "raw": WritableFormat(lambda blocks, wanted: RawWriter(blocks, may_frame=wanted.may_frame)),
    "qcow2": WritableFormat(
        lambda blocks, wanted: Qcow2Writer(blocks, wanted.compression, spool=wanted.spool), QCOW2_COMPRESSIONS
    ),
    "vhd": WritableFormat(lambda blocks, wanted: VhdWriter(blocks, may_frame=wanted.may_frame)),
    "vhdx": WritableFormat(lambda blocks, wanted: VhdxWriter(blocks, may_frame=wanted.may_frame)),
    "vmdk": WritableFormat(lambda blocks, wanted: VmdkWriter(blocks, wanted.compression), VMDK_COMPRESSIONS),
    "zvhd": WritableFormat(lambda blocks, _: ZvhdWriter(blocks), ZVHD_COMPRESSIONS),
    "zvhd2": WritableFormat(lambda blocks, wanted: Zvhd2Writer(blocks, wanted.spool), ZVHD2_COMPRESSIONS),
    "vdi": WritableFormat(lambda blocks, wanted: VdiWriter(blocks, may_frame=wanted.may_frame)),
}


@dataclass(frozen=True, slots=True)
class Format:
    """What can be done with one disk format. ``is_streamable``: stored while it arrives, if a file allows."""

    name: str
    summary: str
    can_read: bool
    can_write: bool
    is_streamable: bool
    compressions: Sequence[str]


def is_streamable(name: str) -> bool:
    reader = READERS.get(name)
    return reader is not None and reader.is_streamable


def can_decode(name: str, head: bytes) -> bool:
    """Whether a file of the format that starts with ``head`` can be decoded while it arrives."""
    decoder = DECODERS.get(name)
    return decoder is not None and decoder.can_decode(head)


def writable_compressions(name: str) -> Sequence[str] | None:
    """The compressions a written file may have, the default first; None when the format is not written."""
    writable = WRITERS.get(name)
    return None if writable is None else writable.compressions


def require_writable(name: str, compression: str) -> WritableFormat:
    """Who writes a format with a compression; none means the format's default.

    Raises InvalidRequest (FORMAT_UNSUPPORTED; a compression the format does not have).
    """
    writable = WRITERS.get(name)
    if writable is None:
        raise InvalidRequest(
            f"imsd cannot write {name} files",
            reason="FORMAT_UNSUPPORTED",
            field="disk_format",
            hint="choose one of " + ", ".join(WRITERS),
        )
    if compression and compression not in writable.compressions:
        known = ", ".join(writable.compressions)
        raise InvalidRequest(
            f"{name} has no compression {compression}",
            field="compression",
            hint=f"choose one of {known}" if known else "choose none",
        )
    return writable


def open_writer(
    name: str,
    blocks: BlockSource,
    compression: str = "",
    *,
    may_frame: bool = False,
    spool: Spool | None = None,
) -> FormatWriter:
    """A writer of ``blocks`` in a format.

    ``may_frame``: parts of the file may be given out as `Framed`, when that saves decoding them.
    ``spool``: keeps what would otherwise be made twice; closed when the file is written.

    Raises InvalidRequest: as `require_writable`, and for a disk that the format cannot hold.
    """
    writable = require_writable(name, compression)
    wanted = Wanted(compression or next(iter(writable.compressions), ""), may_frame, spool)
    return writable.open(blocks, wanted)


FORMATS: Sequence[Format] = tuple(
    Format(
        name=name,
        summary=reader.summary,
        can_read=True,  # imsd has a reader of every format it knows
        can_write=name in WRITERS,
        is_streamable=is_streamable(name) or name in DECODERS,
        compressions=writable_compressions(name) or (),
    )
    for name, reader in READERS.items()
)

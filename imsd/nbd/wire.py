"""The bytes of NBD: its numbers, requests and replies; fixed newstyle, with structured replies.

The specification is doc/proto.md of github.com/NetworkBlockDevice/nbd; names here are those there, without
their prefix. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

# -- handshake -----------------------------------------------------------------------------------------

GREETING = b"NBDMAGIC" + b"IHAVEOPT"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9

# Of the server: fixed newstyle, no zeroes. A client may answer with these two, and no others.
HANDSHAKE_FLAGS = 0b11
NO_ZEROES = 0b10

# magic, option, length of what follows
OPTION = struct.Struct(">8sII")
# magic, option, type, length of what follows
OPTION_REPLY = struct.Struct(">QIII")
# After EXPORT_NAME: size, transmission flags.
EXPORT = struct.Struct(">QH")
EXPORT_PADDING = bytes(124)


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_UNKNOWN = 0x80000006
    ERR_TOO_BIG = 0x80000009


class InfoType(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Transmission(IntFlag):
    """What the export offers."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_DF = 1 << 7  # only with structured replies
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10


# The only metadata context, and the number it has.
ALLOCATION = b"base:allocation"
ALLOCATION_ID = 1

# -- transmission ------------------------------------------------------------------------------------------

REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF

# magic, flags, type, cookie, offset, length
REQUEST = struct.Struct(">IHHQQI")
# magic, error, cookie
SIMPLE_REPLY = struct.Struct(">IIQ")
# magic, flags, type, cookie, length of what follows
CHUNK = struct.Struct(">IHHQI")
# The same and an offset; and what a hole adds.
_DATA = struct.Struct(">IHHQIQ")
_HOLE = struct.Struct(">IHHQIQI")
_ERROR = struct.Struct(">IH")
_DESCRIPTOR = struct.Struct(">II")


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


# Flags of a request that may stand where they mean nothing, and those that mean something here.
FLAG_FUA, FLAG_DF, FLAG_REQ_ONE = 1 << 0, 1 << 2, 1 << 3

CHUNK_DONE = 1


class ChunkType(IntEnum):
    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1


class Error(IntEnum):
    """Error numbers of the protocol."""

    EPERM = 1
    EIO = 5
    EINVAL = 22
    EOVERFLOW = 75
    ESHUTDOWN = 108


# What base:allocation says of an extent.
DATA_EXTENT = 0
ZERO_EXTENT = 0b11  # a hole that reads as zeros


class RequestHead(NamedTuple):
    """A request as it came; ``kind`` may be no `Command`."""

    magic: int
    flags: int
    kind: int
    cookie: int
    start: int
    length: int


def option_reply(option: int, kind: OptionReply, content: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(content)) + content


def simple_reply(cookie: int, error: int = 0) -> bytes:
    return SIMPLE_REPLY.pack(SIMPLE_MAGIC, error, cookie)


def data_head(cookie: int, start: int, length: int, flags: int = 0) -> bytes:
    """What stands before ``length`` bytes of data."""
    return _DATA.pack(CHUNK_MAGIC, flags, ChunkType.OFFSET_DATA, cookie, 8 + length, start)


def hole(cookie: int, start: int, length: int, flags: int = 0) -> bytes:
    return _HOLE.pack(CHUNK_MAGIC, flags, ChunkType.OFFSET_HOLE, cookie, 12, start, length)


def done(cookie: int) -> bytes:
    """The end of a reply without content."""
    return CHUNK.pack(CHUNK_MAGIC, CHUNK_DONE, ChunkType.NONE, cookie, 0)


def error_chunk(cookie: int, error: int, message: str) -> bytes:
    """The end of a reply that failed. ``message``: a sentence for people."""
    text = message.encode()[:1024]
    content = _ERROR.pack(error, len(text)) + text
    return CHUNK.pack(CHUNK_MAGIC, CHUNK_DONE, ChunkType.ERROR, cookie, len(content)) + content


def block_status(cookie: int, extents: Sequence[tuple[int, int]]) -> bytes:
    """The whole reply. ``extents``: (length, flags) of each, in order."""
    content = struct.pack(">I", ALLOCATION_ID) + b"".join(_DESCRIPTOR.pack(*each) for each in extents)
    return CHUNK.pack(CHUNK_MAGIC, CHUNK_DONE, ChunkType.BLOCK_STATUS, cookie, len(content)) + content

"""What the process that inspects a disk and the one that gives it bytes say to each other.

The inspecting side is told the disk's size and its budget, then it alone asks: for bytes, each time
answered with exactly those, and at last it hands over its report. Nothing here needs more than the
standard library.
"""

from __future__ import annotations

import socket
from struct import Struct

from .budget import MAX_FETCH_BYTES, Budget, PagedVolume
from .report import MAX_JSON_BYTES

# To the inspecting side, once: the size of the disk, reads, bytes to read, processor time in milliseconds.
TASK = Struct("<QIQI")
# From it: what is wanted, offset (0 for a report), length of what is asked for or follows.
REQUEST = Struct("<cQI")
READ, REPORT = b"R", b"D"

MAX_REPORT_BYTES = MAX_JSON_BYTES


class DiskGone(BaseException):
    """The other side is not there any more: nobody waits for a report."""


class InspectingSide:
    """The end of the channel that the confined process holds."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        size, reads, read_bytes, self.cpu_milliseconds = TASK.unpack(self._receive(TASK.size))
        self.volume = PagedVolume(size, self._fetch, Budget(reads, read_bytes))

    def report(self, text: bytes) -> None:
        self._channel.sendall(REQUEST.pack(REPORT, 0, len(text)) + text)

    def _fetch(self, offset: int, length: int) -> bytes:
        """At most `MAX_FETCH_BYTES`. Raises `DiskGone`."""
        assert 0 < length <= MAX_FETCH_BYTES
        try:
            self._channel.sendall(REQUEST.pack(READ, offset, length))
        except OSError as error:
            raise DiskGone from error
        return self._receive(length)

    def _receive(self, length: int) -> bytes:
        content = self._channel.recv(length, socket.MSG_WAITALL)
        if len(content) != length:
            raise DiskGone
        return content

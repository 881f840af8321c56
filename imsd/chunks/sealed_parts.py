"""Staged parts of an encrypted upload: sealed piece by piece, so that any range of a part can be read.

A piece is 64 KiB, the last one of a part shorter; sealed it is `SEAL_BYTES` longer. Each is bound to the
upload, the part, its number in the part and whether it is the last, so none can be left out, added or moved.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from imsd.contract import Buffer, ByteRange, DataLoss

from .cipher import SEAL_BYTES, ChunkCipher

PIECE_BYTES = 64 << 10
SEALED_PIECE_BYTES = PIECE_BYTES + SEAL_BYTES

# number of the part, number of the piece, 1 if it is the part's last; the id of the upload follows
_PIECE = struct.Struct("<QQB")


def sealed_length(length: int) -> int:
    """How many bytes a part of ``length`` bytes, 1 or more, has when it is sealed."""
    return length + -(-length // PIECE_BYTES) * SEAL_BYTES


class SealedParts:
    """The parts of one upload. Thread-safe."""

    def __init__(self, cipher: ChunkCipher, upload_id: str) -> None:
        self._cipher = cipher
        self._upload_id = upload_id.encode()

    def sealer(self, number: int) -> PartSealer:
        """Seals part ``number``, which is never written again with this number."""
        return PartSealer(self, number)

    def stored_range(self, length: int, wanted: ByteRange) -> ByteRange:
        """Where, in a sealed part of ``length`` bytes, the pieces lie that hold ``wanted`` of it."""
        first, last = wanted.offset // PIECE_BYTES, (wanted.end - 1) // PIECE_BYTES
        start = first * SEALED_PIECE_BYTES
        return ByteRange(start, min((last + 1) * SEALED_PIECE_BYTES, sealed_length(length)) - start)

    def opened(self, number: int, length: int, wanted: ByteRange, stored: Buffer) -> bytes:
        """``wanted`` of part ``number``, which has ``length`` bytes; ``stored``: its `stored_range`.

        Raises DataLoss.
        """
        first, last = wanted.offset // PIECE_BYTES, (length - 1) // PIECE_BYTES
        view = memoryview(stored)
        content = memoryview(bytearray(len(view) - -(-len(view) // SEALED_PIECE_BYTES) * SEAL_BYTES))
        for count, sealed in enumerate(_cut(view, SEALED_PIECE_BYTES)):
            piece = content[count * PIECE_BYTES :][: len(sealed) - SEAL_BYTES]
            bound = self._bound(number, first + count, is_last=first + count == last)
            if not self._cipher.open_part(bound, sealed, piece):
                raise DataLoss(
                    f"part {number} of the upload was altered in the store, or sealed with another key, "
                    f"at its byte {(first + count) * PIECE_BYTES}",
                    hint="abort the upload and send it again",
                )
        start = wanted.offset - first * PIECE_BYTES
        return bytes(content[start : start + wanted.length])

    def seal(self, number: int, first: int, content: memoryview, *, is_end: bool) -> memoryview:
        """The pieces of part ``number`` from piece ``first``, sealed; ``is_end``: the part ends with them."""
        pieces = list(_cut(content, PIECE_BYTES))
        sealed = memoryview(bytearray(len(content) + len(pieces) * SEAL_BYTES))
        for count, piece in enumerate(pieces):
            target = sealed[count * SEALED_PIECE_BYTES :][: len(piece) + SEAL_BYTES]
            is_last = is_end and count + 1 == len(pieces)
            self._cipher.seal_part(self._bound(number, first + count, is_last=is_last), piece, target)
        return sealed

    def _bound(self, number: int, piece: int, *, is_last: bool) -> bytes:
        return _PIECE.pack(number, piece, is_last) + self._upload_id


class PartSealer:
    """Seals one part whose bytes come in order, in a thread at a time; then `finish`.

    Holds less than 64 KiB and a byte back: the last piece is sealed as such.
    """

    def __init__(self, parts: SealedParts, number: int) -> None:
        self._parts = parts
        self._number = number
        self._pieces = 0
        self._rest = b""

    def update(self, data: Buffer) -> memoryview:
        """The next bytes of the part; returns what is to be written, perhaps nothing."""
        content = memoryview(b"".join((self._rest, data))) if self._rest else memoryview(data).cast("B")
        whole = max(0, len(content) - 1) // PIECE_BYTES * PIECE_BYTES
        sealed = self._parts.seal(self._number, self._pieces, content[:whole], is_end=False)
        self._pieces += whole // PIECE_BYTES
        self._rest = bytes(content[whole:])
        return sealed

    def finish(self) -> memoryview:
        """The part ends here, after 1 byte or more; returns the rest of what is to be written."""
        rest, self._rest = memoryview(self._rest), b""
        return self._parts.seal(self._number, self._pieces, rest, is_end=True)


def _cut(content: memoryview, size: int) -> Iterator[memoryview]:
    return (content[at : at + size] for at in range(0, len(content), size))

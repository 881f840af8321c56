"""A volume whose stripes go round several others."""

from __future__ import annotations

from collections.abc import Sequence

from .record import check_range
from .volume import GuestUnreadable, Piece, Volume

LEAST_STRIPE_BYTES = 4096
MAX_STRIPE_BYTES = 1 << 30


class StripedVolume(Volume):
    """Stripes of ``stripe_bytes``, one of each piece in turn. All pieces are equally long."""

    def __init__(self, pieces: Sequence[Piece], stripe_bytes: int) -> None:
        """Raises `GuestUnreadable` when the lengths do not fit together."""
        check_range(stripe_bytes, LEAST_STRIPE_BYTES, MAX_STRIPE_BYTES, "the size of a stripe")
        lengths = {piece.length for piece in pieces}
        if len(lengths) != 1 or lengths.pop() % stripe_bytes:
            raise GuestUnreadable("stripes that are not equally long")
        self._pieces = pieces
        self._stripe = stripe_bytes
        self.size_bytes = sum(piece.length for piece in pieces)
        self.is_cached = all(piece.volume.is_cached for piece in pieces)

    def _read(self, offset: int, length: int) -> bytes:
        found: list[bytes] = []
        while length:
            number, inside = divmod(offset, self._stripe)
            row, column = divmod(number, len(self._pieces))
            count = min(length, self._stripe - inside)
            piece = self._pieces[column]
            found.append(piece.volume.read(piece.offset + row * self._stripe + inside, count))
            offset, length = offset + count, length - count
        return b"".join(found)

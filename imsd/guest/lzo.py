"""LZO1X, decompressed. Source: "LZO stream format as understood by Linux's LZO decompressor" (Linux)."""

from __future__ import annotations

from .volume import GuestUnreadable

# A first byte above it is a count of literals; instructions below these are of the next kind.
FIRST_LITERALS = 17
FAR_MATCH, NEAR_MATCH, SHORT_MATCH = 16, 32, 64
FAR_DISTANCE = 16_384
AFTER_LITERALS_DISTANCE = 2049
# After a run of literals; 0 to 3 are the literals that followed the last match.
AFTER_RUN = 4
MIN_RUN = 3


def decompress(content: bytes, most_bytes: int) -> bytes:
    """One stream, of at most ``most_bytes``. Raises `GuestUnreadable`, also when it would be longer."""
    return _Stream(content, most_bytes).decode()


class _Stream:
    def __init__(self, content: bytes, most_bytes: int) -> None:
        self._content = content
        self._most_bytes = most_bytes
        self._position = 0
        self._out = bytearray()
        self._state = 0

    def decode(self) -> bytes:
        if self._content[:1] > bytes([FIRST_LITERALS]):
            count = self._byte() - FIRST_LITERALS
            self._literals(count)
            self._state = min(count, AFTER_RUN)
        while True:
            code = self._byte()
            if code < FAR_MATCH and self._state == 0:
                self._literals(MIN_RUN + (code or self._long(15)))
                self._state = AFTER_RUN
                continue
            length, distance, following = self._match(code)
            if not distance:
                return bytes(self._out)
            self._copy(length, distance)
            self._literals(following)
            self._state = following

    def _match(self, code: int) -> tuple[int, int, int]:
        """Length and distance of a match, and how many literals follow it; distance 0: the stream ends."""
        if code >= SHORT_MATCH:
            length = 3 + (code >> 5 & 1) if code < 2 * SHORT_MATCH else 5 + (code >> 5 & 3)
            return length, (self._byte() << 3) + (code >> 2 & 7) + 1, code & 3
        if code >= NEAR_MATCH:
            length = 2 + (code & 31 or self._long(31))
            word = self._byte() | self._byte() << 8
            return length, (word >> 2) + 1, word & 3
        if code >= FAR_MATCH:
            length = 2 + (code & 7 or self._long(7))
            word = self._byte() | self._byte() << 8
            distance = (code >> 3 & 1) << 14 | word >> 2
            return length, distance + FAR_DISTANCE if distance else 0, word & 3
        distance = (self._byte() << 2) + (code >> 2)
        if self._state == AFTER_RUN:
            return 3, distance + AFTER_LITERALS_DISTANCE, code & 3
        return 2, distance + 1, code & 3

    def _byte(self) -> int:
        if self._position >= len(self._content):
            raise GuestUnreadable("an LZO stream without end")
        self._position += 1
        return self._content[self._position - 1]

    def _long(self, begin: int) -> int:
        """A length that goes on: 255 for each zero byte, then the byte that is not."""
        while (byte := self._byte()) == 0:
            begin += 255
        return begin + byte

    def _literals(self, count: int) -> None:
        end = self._position + count
        if end > len(self._content) or len(self._out) + count > self._most_bytes:
            raise GuestUnreadable("an LZO stream of too many literals")
        self._out += self._content[self._position : end]
        self._position = end

    def _copy(self, length: int, distance: int) -> None:
        if distance > len(self._out) or len(self._out) + length > self._most_bytes:
            raise GuestUnreadable("an LZO stream refers to what is not there")
        start = len(self._out) - distance
        source = bytes(self._out[start : start + length])
        self._out += (source * (length // distance + 1))[:length]

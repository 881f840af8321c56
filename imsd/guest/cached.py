"""A volume that remembers the pages it read last: structures of a file system lie close together."""

from __future__ import annotations

from .volume import Volume

PAGE_BYTES = 4096
# 2 MiB of pages, for a disk with all its parts; longer reads are file contents, which nobody reads twice.
MAX_PAGES = 512
MAX_CACHED_READ_BYTES = 64 << 10


class CachedVolume(Volume):
    """Reads of up to `MAX_CACHED_READ_BYTES` are served in pages, missing neighbours in one read."""

    is_cached = True

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._pages: dict[int, bytes] = {}
        self.size_bytes = volume.size_bytes

    def _read(self, offset: int, length: int) -> bytes:
        if length > MAX_CACHED_READ_BYTES:
            return self._volume.read(offset, length)
        first, last = offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES
        pages = self._pages
        found = {number: pages[number] for number in range(first, last + 1) if number in pages}
        missing = [number for number in range(first, last + 1) if number not in found]
        if missing:
            found |= self._fetch(missing[0], missing[-1])
        self._keep(found)
        start = offset - first * PAGE_BYTES
        return b"".join(found[number] for number in range(first, last + 1))[start : start + length]

    def _fetch(self, first: int, last: int) -> dict[int, bytes]:
        start = first * PAGE_BYTES
        content = self._volume.read(start, min((last + 1) * PAGE_BYTES, self.size_bytes) - start)
        return {
            number: content[(number - first) * PAGE_BYTES : (number - first + 1) * PAGE_BYTES]
            for number in range(first, last + 1)
        }

    def _keep(self, found: dict[int, bytes]) -> None:
        """Puts ``found`` last in line, and forgets what was used longest ago."""
        for number, page in found.items():
            self._pages.pop(number, None)
            self._pages[number] = page
        while len(self._pages) > MAX_PAGES:
            del self._pages[next(iter(self._pages))]


def cached(volume: Volume) -> Volume:
    """``volume`` with a cache in front; itself when it or what it is made of has one."""
    return volume if volume.is_cached else CachedVolume(volume)

"""Registry hives of Windows, read page by page: keys and values by name.

What a log beside the hive holds is not replayed: a dirty hive is read as it is, and says so.

Source: "Windows registry file format specification", github.com/msuhanov/regf. All numbers are little-endian;
places count from the first bin, 4 KiB into the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from .record import check_range, cut, unpack
from .volume import GuestUnreadable, Volume

PAGE_BYTES = 4096
CACHED_PAGES = 1024

# magic, two sequence numbers, …, major version, …, root key
HEADER = struct.Struct("<4sII8xI12xI")
MAGIC = b"regf"
MAJOR_VERSION = 1
BINS_OFFSET = 4096
CELL_SIZE = struct.Struct("<i")  # negative when in use
# signature, flags, …, number of subkeys, …, their list, …, number of values, their list, …, name length
KEY = struct.Struct("<2sH16xI4xI4xII28xH")
KEY_NAME_OFFSET = 76
KEY_NAME_IS_LATIN = 0x20
# signature, name length, data length, data (or its place), type, flags
VALUE = struct.Struct("<2sHIIIH")
VALUE_NAME_OFFSET = 20
VALUE_NAME_IS_LATIN = 1
VALUE_DATA_OFFSET = 8
DATA_IS_INLINE = 1 << 31
LIST = struct.Struct("<2sH")  # signature, count
HASHED_LISTS = (b"lf", b"lh")  # place and hash of each key
PLAIN_LIST = b"li"
LIST_OF_LISTS = b"ri"
BIG_DATA = struct.Struct("<2sHI")  # signature, count, list of the places of the segments
BIG_DATA_SIGNATURE = b"db"
BIG_DATA_SEGMENT_BYTES = 16_344
PLACE = struct.Struct("<I")
PLACE_AND_HASH = struct.Struct("<II")

MAX_HIVE_BYTES = 1 << 31  # as in Windows
MAX_CELL_BYTES = 2 << 20
MAX_SUBKEYS = 65_536
MAX_VALUES = 16_384
MAX_VALUE_BYTES = 1 << 20
# All values of one key together.
MAX_VALUES_BYTES = 4 << 20
MAX_LISTS = 2048
MAX_NAME_BYTES = 2048
MAX_PATH_PARTS = 64
# Of all look-ups in one hive; each subkey that is compared counts.
MAX_KEYS_READ = 200_000

# The key that a running Windows shows as CurrentControlSet has a number in the file.
CONTROL_SET = "ControlSet{:03}"
MAX_CONTROL_SET = 999


class ValueType(IntEnum):
    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    DWORD_BIG_ENDIAN = 5
    MULTI_SZ = 7
    QWORD = 11


@dataclass(frozen=True, slots=True)
class RegistryValue:
    """A value as stored. ``type``: mostly a `ValueType`."""

    type: int
    content: bytes

    def text(self) -> str | None:
        """A string, without its final NUL; None for another type."""
        if self.type not in (ValueType.SZ, ValueType.EXPAND_SZ):
            return None
        return self.content.decode("utf-16-le", "replace").partition("\0")[0]

    def texts(self) -> list[str] | None:
        """A list of strings; None for another type."""
        if self.type != ValueType.MULTI_SZ:
            return None
        return [part for part in self.content.decode("utf-16-le", "replace").split("\0") if part]

    def number(self) -> int | None:
        """A whole number, 0 or more; None for another type."""
        if self.type in (ValueType.DWORD, ValueType.QWORD):
            return int.from_bytes(self.content[:8], "little")
        return int.from_bytes(self.content[:4], "big") if self.type == ValueType.DWORD_BIG_ENDIAN else None


@dataclass(frozen=True, slots=True)
class Key:
    """A key of ``hive``; counts and places are as stored."""

    hive: Hive
    name: str
    subkey_count: int
    subkey_list: int
    value_count: int
    value_list: int

    def subkeys(self) -> Iterator[Key]:
        """All keys below this one, in the order of the file. Raises `GuestUnreadable`."""
        for place, _ in self.hive.listed_keys(self):
            yield self.hive.key_at(place)

    def subkey(self, name: str) -> Key | None:
        """The key of a name, whatever its case. Raises `GuestUnreadable`."""
        wanted = name.upper()
        # Windows and Python differ about some upper-case letters.
        hashed = _hash(wanted) if wanted.isascii() else None
        for place, found_hash in self.hive.listed_keys(self):
            if hashed is None or found_hash is None or found_hash == hashed:
                found = self.hive.key_at(place)
                if found.name.upper() == wanted:
                    return found
        return None

    def values(self) -> dict[str, RegistryValue]:
        """All values by their names; the default value's is empty. Raises `GuestUnreadable`."""
        found: dict[str, RegistryValue] = {}
        total = 0
        for name, cell in self.hive.listed_values(self):
            found[name] = self.hive.value_of(cell)
            total = check_range(
                total + len(found[name].content), 0, MAX_VALUES_BYTES, "bytes of the values of a key"
            )
        return found

    def value(self, name: str) -> RegistryValue | None:
        """The value of a name, whatever its case. Raises `GuestUnreadable`."""
        wanted = name.upper()
        for found, cell in self.hive.listed_values(self):
            if found.upper() == wanted:
                return self.hive.value_of(cell)
        return None


class Hive:
    """A hive in ``volume``. ``is_dirty``: changes were being written when it was last saved."""

    def __init__(self, volume: Volume) -> None:
        """Raises `GuestUnreadable`."""
        self._volume = volume
        self._keys_read = 0
        self._page = lru_cache(CACHED_PAGES)(self._read_page)
        check_range(volume.size_bytes, BINS_OFFSET, MAX_HIVE_BYTES, "size of a hive")
        magic, first, second, major, self._root = unpack(HEADER, self._page(0), 0, "hive")
        if magic != MAGIC:
            raise GuestUnreadable("not a registry hive")
        check_range(major, MAJOR_VERSION, MAJOR_VERSION, "major version of a hive")
        self.is_dirty: bool = first != second

    def root(self) -> Key:
        return self.key_at(self._root)

    def key(self, path: str) -> Key | None:
        """The key that ``path`` (parts between backslashes) leads to. Raises `GuestUnreadable`."""
        key: Key | None = self.root()
        parts = [part for part in path.split("\\") if part]
        for part in parts[:MAX_PATH_PARTS]:
            key = key.subkey(part) if key else None
        return key

    def control_set(self) -> Key | None:
        """Of a SYSTEM hive: what a running Windows calls CurrentControlSet. Raises `GuestUnreadable`."""
        select = self.key("Select")
        current = select.value("Current") if select else None
        number = current.number() if current else None
        if number is None or not 0 < number <= MAX_CONTROL_SET:
            return None
        return self.key(CONTROL_SET.format(number))

    def key_at(self, place: int) -> Key:
        """The key in the cell at ``place``. Raises `GuestUnreadable`."""
        self._keys_read = check_range(self._keys_read + 1, 1, MAX_KEYS_READ, "number of keys read")
        cell = self._cell(place, KEY_NAME_OFFSET + MAX_NAME_BYTES)
        signature, flags, keys, key_list, values, value_list, length = unpack(KEY, cell, 0, "key")
        if signature != b"nk":
            raise GuestUnreadable(f"no key at {place}")
        name = _name(cell, KEY_NAME_OFFSET, length, is_latin=bool(flags & KEY_NAME_IS_LATIN))
        return Key(self, name, keys, key_list, values, value_list)

    def listed_keys(self, key: Key) -> Iterator[tuple[int, int | None]]:
        """Place of each subkey, and its name's hash where the list has one. Raises `GuestUnreadable`."""
        check_range(key.subkey_count, 0, MAX_SUBKEYS, "number of subkeys")
        if not key.subkey_count:
            return
        left = key.subkey_count
        for place in self._lists(key.subkey_list):
            signature, count = self._list_head(place)
            left = check_range(left - count, 0, MAX_SUBKEYS, "subkeys that are left")
            if signature == PLAIN_LIST:
                yield from ((at, None) for (at,) in PLACE.iter_unpack(self._list(place, count, PLACE)))
            elif signature in HASHED_LISTS:
                for at, hashed in PLACE_AND_HASH.iter_unpack(self._list(place, count, PLACE_AND_HASH)):
                    yield at, hashed if signature == HASHED_LISTS[1] else None
            else:
                raise GuestUnreadable(f"no list of keys at {place}")

    def listed_values(self, key: Key) -> Iterator[tuple[str, bytes]]:
        """Name and cell of each value. Raises `GuestUnreadable`."""
        count = check_range(key.value_count, 0, MAX_VALUES, "number of values")
        if not count:
            return
        length = count * PLACE.size
        places = cut(self._cell(key.value_list, length), 0, length, "list of values")
        for (place,) in PLACE.iter_unpack(places):
            cell = self._cell(place, VALUE_NAME_OFFSET + MAX_NAME_BYTES)
            signature, length, _, _, _, flags = unpack(VALUE, cell, 0, "value")
            if signature != b"vk":
                raise GuestUnreadable(f"no value at {place}")
            is_latin = bool(flags & VALUE_NAME_IS_LATIN)
            yield _name(cell, VALUE_NAME_OFFSET, length, is_latin=is_latin), cell

    def value_of(self, cell: bytes) -> RegistryValue:
        """The value that a cell describes. Raises `GuestUnreadable`."""
        _, _, length, place, kind, _ = unpack(VALUE, cell, 0, "value")
        if length & DATA_IS_INLINE:
            length = check_range(length ^ DATA_IS_INLINE, 0, 4, "length of a value in its own cell")
            return RegistryValue(kind, cut(cell, VALUE_DATA_OFFSET, length, "value"))
        check_range(length, 0, MAX_VALUE_BYTES, "length of a value")
        if not length:
            return RegistryValue(kind, b"")
        content = self._cell(place, length)
        if length > BIG_DATA_SEGMENT_BYTES and content[:2] == BIG_DATA_SIGNATURE:
            return RegistryValue(kind, self._big_data(content, length))
        return RegistryValue(kind, cut(content, 0, length, "value"))

    def _big_data(self, cell: bytes, length: int) -> bytes:
        _, count, place = unpack(BIG_DATA, cell, 0, "big value")
        check_range(count, 2, MAX_VALUE_BYTES // BIG_DATA_SEGMENT_BYTES + 1, "number of segments of a value")
        size = count * PLACE.size
        places = cut(self._cell(place, size), 0, size, "list of segments")
        segments = [self._cell(at, BIG_DATA_SEGMENT_BYTES) for (at,) in PLACE.iter_unpack(places)]
        return cut(b"".join(segments), 0, length, "big value")

    def _lists(self, place: int) -> Iterator[int]:
        """The lists of a key: one, or those in a list of lists, which are not lists of lists again."""
        signature, count = self._list_head(place)
        if signature != LIST_OF_LISTS:
            yield place
            return
        check_range(count, 1, MAX_LISTS, "number of lists of keys")
        yield from (at for (at,) in PLACE.iter_unpack(self._list(place, count, PLACE)))

    def _list_head(self, place: int) -> tuple[bytes, int]:
        """Signature and count."""
        signature, count = unpack(LIST, self._cell(place, LIST.size), 0, "list of keys")
        return signature, count

    def _list(self, place: int, count: int, entry: struct.Struct) -> bytes:
        length = count * entry.size
        return cut(self._cell(place, LIST.size + length), LIST.size, length, "list of keys")

    def _cell(self, place: int, most_bytes: int) -> bytes:
        """The first bytes of a cell that is in use."""
        start = BINS_OFFSET + place
        size = -CELL_SIZE.unpack(self._bytes(start, CELL_SIZE.size))[0]
        check_range(size, CELL_SIZE.size, MAX_CELL_BYTES, f"size of the cell at {place}")
        return self._bytes(start + CELL_SIZE.size, min(size - CELL_SIZE.size, most_bytes))

    def _bytes(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        if offset + length > self._volume.size_bytes:
            raise GuestUnreadable(f"a cell at {offset} is outside a hive of {self._volume.size_bytes} bytes")
        first, skipped = divmod(offset, PAGE_BYTES)
        last = (offset + length - 1) // PAGE_BYTES
        if last - first > 2:  # would only push out what is asked for again
            return self._volume.read(offset, length)
        content = b"".join(self._page(number) for number in range(first, last + 1))
        return content[skipped : skipped + length]

    def _read_page(self, number: int) -> bytes:
        start = number * PAGE_BYTES
        return self._volume.read(start, min(PAGE_BYTES, self._volume.size_bytes - start))


def _name(cell: bytes, offset: int, length: int, *, is_latin: bool) -> str:
    check_range(length, 0, MAX_NAME_BYTES, "length of a name")
    return cut(cell, offset, length, "name").decode("latin-1" if is_latin else "utf-16-le", "replace")


def _hash(upper_name: str) -> int:
    """What Windows keeps of the upper-case name of a key beside its place."""
    value = 0
    for character in upper_name:
        value = (value * 37 + ord(character)) & 0xFFFF_FFFF
    return value

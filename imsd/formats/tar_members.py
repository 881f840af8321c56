"""The members of a tar archive: their names and where their bytes lie. No byte of a member is read.

Only regular files are accepted; folders before the first of them are passed over. A name is text to compare
and to show, never a path.

References: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Interchange Format"; GNU tar, "Basic Tar
Format" (base-256 numbers, long names).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imsd.contract import ByteRange, ImageRefused

from .refusals import Refusals
from .source import ByteSource

BLOCK_BYTES = 512
# An OVA has a handful.
MAX_MEMBERS = 4096
# Longer names are cut.
MAX_NAME_CHARACTERS = 255
# What comes before a member and is about it: a pax header, a long name.
MAX_EXTENSIONS = 4
MAX_EXTENSION_BYTES = 64 << 10
MAX_SIZE_BYTES = 1 << 62

MAGIC, MAGIC_OFFSET = b"ustar", 257
REGULAR_TYPES, FOLDER_TYPE = (b"0", b"\0", b"7"), b"5"
PAX_TYPE, GLOBAL_PAX_TYPE, LONG_NAME_TYPE = b"x", b"g", b"L"
_EXTENSION_TYPES = (PAX_TYPE, GLOBAL_PAX_TYPE, LONG_NAME_TYPE)
_CHECKSUM = slice(148, 156)

_REFUSALS = Refusals(
    "tar",
    repair="pack it again, for example with `tar --format=ustar`, the descriptor first",
    convert="pack nothing but whole files, for example with `tar --format=ustar`, the descriptor first",
)


@dataclass(frozen=True, slots=True)
class TarMember:
    """``size_bytes`` of a file from ``offset`` of the archive; ``name`` as of `plain_name`."""

    name: str
    offset: int
    size_bytes: int
    is_folder: bool = False

    @property
    def end(self) -> int:
        """Where the next header is."""
        return self.offset + _padded(self.size_bytes)


@dataclass(slots=True)
class _Extensions:
    """What the headers before a member say of it."""

    name: str | None = None
    size_bytes: int | None = None


# Some bytes of an archive.
_Read = Callable[[int, int], bytes]


def is_tar(head: bytes) -> bool:
    """Whether a file that starts with ``head``, a block or more, is an archive."""
    block = head[:BLOCK_BYTES]
    return (
        len(block) == BLOCK_BYTES
        and block.startswith(MAGIC, MAGIC_OFFSET)
        and _octal(block[_CHECKSUM]) == _checksum(block)
    )


def plain_name(name: str) -> str:
    """``name`` without the ``./`` that `tar` puts before what it was given so."""
    return name.removeprefix("./")


def first_name(head: bytes) -> str | None:
    """The name of the first file of an archive that starts with ``head``; None if that does not tell."""
    if not is_tar(head):
        return None
    position = 0
    try:
        while member := _member(lambda offset, length: head[offset : offset + length], position, len(head)):
            if not member.is_folder:
                return member.name
            position = member.end
    except ImageRefused:
        return None
    return None


class TarWalk:
    """Goes from member to member. A step that needs bytes which are not at hand may be repeated."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0
        self._names: set[str] = set()
        self._has_file = False

    def next(self) -> TarMember | None:
        """The next file; None at the end.

        Raises ImageRefused (IMAGE_MALFORMED, IMAGE_TRUNCATED, IMAGE_UNKNOWN_FEATURE), `NeedBytes`.
        """
        while member := _member(self._read, self._position, self._source.size_bytes):
            self._check(member)
            self._names.add(member.name)
            self._position = member.end
            if not member.is_folder:
                self._has_file = True
                return member
        return None

    def _check(self, member: TarMember) -> None:
        if member.is_folder and self._has_file:
            raise _REFUSALS.unknown_feature(f"its member {member.name!r}, behind a file, is a folder")
        if member.offset + member.size_bytes > self._source.size_bytes:
            raise _REFUSALS.truncated(f"its member {member.name!r} ends beyond the end of the file")
        if member.name in self._names:
            raise _REFUSALS.malformed(f"two of its members are named {member.name!r}")
        if len(self._names) >= MAX_MEMBERS:
            raise _REFUSALS.malformed(f"it has more than {MAX_MEMBERS} members")

    def _read(self, offset: int, length: int) -> bytes:
        self._source.require([ByteRange(offset, length)])
        return bytes(self._source.read(offset, length))


def _member(read: _Read, position: int, end: int) -> TarMember | None:
    """The file or folder whose headers begin at ``position``; None at the end of the archive."""
    extensions = _Extensions()
    for _ in range(MAX_EXTENSIONS + 1):
        if position + BLOCK_BYTES > end:
            _require_nothing(extensions)
            return None
        block = read(position, BLOCK_BYTES)
        if not any(block):
            _require_nothing(extensions)
            return None
        if not is_tar(block):
            raise _REFUSALS.malformed(f"there is no header at byte {position}")
        kind, size = block[156:157], _number(block[124:136])
        if kind not in _EXTENSION_TYPES:
            return _file_or_folder(block, position, extensions)
        if size > MAX_EXTENSION_BYTES:
            raise _REFUSALS.malformed(f"the header at byte {position} has {size} bytes of attributes")
        if position + BLOCK_BYTES + size > end:
            raise _REFUSALS.truncated(f"the attributes at byte {position} end beyond the end of the file")
        _extend(extensions, kind, read(position + BLOCK_BYTES, size) if size else b"")
        position += BLOCK_BYTES + _padded(size)
    raise _REFUSALS.malformed(f"more than {MAX_EXTENSIONS} headers of attributes follow one another")


def _require_nothing(extensions: _Extensions) -> None:
    if extensions.name is not None or extensions.size_bytes is not None:
        raise _REFUSALS.truncated("the member that the last attributes are of is not there")


def _file_or_folder(block: bytes, position: int, extensions: _Extensions) -> TarMember:
    kind = block[156:157]
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    name = extensions.name or "/".join(filter(None, (prefix, _text(block[:100]))))
    name = plain_name(name)[:MAX_NAME_CHARACTERS]
    size = _number(block[124:136]) if extensions.size_bytes is None else extensions.size_bytes
    is_folder = kind == FOLDER_TYPE and not size
    if kind not in REGULAR_TYPES and not is_folder:
        raise _REFUSALS.unknown_feature(f"its member {name!r} is not a regular file")
    return TarMember(name, position + BLOCK_BYTES, size, is_folder)


def _extend(extensions: _Extensions, kind: bytes, content: bytes) -> None:
    if kind == LONG_NAME_TYPE:
        extensions.name = _text(content)
        return
    for key, value in _pax_records(content):
        if key.startswith(b"GNU.sparse"):
            raise _REFUSALS.unknown_feature("it holds files with holes")
        if key not in (b"path", b"size"):
            continue
        if kind == GLOBAL_PAX_TYPE:
            raise _REFUSALS.unknown_feature("one name or size for all members")
        if key == b"path":
            extensions.name = _text(value)
        else:
            extensions.size_bytes = _decimal(value)


def _pax_records(content: bytes) -> list[tuple[bytes, bytes]]:
    """Records ``LENGTH KEY=VALUE`` and a line feed, one after the other."""
    records, position = [], 0
    while position < len(content) and content[position]:
        space = content.find(b" ", position, position + 10)
        length = _decimal(content[position:space]) if space > position else 0
        record = content[space + 1 : position + length]
        if (
            not space - position < length <= len(content) - position
            or not record.endswith(b"\n")
            or b"=" not in record
        ):
            raise _REFUSALS.malformed("its attributes are not records of pax")
        key, _, value = record[:-1].partition(b"=")
        records.append((key, value))
        position += length
    return records


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > MAX_SIZE_BYTES:
        raise _REFUSALS.malformed("a number of its attributes is none")
    return int(text)


def _number(field: bytes) -> int:
    """An octal number, or one in base 256 behind a byte 0x80."""
    value = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
    if value is None or value > MAX_SIZE_BYTES:
        raise _REFUSALS.malformed("the size of a member is no number, or too large")
    return value


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    if not all(digit in b"01234567" for digit in digits):
        return None
    return int(digits or b"0", 8)


def _checksum(block: bytes) -> int:
    return sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")

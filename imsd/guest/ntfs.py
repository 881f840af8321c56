"""NTFS, read-only: directories, files (also compressed), links, and whether Windows left it in order.

What is not read: files under EFS, and files that a filter of Windows keeps elsewhere or in a form of its own
(deduplicated, "compact OS", in the cloud); these are of kind OTHER. Source: as in ntfs_layout.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Self

from . import ntfs_layout as layout
from .file_system import MAX_FILE_BYTES, FileSystem, Kind, Node, check_link_length
from .ntfs_index import Entry, Index, fold_with
from .ntfs_layout import Geometry
from .ntfs_records import Mft
from .record import check_range, cut, unpack
from .volume import GuestUnreadable, Volume

HIBERNATION_FILE = "hiberfil.sys"
HIBERNATED = (b"hibr", b"HIBR", b"RSTR")
LINK_TAGS = (layout.TAG_SYMLINK, layout.TAG_MOUNT_POINT, layout.TAG_WSL_LINK)
CACHED_DIRECTORIES = 32
# In the substitute name of a link: "this is a path of the object manager".
OBJECT_PREFIX = "\\??\\"


class NtfsFileSystem(FileSystem):
    """An NTFS volume. Sizes in `entries` are those of the directory, which may lag behind the file's own."""

    name = "ntfs"
    is_case_sensitive = False

    def __init__(self, volume: Volume, geometry: Geometry) -> None:
        """Raises `GuestUnreadable`."""
        self._geometry = geometry
        self._mft = Mft(volume, geometry)
        self._index = lru_cache(CACHED_DIRECTORIES)(self._open_index)
        self._upcase: bytes = b""
        self._fold = fold_with(self._upcase_table)
        self.uuid = f"{geometry.serial:016X}"
        self.label, is_dirty = self._state()
        notices = []
        if is_dirty:
            notices.append("the NTFS volume was not cleanly unmounted")
        if self._is_hibernated():
            notices.append("Windows was hibernated")
        self.noticed = tuple(notices)

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        """As `FileSystem.open`; a volume under BitLocker raises `GuestUnreadable`."""
        geometry = Geometry.read(volume)
        return None if geometry is None else cls(volume, geometry)

    def root(self) -> Node:
        return Node(layout.ROOT_RECORD, Kind.DIRECTORY, 0)

    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        for entry in self._index(directory.number).walk():
            if entry.record >= layout.FIRST_USER_RECORD and entry.name_space != layout.NAME_SPACE_DOS:
                yield entry.name.decode("utf-16-le", "replace"), _listed_node(entry)

    def lookup(self, directory: Node, name: str) -> Node | None:
        wanted = name.encode("utf-16-le", "surrogatepass")
        entry = self._index(directory.number).find(wanted) if wanted else None
        if entry is None or entry.record < layout.FIRST_USER_RECORD:
            return None
        return self._node(entry.record)

    def read(self, node: Node, offset: int, length: int) -> bytes:
        check_range(length, 0, MAX_FILE_BYTES, "bytes to read at once")
        content = self._mft.stream(node.number, layout.DATA)
        if content is None or node.kind is not Kind.FILE:
            raise GuestUnreadable(f"record {node.number} has no content that can be read")
        return (
            content.read(offset, min(length, content.size_bytes - offset))
            if offset < content.size_bytes
            else b""
        )

    def link_target(self, node: Node) -> str:
        """The target with slashes, without the drive: a junction to another volume leads astray."""
        tag, content = self._reparse(node.number)
        if tag not in LINK_TAGS:
            raise GuestUnreadable(f"record {node.number} is no link")
        if tag == layout.TAG_WSL_LINK:
            check_link_length(len(content))
            return content[4:].decode("utf-8", "surrogateescape")  # behind a version
        offset, length = unpack(layout.REPARSE_NAMES, content, 0, "link")
        flags_bytes = 4 if tag == layout.TAG_SYMLINK else 0
        start = layout.REPARSE_NAMES.size + flags_bytes + offset
        target = cut(content, start, check_link_length(length), "link").decode("utf-16-le", "replace")
        target = target.removeprefix(OBJECT_PREFIX)
        if target[1:2] == ":":
            target = target[2:]
        return target.replace("\\", "/")

    def _node(self, number: int) -> Node:
        record = self._mft.record(number)
        kind, size = Kind.FILE, 0
        if record.flags & layout.RECORD_DIRECTORY:
            kind = Kind.DIRECTORY
        tag, _ = self._reparse(number)
        if tag:
            kind = Kind.LINK if tag in LINK_TAGS else Kind.OTHER
        if kind is Kind.FILE and (content := self._mft.stream(number, layout.DATA)) is not None:
            size = content.size_bytes
        return Node(number, kind, size)

    def _reparse(self, number: int) -> tuple[int, bytes]:
        """Tag and content of a reparse point; 0 when the file is none."""
        point = self._mft.stream(number, layout.REPARSE_POINT)
        if point is None:
            return 0, b""
        content = point.read(0, check_range(point.size_bytes, 0, layout.MAX_REPARSE_BYTES, "size of a link"))
        tag, length, _ = unpack(layout.REPARSE, content, 0, "reparse point")
        return tag, cut(content, layout.REPARSE.size, length, "reparse point")

    def _open_index(self, number: int) -> Index:
        root = self._mft.stream(number, layout.INDEX_ROOT, layout.DIRECTORY_INDEX)
        if root is None:
            raise GuestUnreadable(f"record {number} is no directory")
        check_range(root.size_bytes, 0, self._geometry.record_bytes, "size of an index root")
        blocks = self._mft.stream(number, layout.INDEX_ALLOCATION, layout.DIRECTORY_INDEX)
        content = root.read(0, root.size_bytes)
        return Index(content, blocks, self._geometry.cluster_bytes, self._fold)

    def _upcase_table(self) -> bytes:
        if not self._upcase:
            table = self._mft.stream(layout.UPCASE_RECORD, layout.DATA)
            if table is None:
                raise GuestUnreadable("no table of upper-case characters")
            self._upcase = table.read(0, layout.UPCASE_BYTES)
        return self._upcase

    def _state(self) -> tuple[str, bool]:
        """The label, and whether the volume is marked dirty."""
        record = self._mft.record(layout.VOLUME_RECORD)
        label, state = record.find(layout.VOLUME_NAME), record.find(layout.VOLUME_STATE)
        text = (label.value or b"").decode("utf-16-le", "replace") if label else ""
        if state is None or state.value is None:
            return text, False
        flags = unpack(layout.VOLUME_STATE_FIELDS, state.value, 0, "state of the volume")[2]
        return text, bool(flags & layout.VOLUME_DIRTY)

    def _is_hibernated(self) -> bool:
        try:
            node = self.lookup(self.root(), HIBERNATION_FILE)
            return node is not None and node.size_bytes > 0 and self.read(node, 0, 4) in HIBERNATED
        except GuestUnreadable:
            return False  # whoever reads the root for another reason is told


def _listed_node(entry: Entry) -> Node:
    """What a directory says of a file."""
    if entry.attributes & layout.FILE_REPARSE_POINT:
        kind = Kind.LINK if entry.reparse_tag in LINK_TAGS else Kind.OTHER
    elif entry.attributes & layout.FILE_DIRECTORY:
        kind = Kind.DIRECTORY
    else:
        kind = Kind.FILE
    return Node(entry.record, kind, entry.size_bytes if kind is Kind.FILE else 0)

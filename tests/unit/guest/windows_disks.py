"""Disks as Windows leaves them: NTFS written by libntfs-3g, hives by hivex, the headers of programs.

Nothing is mounted: the library writes into a file. Needs the Debian packages ntfs-3g, libwin-hivex-perl.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.unit.guest.debian_tools import run_tool

MIB = 1 << 20

DATA = 0x80
REPARSE_POINT = 0x400
ROOT_RECORD = 5
TAG_SYMLINK = 0xA000000C
TAG_MOUNT_POINT = 0xA0000003
VOLUME_DIRTY = 1

SYSTEM32 = "Windows/System32"
SOFTWARE_REG = r"""
[\Microsoft\Windows NT\CurrentVersion]
"ProductName"="Windows Server 2022 Standard"
"EditionID"="ServerStandard"
"InstallationType"="Server"
"CurrentBuildNumber"="20348"
"CurrentBuild"="20348"
"DisplayVersion"="21H2"
"CurrentMajorVersionNumber"=dword:0000000a
"CurrentMinorVersionNumber"=dword:00000000
"SystemRoot"=hex(2):43,00,3a,00,5c,00,57,00,69,00,6e,00,00,00

[\Microsoft\Windows\CurrentVersion\Run]
"""
SYSTEM_REG = r"""
[\Select]
"Current"=dword:00000001
"Default"=dword:00000001

[\ControlSet001\Control\ComputerName\ComputerName]
"ComputerName"="WIN-IMSD"

[\ControlSet001\Services\vioscsi]
"Start"=dword:00000000
"ImagePath"="System32\\drivers\\vioscsi.sys"
"DependOnService"=hex(7):61,00,00,00,62,00,63,00,00,00,00,00
"""


@cache
def _library() -> ctypes.CDLL:
    """libntfs-3g: what the tools of ntfs-3g are made of."""
    found = ctypes.util.find_library("ntfs-3g")
    assert found is not None, "libntfs-3g is missing: see .ci/install_packages.sh"
    library = ctypes.CDLL(found, use_errno=True)
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    for name, result, arguments in (
        ("ntfs_mount", pointer, (text, ctypes.c_ulong)),
        ("ntfs_umount", ctypes.c_int, (pointer, ctypes.c_int)),
        ("ntfs_inode_open", pointer, (pointer, ctypes.c_uint64)),
        ("ntfs_inode_close", ctypes.c_int, (pointer,)),
        ("ntfs_create", pointer, (pointer, ctypes.c_uint32, text, ctypes.c_uint8, ctypes.c_uint32)),
        ("ntfs_attr_open", pointer, (pointer, ctypes.c_uint32, pointer, ctypes.c_uint32)),
        ("ntfs_attr_pwrite", ctypes.c_int64, (pointer, ctypes.c_int64, ctypes.c_int64, text)),
        ("ntfs_attr_pclose", ctypes.c_int, (pointer,)),
        ("ntfs_attr_truncate", ctypes.c_int, (pointer, ctypes.c_int64)),
        ("ntfs_attr_close", None, (pointer,)),
        ("ntfs_set_ntfs_reparse_data", ctypes.c_int, (pointer, text, size, ctypes.c_int)),
        ("ntfs_set_ntfs_attrib", ctypes.c_int, (pointer, text, size, ctypes.c_int)),
        ("ntfs_volume_write_flags", ctypes.c_int, (pointer, ctypes.c_uint16)),
        ("ntfs_set_ntfs_dos_name", ctypes.c_int, (pointer, pointer, text, size, ctypes.c_int)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class NtfsWriter:
    """Puts files into an NTFS volume. Paths with slashes; missing directories are made."""

    def __init__(self, path: Path) -> None:
        self._library = _library()
        self._volume = self._library.ntfs_mount(str(path).encode(), 0)
        assert self._volume, f"libntfs-3g does not take {path}: errno {ctypes.get_errno()}"
        self._records = {"": ROOT_RECORD}

    def close(self) -> None:
        assert self._library.ntfs_umount(self._volume, 0) == 0

    def directory(self, path: str) -> int:
        """The record of a directory."""
        if path not in self._records:
            self._records[path] = self._create(path, stat.S_IFDIR)
        return self._records[path]

    def file(self, path: str, content: bytes = b"") -> int:
        """The record of a new file."""
        record = self._create(path, stat.S_IFREG)
        self.write(record, 0, content)
        return record

    def write(self, record: int, offset: int, content: bytes) -> None:
        """Bytes into a file; what is jumped over is a hole."""
        with self._content(record) as stream:
            written = self._library.ntfs_attr_pwrite(stream, offset, len(content), content)
            assert written == len(content), f"errno {ctypes.get_errno()}"
            self._library.ntfs_attr_pclose(stream)

    def truncate(self, record: int, size: int) -> None:
        with self._content(record) as stream:
            assert self._library.ntfs_attr_truncate(stream, size) == 0

    def link(self, path: str, target: str, *, is_junction: bool = False, is_relative: bool = False) -> None:
        """A symbolic link, or a junction."""
        record = self.directory(path) if is_junction else self.file(path)
        name = target.encode("utf-16-le")
        flags = b"" if is_junction else struct.pack("<I", is_relative)
        body = struct.pack("<HHHH", 0, len(name), len(name), 0) + flags + name
        tag = TAG_MOUNT_POINT if is_junction else TAG_SYMLINK
        self.reparse(record, tag, body)

    def reparse(self, record: int, tag: int, body: bytes) -> None:
        content = struct.pack("<IHH", tag, len(body), 0) + body
        with self._inode(record) as inode:
            done = self._library.ntfs_set_ntfs_reparse_data(inode, content, len(content), 0)
            assert done == 0, f"errno {ctypes.get_errno()}"

    def set_attributes(self, record: int, attributes: int) -> None:
        with self._inode(record) as inode:
            content = struct.pack("<I", attributes)
            assert self._library.ntfs_set_ntfs_attrib(inode, content, len(content), 0) == 0

    def mark_dirty(self) -> None:
        assert self._library.ntfs_volume_write_flags(self._volume, VOLUME_DIRTY) == 0

    def set_dos_name(self, path: str, record: int, name: str) -> None:
        """A short name beside the long one."""
        inode = self._library.ntfs_inode_open(self._volume, record)
        parent = self._library.ntfs_inode_open(self._volume, self.directory(path.rpartition("/")[0]))
        content = name.encode()
        # Closes both.
        done = self._library.ntfs_set_ntfs_dos_name(inode, parent, content, len(content), 0)
        assert done == 0, f"errno {ctypes.get_errno()}"

    def _create(self, path: str, kind: int) -> int:
        parent, _, name = path.rpartition("/")
        units = name.encode("utf-16-le")
        with self._inode(self.directory(parent)) as directory:
            inode = self._library.ntfs_create(directory, 0, units, len(units) // 2, kind)
            assert inode, f"{path}: errno {ctypes.get_errno()}"
            record = int(ctypes.cast(inode, ctypes.POINTER(ctypes.c_uint64))[0])
            assert self._library.ntfs_inode_close(inode) == 0
        return record

    @contextmanager
    def _inode(self, record: int) -> Iterator[int]:
        inode = self._library.ntfs_inode_open(self._volume, record)
        assert inode, f"record {record}: errno {ctypes.get_errno()}"
        yield inode
        self._library.ntfs_inode_close(inode)

    @contextmanager
    def _content(self, record: int) -> Iterator[int]:
        with self._inode(record) as inode:
            unnamed = ctypes.addressof(ctypes.c_uint16.in_dll(self._library, "AT_UNNAMED"))
            stream = self._library.ntfs_attr_open(inode, DATA, unnamed, 0)
            assert stream, f"record {record}: errno {ctypes.get_errno()}"
            yield stream
            self._library.ntfs_attr_close(stream)


def make_ntfs(path: Path, *options: str, size: int = 8 * MIB) -> Path:
    """An empty NTFS volume in a file."""
    with path.open("wb") as file:
        file.truncate(size)
    run_tool("mkntfs", "-F", "-q", "-f", *options, path)
    return path


@contextmanager
def ntfs_writer(path: Path) -> Iterator[NtfsWriter]:
    writer = NtfsWriter(path)
    try:
        yield writer
    finally:
        writer.close()


def empty_hive() -> bytes:
    """A hive with a root key and its security, by the letter of the format: what hivex begins with."""
    root = 0x20
    security = root + 0x60
    name = b"ROOT"
    none = 0xFFFFFFFF
    key = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH",
        *(b"nk", 0x2C, 0, 0, none, 0, 0, none, none, 0, none, security, none),
        *(0, 0, 0, 0, 0, len(name), 0),
    )
    descriptor = bytes.fromhex("0100048000000000000000000000000000000000")
    secret = struct.pack("<2sHIIII", b"sk", 0, security, security, 1, len(descriptor)) + descriptor
    cells = struct.pack("<i", -0x60) + (key + name).ljust(0x5C, b"\0")
    cells += struct.pack("<i", -0x40) + secret.ljust(0x3C, b"\0")
    free = 4096 - 0x20 - len(cells)
    hbin = struct.pack("<4sIIQQI", b"hbin", 0, 4096, 0, 0, 0) + cells + struct.pack("<i", free)
    head = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, 1, 3, 0, 1, root, 4096, 1).ljust(508, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", head):
        checksum ^= word
    return (head + struct.pack("<I", checksum)).ljust(4096, b"\0") + hbin.ljust(4096, b"\0")


def make_hive(path: Path, entries: str) -> bytes:
    """A hive with what a .reg text says, made by hivexregedit in ``path``."""
    # The tool makes a key only below one that is there.
    keys = [line.strip("[]").split("\\")[1:] for line in entries.splitlines() if line.startswith("[")]
    parents = {"".join(f"\\{part}" for part in key[:depth]) for key in keys for depth in range(1, len(key))}
    entries = "".join(f"[{parent}]\n\n" for parent in sorted(parents, key=len)) + entries
    path.write_bytes(empty_hive())
    run_tool("hivexregedit", "--merge", path, entries=entries)
    return path.read_bytes()


def program(machine: int = 0x8664) -> bytes:
    """The header of a Windows program."""
    kind = 0x10B if machine in (0x14C, 0x1C4) else 0x20B
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 128)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 0, 0, 0, 0, 240, 0x22)
    return (dos.ljust(128, b"\0") + coff + struct.pack("<H", kind)).ljust(1024, b"\0")


def make_windows_volume(path: Path, *, machine: int = 0x8664, size: int = 16 * MIB) -> Path:
    """The system volume of a Windows Server 2022, as far as inspection looks."""
    make_ntfs(path, "-L", "System", size=size)
    software = make_hive(path.with_suffix(".software"), SOFTWARE_REG)
    system = make_hive(path.with_suffix(".system"), SYSTEM_REG)
    with ntfs_writer(path) as writer:
        writer.file("bootmgr", b"boot code")
        writer.file(f"{SYSTEM32}/config/SOFTWARE", software)
        writer.file(f"{SYSTEM32}/config/SYSTEM", system)
        for name in ("ntoskrnl.exe", "cmd.exe", "winload.exe"):
            writer.file(f"{SYSTEM32}/{name}", program(machine))
        writer.file(f"{SYSTEM32}/drivers/vioscsi.sys", program(machine))
        writer.directory("Users/Public")
        writer.link("Documents and Settings", "\\??\\C:\\Users", is_junction=True)
    return path

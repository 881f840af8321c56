"""Disks with a table of partitions and file systems of given files, made by the systems' own tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.unit.guest.crafted_guest import ROOT_UUID
from tests.unit.guest.guest_disks import make_ext, mbr_entry, mbr_sector, whole
from tests.unit.guest.memory_tree import Content, Link

MIB = 1 << 20
SECTORS = MIB // 512


def folder_of(folder: Path, paths: Mapping[str, Content]) -> Path:
    for path, content in paths.items():
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            place.symlink_to(content.target)
        elif isinstance(content, str | bytes):
            place.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            place.mkdir(exist_ok=True)
    return folder


def ext4(path: Path, paths: Mapping[str, Content], uuid: str = ROOT_UUID, size: str = "8M") -> bytes:
    folder = path.with_suffix(".folder")
    folder.mkdir()
    return whole(make_ext(path, folder_of(folder, paths), "-t", "ext4", "-U", uuid, size=size))


def mbr_disk(*file_systems: bytes, code: bytes = b"boot") -> bytes:
    """Partitions one after another from 1 MiB on, the first one active."""
    entries, first = [], SECTORS
    for number, content in enumerate(file_systems):
        entries.append(mbr_entry(0x83, first, len(content) // 512, 0 if number else 0x80))
        first += len(content) // 512
    return mbr_sector(*entries, code=code).ljust(MIB, b"\0") + b"".join(file_systems)

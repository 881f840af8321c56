"""Partition tables: those that sfdisk writes, both tables of a GPT, chains of logical partitions, damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imsd.guest.partitions import BIOS_BOOT_GUID, ESP_GUID, PartitionTable, read_partitions
from imsd.guest.volume import BytesVolume
from tests.unit.guest.guest_disks import (
    MIB,
    gpt_entry,
    gpt_header,
    make_fat,
    mbr_entry,
    mbr_sector,
    run,
    sound_gpt,
    sparse,
    volume_of,
)

LINUX_GUID = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
ENTRIES = (gpt_entry(LINUX_GUID, 64, 127, "root"), gpt_entry(b"\1" * 16, 128, 159, "größe", 4))


def table_by_sfdisk(path: Path, script: str) -> PartitionTable:
    sparse(path, 64 * MIB)
    script_path = path.with_suffix(".script")
    script_path.write_text(script)
    run("sh", "-c", f"sfdisk -q {path} < {script_path}")
    return read_partitions(volume_of(path))


def codes(table: PartitionTable) -> list[str]:
    return [finding.code for finding in table.findings]


def test_a_gpt_by_sfdisk(tmp_path: Path) -> None:
    script = (
        f"label: gpt\n,1M,{BIOS_BOOT_GUID},\n,20M,{ESP_GUID}\nname=root,type=L,attrs=LegacyBIOSBootable\n"
    )
    table = table_by_sfdisk(tmp_path / "disk", script)
    assert (table.kind, table.has_boot_code, codes(table)) == ("gpt", False, [])
    bios, esp, root = table.partitions
    assert (bios.is_bios_boot, esp.is_esp, esp.type) == (True, True, ESP_GUID)
    assert (esp.start, esp.length, esp.volume.size_bytes) == (2 * MIB, 20 * MIB, 20 * MIB)
    assert (root.number, root.name, root.is_active, root.is_esp) == (3, "root", True, False)


def test_an_mbr_by_sfdisk_with_logical_partitions(tmp_path: Path) -> None:
    script = "label: dos\n,10M,83,*\n,5M,ef\n,,E\n,8M,83\n,4M,82\n,6M,8e\n"
    table = table_by_sfdisk(tmp_path / "disk", script)
    assert (table.kind, codes(table)) == ("mbr", [])
    assert [(p.number, p.type, p.length // MIB) for p in table.partitions] == [
        (1, "0x83", 10),
        (2, "0xef", 5),
        (5, "0x83", 8),
        (6, "0x82", 4),
        (7, "0x8e", 6),
    ]
    assert [p.is_active for p in table.partitions] == [True, False, False, False, False]
    assert table.partitions[2].start == 17 * MIB


@pytest.mark.parametrize(
    "script", ["label: gpt\n,1M\n,1M\n", "label: dos\nlabel-id: 0x6f8a1f2e\n,1M\n,20M,E\n,1M\n"]
)
def test_partitions_have_the_uuids_that_sfdisk_says(tmp_path: Path, script: str) -> None:
    table = table_by_sfdisk(tmp_path / "disk", script)
    last = table.partitions[-1]
    said = json.loads(run("sfdisk", "--json", tmp_path / "disk"))["partitiontable"]
    assert len(table.partitions) == 2
    if table.kind == "gpt":
        assert [p.uuid for p in table.partitions] == [each["uuid"].lower() for each in said["partitions"]]
    else:
        assert (said["id"], last.number, last.uuid) == ("0x6f8a1f2e", 3, "6f8a1f2e-03")


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_gpt_is_found_whatever_its_sectors(sector: int) -> None:
    table = read_partitions(BytesVolume(bytes(sound_gpt(sector=sector, entries=ENTRIES))))
    root, other = table.partitions
    assert (root.start, root.length, root.name) == (64 * sector, 64 * sector, "root")
    assert root.type == "0fc63daf-8483-4772-8e79-3d69d8477de4"
    assert (other.name, other.is_active) == ("größe", True)


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("place", [0, 12, 40, 80, 1024])
def test_the_copy_is_used_when_the_first_table_is_damaged(sector: int, place: int) -> None:
    disk = sound_gpt(sector=sector, entries=ENTRIES)
    disk[sector + place if place < 1024 else 2 * sector + 40] ^= 0xFF
    table = read_partitions(BytesVolume(bytes(disk)))
    assert codes(table) == ["GPT_BACKUP_USED"]
    assert [p.name for p in table.partitions] == ["root", "größe"]


def test_two_damaged_tables_are_said_to_be_so() -> None:
    disk = sound_gpt(entries=ENTRIES)
    disk[512 + 40] ^= 1
    disk[len(disk) - 512 + 40] ^= 1
    table = read_partitions(BytesVolume(bytes(disk)))
    assert (table.kind, table.partitions, codes(table)) == ("gpt", (), ["GPT_DAMAGED"])


@pytest.mark.parametrize(
    ("count", "width"), [(0, 128), (1025, 128), (128, 64), (128, 8192), (1024, 2048), (0xFFFFFFFF, 128)]
)
def test_a_header_beyond_the_limits_is_not_believed(count: int, width: int) -> None:
    disk = sound_gpt(entries=ENTRIES)
    disk[512:604] = gpt_header((1, 2047, 2), 0, count, width)
    disk[-512:] = bytes(512)
    assert codes(read_partitions(BytesVolume(bytes(disk)))) == ["GPT_DAMAGED"]


def test_more_partitions_than_the_limit_are_left_out() -> None:
    entries = [gpt_entry(LINUX_GUID, 64 + n, 64 + n) for n in range(100)]
    table = read_partitions(BytesVolume(bytes(sound_gpt(entries=entries))))
    assert (len(table.partitions), codes(table)) == (64, ["PARTITIONS_IGNORED"])


def test_a_hybrid_mbr_marks_the_active_partition() -> None:
    disk = sound_gpt(entries=ENTRIES)
    disk[462:478] = mbr_entry(0x83, 64, 64, 0x80)
    table = read_partitions(BytesVolume(bytes(disk)))
    assert (table.kind, codes(table)) == ("gpt", ["HYBRID_MBR"])
    assert [p.is_active for p in table.partitions] == [True, True]


def test_a_gpt_counts_without_any_mbr_but_not_beside_a_plain_one() -> None:
    disk = sound_gpt(entries=ENTRIES)
    disk[:512] = bytes(512)
    assert read_partitions(BytesVolume(bytes(disk))).kind == "gpt"
    disk[:512] = mbr_sector(mbr_entry(0x83, 200, 100), code=b"code")
    table = read_partitions(BytesVolume(bytes(disk)))
    assert (table.kind, table.has_boot_code, codes(table)) == ("mbr", True, ["GPT_IGNORED"])


def test_partitions_beyond_the_end_are_cut() -> None:
    sector = mbr_sector(mbr_entry(0x83, 10, 100), mbr_entry(0x83, 0xFFFFFF00, 0xFFFFFFFF))
    table = read_partitions(BytesVolume(sector + bytes(63 * 512)))
    assert [p.volume.size_bytes for p in table.partitions] == [54 * 512, 0]
    assert codes(table) == ["PARTITION_BEYOND_END"]


@pytest.mark.parametrize(("target", "found"), [(0, []), (4, ["PARTITION_CHAIN_BROKEN"])])
def test_a_chain_that_comes_back_ends(target: int, found: list[str]) -> None:
    extended = mbr_sector(mbr_entry(0x83, 1, 1), mbr_entry(0x05, target, 4))
    disk = bytearray(64 * 512)
    disk[:512] = mbr_sector(mbr_entry(0x0F, 8, 56))
    disk[8 * 512 : 9 * 512] = extended
    disk[12 * 512 : 13 * 512] = extended
    table = read_partitions(BytesVolume(bytes(disk)))
    assert [p.number for p in table.partitions] == [5, 6][: 1 + len(found)]
    assert codes(table) == found


def test_a_chain_longer_than_the_limit_is_cut() -> None:
    disk = bytearray(512 * 512)
    disk[:512] = mbr_sector(mbr_entry(0x05, 8, 500))
    for step in range(100):
        link = mbr_sector(mbr_entry(0x83, 1, 1), mbr_entry(0x05, 2 * step + 2, 2))
        disk[(8 + 2 * step) * 512 : (9 + 2 * step) * 512] = link
    table = read_partitions(BytesVolume(bytes(disk)))
    assert (len(table.partitions), codes(table)) == (60, ["PARTITION_CHAIN_BROKEN"])


@pytest.mark.parametrize("size", [0, 100, 511, 512, 4096])
def test_nothing_is_no_table(size: int) -> None:
    table = read_partitions(BytesVolume(bytes(size)))
    assert (table.kind, table.partitions, table.has_boot_code) == ("none", (), False)


@pytest.mark.parametrize("width", ["12", "16", "32"])
def test_the_boot_sector_of_a_file_system_is_no_table(tmp_path: Path, width: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    disk = make_fat(tmp_path / "disk", folder, "-F", width, size_bytes=40 * MIB if width != "12" else MIB)
    assert read_partitions(disk).kind == "none"

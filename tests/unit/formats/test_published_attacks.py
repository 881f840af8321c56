"""Attacks on image services and on QEMU that were published, one test for each; SECURITY.md has the table."""

from __future__ import annotations

import re
import struct
from dataclasses import replace

import pytest

from imsd.formats.detect import detect, open_image
from imsd.formats.source import MemorySource
from tests.contract.source_tree import modules
from tests.unit.formats import (
    crafted_qcow,
    crafted_qcow2,
    crafted_vdi,
    crafted_vhd,
    crafted_vhdx,
    crafted_vmdk,
)
from tests.unit.formats.disk_files import LIMIT, MIB, noise, read_all, text
from tests.unit.formats.refusal_checks import open_reason, read_reason
from tests.unit.formats.test_hostile_files import content
from tests.unit.formats.vmdk_refusal import decode_reason

HOST_FILE = b"/etc/shadow"
QCOW2 = crafted_qcow2.Fields()
CLUSTER = 1 << 16
STARTS_A_PROGRAM = re.compile(r"subprocess|multiprocessing|\bos\.(exec|spawn|posix_spawn|system|popen)")


def qcow2_naming(name: bytes, version: int = 3) -> bytes:
    """A sound QCOW2 that says it has a backing file, with its name behind the header and no extensions."""
    file = crafted_qcow2.crafted([0] * 4, bytes(CLUSTER))
    place = 80 if version == 2 else 120
    fields = replace(QCOW2, version=version, backing_offset=place, backing_bytes=len(name))
    return crafted_qcow2.with_fields(file, fields, extensions=bytes(8) + name)


def qcow2_with(extension: bytes = b"", **changes: int | bytes) -> bytes:
    file = crafted_qcow2.crafted([0] * 4, bytes(CLUSTER))
    return crafted_qcow2.with_fields(file, QCOW2, extensions=extension, **changes)


def raw_disk_that_starts_with(file: bytes) -> bytes:
    return file + noise(4 * MIB)[len(file) :]


def test_cve_2011_3147_a_qcow_with_a_backing_file_is_refused() -> None:
    fields = crafted_qcow.Fields(backing_offset=48, backing_bytes=len(HOST_FILE), l1_offset=64)
    file = fields.pack() + HOST_FILE
    assert open_reason(file.ljust(8192, b"\0"), "qcow") == "IMAGE_BACKING_FILE"


def test_cve_2013_2096_a_small_file_that_claims_a_huge_disk_is_refused() -> None:
    file = content("qcow2-100PiB.qcow2")
    assert len(file) < 8 * MIB
    assert open_reason(file, "qcow2") == "IMAGE_TOO_LARGE"


def test_cve_2013_4463_a_huge_disk_in_compressed_clusters_is_refused() -> None:
    packed = crafted_qcow.deflated(bytes(CLUSTER))
    entry = crafted_qcow2.compressed_entry(3 * CLUSTER, len(packed))
    file = crafted_qcow2.crafted([entry] * 4, packed)
    assert read_all(open_image(MemorySource(file), "qcow2", LIMIT).blocks) == bytes(4 * CLUSTER)
    claims = crafted_qcow2.with_fields(file, QCOW2, size=LIMIT + 512, l1_entries=1 << 17)
    assert open_reason(claims, "qcow2") == "IMAGE_TOO_LARGE"


def test_cve_2013_4469_the_limit_in_force_counts_for_the_disk_and_not_for_the_file() -> None:
    file = qcow2_with()
    assert open_image(MemorySource(file), "qcow2", 4 * CLUSTER).blocks.size_bytes == 4 * CLUSTER
    assert open_reason(file, "qcow2", 4 * CLUSTER - 1) == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("magic", [b"WithoutFreeSpace", b"WithouFreSpacExt"])
def test_cve_2014_0142_a_parallels_file_without_tracks_is_bytes_to_nobody(magic: bytes) -> None:
    head = magic + struct.pack("<IIIIII", 2, 16, 100, 0, 1, 2048)
    file = raw_disk_that_starts_with(head.ljust(512, b"\0"))
    assert detect(MemorySource(file)) == "raw"
    assert read_all(open_image(MemorySource(file), "raw", LIMIT).blocks) == file


@pytest.mark.parametrize("entries", [0, (1 << 22) + 1, 1 << 29, (1 << 32) - 1])
def test_cve_2014_0143_an_l1_table_of_any_length_overflows_nothing(entries: int) -> None:
    assert open_reason(qcow2_with(l1_entries=entries), "qcow2") in {"IMAGE_MALFORMED", "IMAGE_TRUNCATED"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("qcow2", qcow2_with(header_bytes=0xFFFF_FFF8)),
        ("qcow2", qcow2_with(cluster_bits=0)),
        ("qcow2", qcow2_with(cluster_bits=63)),
        ("qcow2", qcow2_with(struct.pack(">II", 0x1234, 0xFFFF_FFF0))),
        ("vdi", crafted_vdi.crafted([0], b"", crafted_vdi.Fields(blocks=0x4000_0000))),
        ("vdi", crafted_vdi.crafted([0], b"", crafted_vdi.Fields(block_bytes=0))),
        ("vhd", crafted_vhd.dynamic({}, header=crafted_vhd.Header(entries=3, block_size=0))),
        ("vhd", crafted_vhd.dynamic({}, header=crafted_vhd.Header(entries=3, table_offset=1 << 62))),
        ("vhdx", crafted_vhdx.crafted([0], parts=crafted_vhdx.Parts(disk=crafted_vhdx.Disk(logical=0)))),
    ],
)
def test_cve_2014_0144_a_field_without_a_bound_in_qemu_has_one_here(name: str, file: bytes) -> None:
    assert open_reason(file, name) in {"IMAGE_MALFORMED", "IMAGE_TRUNCATED", "IMAGE_UNKNOWN_FEATURE"}


@pytest.mark.parametrize("count", [257, 65_537, (1 << 32) - 1])
def test_cve_2014_0145_many_snapshots_are_refused(count: int) -> None:
    file = qcow2_with(snapshots=count, snapshots_offset=CLUSTER)
    assert open_reason(file, "qcow2") == "IMAGE_TOO_MANY_SNAPSHOTS"


@pytest.mark.parametrize("offset", [1, 1 << 40, (1 << 64) - 1])
def test_cve_2014_0146_a_table_of_snapshots_anywhere_is_not_read(offset: int) -> None:
    opened = open_image(MemorySource(qcow2_with(snapshots=3, snapshots_offset=offset)), "qcow2", LIMIT)
    assert [finding.code for finding in opened.findings] == ["QCOW2_SNAPSHOTS_IGNORED"]
    assert read_all(opened.blocks) == bytes(4 * CLUSTER)


@pytest.mark.parametrize("clusters", [0, 1 << 20, (1 << 32) - 1])
def test_cve_2014_0147_a_table_of_refcounts_of_any_length_is_not_read(clusters: int) -> None:
    file = qcow2_with(refcount_offset=1 << 60, refcount_clusters=clusters)
    assert read_all(open_image(MemorySource(file), "qcow2", LIMIT).blocks) == bytes(4 * CLUSTER)


def test_cve_2014_0148_vhdx_blocks_of_no_length_are_refused() -> None:
    assert open_reason(content("vhdx-block-size-0.vhdx"), "vhdx") == "IMAGE_MALFORMED"


@pytest.mark.parametrize("header", [qcow2_naming(HOST_FILE), content("vmdk-flat-hostfile.vmdk")])
def test_cve_2015_1850_a_raw_volume_with_a_header_written_into_it_is_no_raw_disk(header: bytes) -> None:
    volume = raw_disk_that_starts_with(header)
    assert open_reason(volume, "raw") == "FORMAT_MISMATCH"


def test_cve_2015_1851_a_volume_of_undeclared_format_does_not_bring_a_host_file() -> None:
    volume = MemorySource(raw_disk_that_starts_with(qcow2_naming(HOST_FILE)))
    assert detect(volume) == "qcow2"
    assert open_reason(raw_disk_that_starts_with(qcow2_naming(HOST_FILE)), "qcow2") == "IMAGE_BACKING_FILE"


@pytest.mark.parametrize(
    "name", [HOST_FILE, b"nbd://127.0.0.1:1", b'json:{"driver":"file"}', b"file:/dev/sda"]
)
def test_cve_2015_5163_a_qcow2_with_a_backing_file_is_refused(name: bytes) -> None:
    assert open_reason(qcow2_naming(name), "qcow2") == "IMAGE_BACKING_FILE"
    assert open_reason(qcow2_naming(name, 2), "qcow2") == "IMAGE_BACKING_FILE"


@pytest.mark.parametrize("kind", ["monolithicFlat", "vmfs", "twoGbMaxExtentFlat", "fullDevice", "custom"])
def test_cve_2022_47951_a_vmdk_whose_extent_is_a_host_file_is_refused(kind: str) -> None:
    about = crafted_vmdk.description(512, kind, extents='RW 512 FLAT "/etc/shadow" 0')
    assert open_reason(about, "vmdk") == "IMAGE_EXTERNAL_DATA_FILE"
    inside = crafted_vmdk.sparse({}, crafted_vmdk.Fields(), about)
    assert open_reason(inside, "vmdk") == "IMAGE_EXTERNAL_DATA_FILE"


@pytest.mark.parametrize("bit", [0, 4])
@pytest.mark.parametrize("named", [b"", crafted_qcow2.extension(0x44415441, HOST_FILE)])
def test_cve_2024_32498_an_external_data_file_is_refused(bit: int, named: bytes) -> None:
    file = qcow2_with(named, incompatible=bit)
    if bit or named:
        assert open_reason(file, "qcow2") == "IMAGE_EXTERNAL_DATA_FILE"
    else:
        assert read_all(open_image(MemorySource(file), "qcow2", LIMIT).blocks) == bytes(4 * CLUSTER)


def test_cve_2024_4467_a_data_file_with_a_name_of_json_is_refused_without_looking_at_it() -> None:
    name = b'json:{"driver":"qcow2","file":{"driver":"host_device","filename":"/dev/sda"}}'
    file = qcow2_with(crafted_qcow2.extension(0x44415441, name), incompatible=4)
    assert open_reason(file, "qcow2") == "IMAGE_EXTERNAL_DATA_FILE"


@pytest.mark.parametrize(
    "name", ["qcow2-backing-hostfile.qcow2", "qcow2-external-data-file.qcow2", "vmdk-flat-hostfile.vmdk"]
)
def test_cve_2024_40767_what_is_declared_raw_and_is_not_is_refused(name: str) -> None:
    assert open_reason(content(name), "raw") == "FORMAT_MISMATCH"


def test_cve_2024_44082_no_program_is_given_an_image() -> None:
    """What is started is imsd itself: confined, to look inside disks, and to serve stored ones."""
    starts = {module.name for module in modules("imsd") if STARTS_A_PROGRAM.search(module.text)}
    assert starts == {"imsd.guest.spawner_link", "imsd.block_server_start"}


def test_cve_2026_24708_a_header_inside_a_disk_is_a_content_like_any_other() -> None:
    inner = qcow2_naming(HOST_FILE).ljust(4 * CLUSTER, b"x")
    entries = [(3 + number) * CLUSTER | crafted_qcow2.COPIED for number in range(4)]
    outer = crafted_qcow2.crafted(entries, inner)
    blocks = open_image(MemorySource(outer), "qcow2", LIMIT).blocks
    assert read_all(blocks) == inner


@pytest.mark.parametrize(
    "magic", [b"QFI\xfb\0\0\0\1", b"QFI\xfb\0\0\0\3", b"QED\0", b"KDMV", b"vhdxfile", b"conectix"]
)
def test_cve_2026_27211_a_disk_that_a_guest_gave_a_signature_is_never_raw(magic: bytes) -> None:
    disk = raw_disk_that_starts_with(magic)
    assert detect(MemorySource(disk)) != "raw"
    assert open_reason(disk, "raw") == "FORMAT_MISMATCH"


@pytest.mark.parametrize("left", range(13))
def test_cve_2026_2243_a_compressed_grain_at_the_end_of_the_file_is_not_read_beyond_it(left: int) -> None:
    grain = text(crafted_vmdk.GRAIN)
    file = crafted_vmdk.stream_with_tables_first({0: grain})
    (overhead,) = struct.unpack_from("<Q", file, 64)
    cut = file[: overhead * 512 + left]
    assert read_reason(cut, "vmdk") == "IMAGE_TRUNCATED"
    assert decode_reason(cut) in {"IMAGE_TRUNCATED", "IMAGE_MALFORMED"}


@pytest.mark.parametrize("size", [32 << 50, (1 << 52) + MIB, (1 << 63) - 512, (1 << 64) - 512])
def test_qemu_4033_a_vhdx_of_more_blocks_than_32_bits_count_is_refused(size: int) -> None:
    disk = crafted_vhdx.Disk(size=size)
    file = crafted_vhdx.crafted([0], parts=crafted_vhdx.Parts(disk=disk))
    assert open_reason(file, "vhdx") == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("count", [127, 1 << 16, 1 << 27, (1 << 32) - 1])
def test_qemu_3860_a_vhdx_log_of_any_number_of_descriptors_overflows_nothing(count: int) -> None:
    entry = crafted_vhdx.Entry(5, [(crafted_vhdx.BAT, 4096)], count=count)
    file = crafted_vhdx.dirty([0] * 3, b"", entry.pack())
    assert open_reason(file, "vhdx") == "IMAGE_MALFORMED"


def test_qemu_3846_a_dmg_is_bytes_to_nobody() -> None:
    trailer = struct.pack(">4sII", b"koly", 4, 512).ljust(512, b"\xff")
    file = noise(64 << 10) + trailer
    assert detect(MemorySource(file)) == "raw"
    assert read_all(open_image(MemorySource(file), "raw", LIMIT).blocks) == file

"""What the text in a VMDK file may say: each wrong one is refused for its own reason."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_vmdk import GRAIN, STREAM, Fields, StreamFile, description, sparse
from tests.unit.formats.disk_files import LIMIT, qemu_img, read_all, text
from tests.unit.formats.vmdk_refusal import decode_reason, open_reason

ONE = {1: text(GRAIN)}

TEXTS = [
    ("IMAGE_BACKING_FILE", description(parent="8108f6dc")),
    ("IMAGE_BACKING_FILE", description(parent="fffffffe")),
    ("IMAGE_BACKING_FILE", description(more='parentFileNameHint="/etc/shadow"\n')),
    ("IMAGE_BACKING_FILE", description(more='PARENTFILENAMEHINT = "base.vmdk"\n')),
    ("IMAGE_BACKING_FILE", description(more='ddb.nativeParentHint = "x"\n')),
    ("IMAGE_ENCRYPTED", description(more='encryption.keySafe = "vmware:key/list"\n')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(create_type="monolithicFlat")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(create_type="MONOLITHICFLAT")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(create_type="vmfs")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(create_type="vmfsRawDeviceMap")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(create_type="twoGbMaxExtentSparse")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(create_type="fullDevice")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(create_type="custom")),
    ("FORMAT_UNSUPPORTED", description(create_type="vmfsSparse")),
    ("FORMAT_UNSUPPORTED", description(create_type="seSparse")),
    ("FORMAT_UNSUPPORTED", description(create_type="somethingElse")),
    ("FORMAT_UNSUPPORTED", description().replace(b"createType", b"otherType")),
    ("IMAGE_MALFORMED", description(create_type="streamOptimized")),
    ("IMAGE_MALFORMED", description(extents="")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 SPARSE "a"\nRW 512 SPARSE "b"')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 FLAT "disk-flat.vmdk" 0')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 VMFS "disk-flat.vmdk"')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents="RW 512 ZERO")),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 VMFSRDM "/dev/sda"')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 SPARSE "/etc/shadow"')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 SPARSE "C:\\disk.vmdk"')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 SPARSE ".."')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents='RW 512 SPARSE ""')),
    ("IMAGE_EXTERNAL_DATA_FILE", description(extents="RW 512 SPARSE")),
    ("IMAGE_MALFORMED", description(extents='NOACCESS 512 SPARSE "disk.vmdk"')),
    ("IMAGE_MALFORMED", description(extents='WO 512 SPARSE "disk.vmdk"')),
    ("IMAGE_MALFORMED", description(extents='RW 511 SPARSE "disk.vmdk"')),
    ("IMAGE_MALFORMED", description(extents='RW 99999999999999999999 SPARSE "disk.vmdk"')),
    ("IMAGE_MALFORMED", description(more='createType="monolithicSparse"\n')),
    ("IMAGE_MALFORMED", description(more="parentCID=ffffffff\n")),
    ("IMAGE_MALFORMED", description(more="a line that says nothing\n")),
    ("IMAGE_MALFORMED", description(more="# caf\u00e9\n")),
    ("IMAGE_MALFORMED", description(more="# \x1b[31m\n")),
    ("FORMAT_UNSUPPORTED", b"\0" + description()),
]


@pytest.mark.parametrize(("reason", "about"), TEXTS)
def test_a_descriptor_that_is_wrong_is_refused(reason: str, about: bytes) -> None:
    assert open_reason(sparse(ONE, about=about)) == reason
    if b"streamOptimized" not in about:
        about = about.replace(b"monolithicSparse", b"streamOptimized")
        assert decode_reason(bytes(StreamFile(STREAM, about).content)) == reason


@pytest.mark.parametrize(
    "file", [sparse(ONE, about=b""), sparse(ONE, Fields(descriptor=0, descriptor_sectors=0))]
)
def test_one_part_of_a_disk_in_several_files_says_what_it_is(file: bytes) -> None:
    with pytest.raises(ImageRefused) as refused:
        open_image(MemorySource(file), None, LIMIT)
    assert refused.value.reason == "IMAGE_EXTERNAL_DATA_FILE"
    assert "one part of a disk in several files" in refused.value.message
    assert "`qemu-img convert -O qcow2 NAME.vmdk NAME.qcow2`" in refused.value.hint


@pytest.mark.parametrize("part", ["disk-s001.vmdk", "disk-s002.vmdk"])
def test_a_part_that_qemu_wrote_is_refused_as_one(part: str, tmp_path: Path) -> None:
    options = ["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]
    qemu_img("create", "-q", *options, tmp_path / "disk.vmdk", "3G")
    assert open_reason((tmp_path / part).read_bytes()) == "IMAGE_EXTERNAL_DATA_FILE"


def test_what_follows_the_end_of_the_descriptor_is_not_looked_at() -> None:
    file = sparse(ONE, about=description() + b"\0parentCID=12345678\n\xff")
    assert read_all(open_image(MemorySource(file), "vmdk", LIMIT).blocks)[GRAIN : 2 * GRAIN] == text(GRAIN)


@pytest.mark.parametrize(("bytes_used", "reason"), [(20 << 10, ""), ((20 << 10) + 1, "IMAGE_MALFORMED")])
def test_a_descriptor_has_a_longest_length(bytes_used: int, reason: str) -> None:
    fields = Fields(descriptor_sectors=60, directory=61)
    file = sparse(ONE, fields, description().ljust(bytes_used, b"\n"))
    if reason:
        assert open_reason(file) == reason
    else:
        assert open_image(MemorySource(file), "vmdk", LIMIT).blocks.size_bytes == 4 * GRAIN


def test_cve_2022_47951_a_descriptor_that_names_a_file_of_the_host() -> None:
    """A VMDK whose flat extent is a path of the host was copied out by Cinder, Glance and Nova."""
    about = description(create_type="monolithicFlat", extents='RW 512 FLAT "/etc/passwd" 0')
    for file in (about, about.ljust(64 << 10, b"\0"), sparse(ONE, about=about)):
        assert open_reason(file) == "IMAGE_EXTERNAL_DATA_FILE"
    assert decode_reason(bytes(StreamFile(STREAM, about).content)) == "IMAGE_EXTERNAL_DATA_FILE"


@pytest.mark.parametrize(
    ("reason", "file"),
    [
        ("IMAGE_EXTERNAL_DATA_FILE", description()),
        ("IMAGE_EXTERNAL_DATA_FILE", description().ljust(65536, b"\0")),
        ("IMAGE_EXTERNAL_DATA_FILE", b"# Disk DescriptorFile\n\xff\xfe nothing that can be read"),
        ("IMAGE_BACKING_FILE", description(parent="12345678")),
        ("FORMAT_UNSUPPORTED", b"COWD".ljust(4096, b"\0")),
        ("FORMAT_UNSUPPORTED", struct.pack("<Q", 0xCAFEBABE).ljust(4096, b"\0")),
        ("IMAGE_TRUNCATED", b"KDMV"),
        ("IMAGE_TRUNCATED", b"KDMV".ljust(511, b"\0")),
    ],
)
def test_other_files_of_the_family_are_refused(reason: str, file: bytes) -> None:
    assert open_reason(file) == reason

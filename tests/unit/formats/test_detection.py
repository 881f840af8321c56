"""Which format a file has: all signatures count, exactly one may match."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.contract import ImageRefused, InvalidRequest
from imsd.formats.detect import HEAD_BYTES, detect, head_formats, open_image
from imsd.formats.registry import (
    FORMATS,
    READERS,
    WRITERS,
    is_streamable,
    open_writer,
    require_writable,
    writable_compressions,
)
from imsd.formats.source import ByteSource, MemorySource
from tests.unit.formats.crafted_iso import disc
from tests.unit.formats.disk_files import LIMIT, MIB, CutDisk, LateSource, qemu_img, text, with_fetches

ALL = {"raw", "iso", "qcow2", "qcow", "qed", "vhd", "vhdx", "vdi", "vmdk", "zvhd", "zvhd2"}


def volume(identifier: bytes, sector: int = 16, length: int = 64 << 10) -> bytes:
    file = bytearray(length)
    file[sector * 2048 + 1 : sector * 2048 + 1 + len(identifier)] = identifier
    return bytes(file)


def starting(start: bytes) -> bytes:
    return start.ljust(8192, b"\0")


def ending(end: bytes) -> bytes:
    return text(8192) + end


SIGNED = [
    ("qcow2", starting(b"QFI\xfb\0\0\0\2")),
    ("qcow2", starting(b"QFI\xfb\0\0\0\3")),
    ("qcow", starting(b"QFI\xfb\0\0\0\1")),
    ("qed", starting(b"QED\0")),
    ("vhd", starting(b"conectix")),
    ("vhd", ending(b"conectix".ljust(512, b"\0"))),
    ("vhd", ending(b"conectix".ljust(511, b"\0"))),
    ("vhdx", starting(b"vhdxfile")),
    ("vdi", starting(b"<<< VirtualBox >>>".ljust(64, b"\0") + struct.pack("<I", 0xBEDA107F))),
    ("vmdk", starting(b"KDMV")),
    ("vmdk", starting(b"COWD")),
    ("vmdk", starting(struct.pack("<Q", 0xCAFEBABE))),
    ("vmdk", starting(b"# Disk DescriptorFile\nversion=1\n")),
    ("vmdk", starting(b"\n\n# disk descriptorfile\r\nversion=1\n")),
    ("vmdk", starting(b'# a comment\n  \nversion=3\nparentFileNameHint="/etc/shadow"\n')),
    ("zvhd", starting(b"stream\0\0")),
    ("zvhd", ending(b"stream\0\0".ljust(4096, b"\0"))),
    ("zvhd2", starting(b"z2strm\0\0")),
    ("zvhd2", ending(b"z2strm\0\0".ljust(4096, b"\0"))),
    ("iso", volume(b"CD001")),
    ("iso", volume(b"NSR02", sector=18)),
    ("iso", volume(b"NSR03", sector=20)),
    ("raw", text(8192)),
    ("raw", bytes(512)),
    ("raw", b"x"),
]


@pytest.mark.parametrize(("name", "file"), SIGNED)
def test_a_signature_anywhere_decides(name: str, file: bytes) -> None:
    assert detect(MemorySource(file)) == name


@pytest.mark.parametrize(("name", "file"), SIGNED)
def test_a_signed_file_declared_raw_is_refused(name: str, file: bytes) -> None:
    if name == "raw":
        assert open_image(MemorySource(file), "raw", LIMIT).format_name == "raw"
        return
    with pytest.raises(ImageRefused) as refused:
        open_image(MemorySource(file), "raw", LIMIT)
    assert refused.value.reason == "FORMAT_MISMATCH"


@pytest.mark.parametrize("name", ["vpc", "vhdx", "vdi", "vmdk", "qed", "qcow", "qcow2"])
def test_what_qemu_writes_is_recognised(
    name: str, tmp_path: Path, source_of: Callable[[Path], ByteSource]
) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", name, path, "3M")
    assert detect(source_of(path)) == {"vpc": "vhd"}.get(name, name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vpc", "subformat=fixed"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vdi", "static=on"),
    ],
)
def test_other_layouts_of_a_format_are_recognised(
    name: str, options: str, tmp_path: Path, source_of: Callable[[Path], ByteSource]
) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", name, "-o", options, path, "3M")
    assert detect(source_of(path)) == {"vpc": "vhd"}.get(name, name)


def test_an_optical_disc_with_a_boot_sector_is_iso() -> None:
    hybrid = bytearray(volume(b"CD001"))
    hybrid[510:512] = b"\x55\xaa"
    assert detect(MemorySource(bytes(hybrid))) == "iso"


@pytest.mark.parametrize("start", [b"QFI\xfb\0\0\0\3", b"KDMV", b"vhdxfile", b"conectix", b"z2strm\0\0"])
def test_two_signatures_are_refused(start: bytes) -> None:
    file = start + volume(b"CD001")[len(start) :]
    with pytest.raises(ImageRefused) as refused:
        open_image(MemorySource(file), None, LIMIT)
    assert refused.value.reason == "FORMAT_AMBIGUOUS"


def test_a_qcow2_with_a_footer_of_another_format_is_refused() -> None:
    with pytest.raises(ImageRefused) as refused:
        detect(MemorySource(starting(b"QFI\xfb\0\0\0\3") + b"conectix".ljust(512, b"\0")))
    assert refused.value.reason == "FORMAT_AMBIGUOUS"
    assert "qcow2" in refused.value.message
    assert "vhd" in refused.value.message


def test_an_empty_file_is_refused_as_empty() -> None:
    with pytest.raises(ImageRefused) as refused:
        open_image(MemorySource(b""), None, LIMIT)
    assert refused.value.reason == "IMAGE_EMPTY"


@pytest.mark.parametrize(("name", "file"), SIGNED)
def test_the_head_alone_tells_what_stands_in_it(name: str, file: bytes) -> None:
    whole = bytes(file[:HEAD_BYTES])
    stands_at_the_end = file.startswith(text(8192)[:4096])
    assert head_formats(whole) == ([] if name == "raw" or stands_at_the_end else [name])


@given(st.binary(max_size=3000), st.sampled_from([file for _, file in SIGNED]), st.integers(0, 70_000))
def test_a_head_of_any_length_is_judged(noise: bytes, file: bytes, cut: int) -> None:
    assert {*head_formats(noise), *head_formats(file[:cut])} <= set(ALL)


@given(st.binary(min_size=1, max_size=3000))
def test_any_short_file_has_a_format(file: bytes) -> None:
    assert detect(MemorySource(file)) in ALL


@pytest.mark.parametrize(
    "content", [b"\n" * HEAD_BYTES, b"#" * HEAD_BYTES, b" " * HEAD_BYTES, b"#\n " * 22528]
)
def test_text_that_never_becomes_a_descriptor_is_raw_soon(content: bytes) -> None:
    assert detect(MemorySource(content)) == "raw"


def test_detection_of_a_late_file_takes_one_fetch() -> None:
    source = LateSource(bytes(10 * MIB))
    name, rounds = with_fetches(source, lambda: detect(source))
    assert name == "raw"
    assert rounds == 1
    assert source.fetched_bytes == HEAD_BYTES + 4096


def test_a_whole_optical_disc_opens_without_findings_when_it_boots() -> None:
    source = LateSource(disc(bootable=True))
    opened, _ = with_fetches(source, lambda: open_image(source, "iso", LIMIT))
    assert opened.format_name == "iso"
    assert not opened.findings


def test_a_disc_cut_short_or_without_boot_record_has_findings() -> None:
    content = disc(bootable=False)
    opened = open_image(MemorySource(content[:-2048]), None, LIMIT)
    assert [finding.code for finding in opened.findings] == ["ISO_NOT_BOOTABLE", "ISO_SHORTER_THAN_VOLUME"]
    assert opened.blocks.size_bytes == len(content) - 2048


def test_the_catalogue_lists_all_formats_and_what_can_be_done() -> None:
    assert {known.name for known in FORMATS} == ALL == set(READERS)
    assert {known.name for known in FORMATS if known.can_write} == ALL - {"iso", "qcow", "qed"}
    arriving = {known.name for known in FORMATS if known.is_streamable}
    assert arriving == {"raw", "iso", "vmdk", "zvhd", "zvhd2"}
    assert all(known.summary for known in FORMATS)
    assert is_streamable("iso")
    assert not is_streamable("qcow2")
    assert not is_streamable("unheard")
    assert writable_compressions("qed") is None
    assert writable_compressions("raw") == ()
    assert set(writable_compressions("qcow2") or ()) == {"zstd", "zlib", "zlib-small", "none"}


@pytest.mark.parametrize(("name", "compression"), [("qed", ""), ("raw", "zstd"), ("qcow2", "lz4")])
def test_a_writer_that_does_not_exist_is_refused(name: str, compression: str) -> None:
    with pytest.raises(InvalidRequest):
        open_writer(name, CutDisk(MIB, []), compression)


@pytest.mark.parametrize(
    ("name", "compression", "reason", "field", "hint"),
    [
        ("qed", "", "FORMAT_UNSUPPORTED", "disk_format", ", ".join(WRITERS)),
        ("raw", "zstd", "INVALID_REQUEST", "compression", "choose none"),
        ("qcow2", "lz4", "INVALID_REQUEST", "compression", "zstd"),
    ],
)
def test_what_cannot_be_written_is_told_with_what_can(
    name: str, compression: str, reason: str, field: str, hint: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        require_writable(name, compression)
    assert (refused.value.reason, refused.value.field) == (reason, field)
    assert hint in refused.value.hint


@pytest.mark.parametrize("name", WRITERS)
def test_what_can_be_written_passes(name: str) -> None:
    for compression in ("", *WRITERS[name].compressions):
        assert require_writable(name, compression) is WRITERS[name]

"""Descriptors and manifests of packages, honest and hostile."""

from __future__ import annotations

import io
import random
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.contract import ImageRefused
from imsd.formats import ovf
from imsd.formats.detect import detect, find_wrapper, head_formats, open_image
from imsd.formats.ova import is_ova, member_source, open_package
from imsd.formats.ovf import MAX_DESCRIPTOR_BYTES, parse_descriptor, parse_manifest
from imsd.formats.source import MemorySource
from imsd.formats.xml_elements import MAX_DEPTH, elements
from tests.packages import descriptor, manifest, ova, tar_of
from tests.unit.formats.disk_files import LIMIT

GOOD = descriptor({"a.vmdk": 10, "b.vmdk": 20}, firmware="efi")
ENVELOPE = "<Envelope><References>{files}</References><DiskSection>{disks}</DiskSection></Envelope>"
FILE = '<File id="f" href="a.vmdk"/>'


def envelope(files: str = FILE, disks: str = '<Disk fileRef="f"/>') -> bytes:
    return ENVELOPE.format(files=files, disks=disks).encode()


def refusal(content: bytes) -> str:
    with pytest.raises(ImageRefused) as refused:
        parse_descriptor(content)
    assert refused.value.hint
    return refused.value.reason


def package_refusal(file: bytes) -> str:
    with pytest.raises(ImageRefused) as refused:
        open_package(MemorySource(file))
    assert refused.value.hint
    return refused.value.reason


def test_a_descriptor_tells_disks_system_and_firmware() -> None:
    found = parse_descriptor(GOOD)
    assert [(disk.file_name, disk.size_bytes, disk.compression) for disk in found.disks] == [
        ("a.vmdk", 10, ""),
        ("b.vmdk", 20, ""),
    ]
    assert (found.system, found.firmware) == ("Debian 12", "efi")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_descriptor_may_be_in_any_of_these_encodings(encoding: str) -> None:
    assert parse_descriptor(GOOD.decode().encode(encoding)) == parse_descriptor(GOOD)


def test_disks_without_a_file_are_left_out_and_no_file_comes_twice() -> None:
    found = parse_descriptor(envelope(disks='<Disk/><Disk fileRef="f"/><Disk fileRef="f"/>'))
    assert [disk.file_name for disk in found.disks] == ["a.vmdk"]


def test_text_is_unescaped_and_sections_of_text_are_taken() -> None:
    found = parse_descriptor(
        b"<Envelope><References><File id='f' href='a&amp;&#x62;&#99;'/></References>"
        b"<DiskSection><Disk fileRef='f'/></DiskSection><VirtualSystem><OperatingSystemSection>"
        b"<Description>a <![CDATA[<b> ]]>&lt;c</Description></OperatingSystemSection></VirtualSystem>"
        b"</Envelope>"
    )
    assert (found.disks[0].file_name, found.system) == ("a&bc", "a <b> <c")


def test_any_character_of_xml_may_stand_in_text() -> None:
    said = "\t\r\n \x7f\x85\ud7ff\ue000\ufffd\U00010000\U0010ffff"
    told = "".join(f"&#{ord(character)};" for character in said)
    found = list(elements(f"<a>.{said}.{told}.</a>", ovf.REFUSALS))
    assert [element.text for element in found] == [f".{said}.{said}."]


BILLION_LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">'
    + b"".join(b'<!ENTITY lol%d "%s">' % (n, b"&lol%d;" % (n - 1) * 10) for n in range(1, 10))
    + b"]><Envelope>&lol9;</Envelope>"
)


def test_billion_laughs_is_refused() -> None:
    assert refusal(BILLION_LAUGHS) == "IMAGE_MALFORMED"


def test_an_external_entity_is_refused() -> None:
    text = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><Envelope>&e;</Envelope>'
    assert refusal(text) == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "IMAGE_MALFORMED"),
        (b"text", "IMAGE_MALFORMED"),
        (b"\xff\xfe\x00", "IMAGE_MALFORMED"),
        (b"\xc3(", "IMAGE_MALFORMED"),
        (b"<html/>", "IMAGE_MALFORMED"),
        (b"<Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope/><Envelope/>", "IMAGE_MALFORMED"),
        (b"<Envelope></References></Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope a='1' a='2'/>", "IMAGE_MALFORMED"),
        (b"<Envelope a=1/>", "IMAGE_MALFORMED"),
        (b"<Envelope a='<'/>", "IMAGE_MALFORMED"),
        (b"<Envelope>&e;</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope>&#0;</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope>&#xD800;</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope>&#1;</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope a='&#x1b;'/>", "IMAGE_MALFORMED"),
        (b"<Envelope>&#xFFFE;</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope>\x00</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope a='\x1b'/>", "IMAGE_MALFORMED"),
        (b"<Envelope><![CDATA[\x08]]></Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope><!-- \x0c --></Envelope>", "IMAGE_MALFORMED"),
        ("<Envelope>\uffff</Envelope>".encode(), "IMAGE_MALFORMED"),
        (b"<Envelope>& </Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope><!-- </Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope><![CDATA[ </Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope/>", "IMAGE_EMPTY"),
        (b"<x>" * (MAX_DEPTH + 1), "IMAGE_MALFORMED"),
        (b"<Envelope>" + b"<x/>" * 60_000 + b"</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope " + b" " * 900_000 + b"</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope " + b"a" * 900_000 + b"</Envelope>", "IMAGE_MALFORMED"),
        (b"<Envelope " + b"".join(b" a%d=''" % n for n in range(100)) + b"/>", "IMAGE_MALFORMED"),
        (b" " * (MAX_DESCRIPTOR_BYTES + 1), "IMAGE_MALFORMED"),
        (envelope(disks=""), "IMAGE_EMPTY"),
        (envelope(disks='<Disk fileRef="g"/>'), "IMAGE_EXTERNAL_DATA_FILE"),
        (envelope(disks='<Disk fileRef="f" parentRef="p"/>'), "IMAGE_BACKING_FILE"),
        (envelope(FILE + FILE), "IMAGE_MALFORMED"),
        (envelope('<File id="f"/>'), "IMAGE_MALFORMED"),
        (envelope('<File id="f" href="a" size="-1"/>'), "IMAGE_MALFORMED"),
        (envelope('<File id="f" href="a" compression="bzip2"/>'), "FORMAT_UNSUPPORTED"),
        (envelope('<File id="f" href="a" chunkSize="9"/>'), "FORMAT_UNSUPPORTED"),
    ],
)
def test_what_is_no_honest_descriptor_is_refused(content: bytes, reason: str) -> None:
    assert refusal(content) == reason


def test_the_number_of_disks_is_bounded() -> None:
    names = {f"{number}.vmdk": 1 for number in range(ovf.MAX_DISKS + 1)}
    assert refusal(descriptor(names)) == "IMAGE_TOO_LARGE"


def test_what_follows_too_many_disks_is_not_looked_at() -> None:
    names = "".join(f'<Disk fileRef="{number}"/>' for number in range(ovf.MAX_DISKS + 1))
    assert refusal(f"<Envelope><DiskSection>{names}<!DOCTYPE".encode()) == "IMAGE_TOO_LARGE"


@given(seed=st.integers(0, 1 << 30))
def test_any_damage_is_refused_or_harmless(seed: int) -> None:
    chosen, content = random.Random(seed), bytearray(GOOD)
    for _ in range(chosen.randrange(1, 6)):
        content[chosen.randrange(len(content))] = chosen.choice(b"<>&\"'/! \x00\xff[]a;:=")
    try:
        names = [disk.file_name for disk in parse_descriptor(bytes(content)).disks]
    except ImageRefused as refused:
        names = [refused.reason]
    assert all(0 < len(name) <= len(GOOD) for name in names)


@given(st.text(alphabet="<>/=\"'&;!-[]? abA:", max_size=300))
def test_any_text_is_elements_or_refused(text: str) -> None:
    depths, reason = [], "IMAGE_MALFORMED"
    try:
        depths = [len(element.path) for element in elements(text, ovf.REFUSALS)]
    except ImageRefused as refused:
        reason = refused.reason
    assert reason == "IMAGE_MALFORMED"
    assert all(1 <= depth <= MAX_DEPTH for depth in depths)


# -- manifests --


@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256", "SHA512"])
def test_a_manifest_has_a_checksum_for_each_file(algorithm: str) -> None:
    found = parse_manifest(manifest({"a b.ovf": b"1", "c(d).vmdk": b"2"}, algorithm))
    assert list(found) == ["a b.ovf", "c(d).vmdk"]
    assert {checksum.algorithm for checksum in found.values()} == {algorithm.lower()}


@pytest.mark.parametrize(
    "content",
    [
        b"MD5(a)= " + b"0" * 32,
        b"SHA256(a)= " + b"0" * 40,
        b"SHA1(a)= " + b"g" * 40,
        b"SHA1()= " + b"0" * 40,
        (b"SHA1(a)= " + b"0" * 40 + b"\n") * 2,
        b"SHA1(" * 100_000,
        b"\xff",
        b" " * (1 << 20) + b"x",
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(ImageRefused) as refused:
        parse_manifest(content)
    assert refused.value.reason == "IMAGE_MALFORMED"


# -- packages --


@pytest.mark.parametrize("tar_format", [0, 1, 2])
def test_a_package_is_recognised_by_its_first_bytes(tar_format: int) -> None:
    file = ova({"a.vmdk": b"KDMV" + bytes(100_000)}, tar_format=tar_format)
    assert is_ova(file)
    assert detect(MemorySource(file)) == "ova"
    assert head_formats(file) == ["ova"]
    assert find_wrapper(MemorySource(file), "") is None


def folder(name: str = "./") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        header = tarfile.TarInfo(name)
        header.type = tarfile.DIRTYPE
        archive.addfile(header)
        return file.getvalue()


@pytest.mark.parametrize("href", ["d.vmdk", "./d.vmdk"])
@pytest.mark.parametrize("stored", ["d.vmdk", "./d.vmdk"])
@pytest.mark.parametrize("start", [b"", folder()])
def test_names_fit_with_and_without_a_leading_dot(href: str, stored: str, start: bytes) -> None:
    text = descriptor({href: 3})
    sums = manifest({"./one.ovf": text, "d.vmdk": b"abc"})
    file = start + tar_of([("./one.ovf", text), (stored, b"abc"), ("./one.mf", sums)])
    assert detect(MemorySource(file)) == "ova"
    package = open_package(MemorySource(file))
    assert [disk.member.name for disk in package.disks] == ["d.vmdk"]
    assert [member.name for member, _ in package.checksums] == ["one.ovf", "d.vmdk"]


@pytest.mark.parametrize("first", ["a.mf", "a.cert", "a-disk1.VMDK", "./a.vmdk"])
@pytest.mark.parametrize("start", [b"", folder()])
def test_a_package_whose_descriptor_comes_later_is_refused(first: str, start: bytes) -> None:
    file = MemorySource(start + tar_of([(first, b"x" * 600), ("a.ovf", GOOD)]))
    assert detect(file) == "ova"
    with pytest.raises(ImageRefused) as refused:
        open_package(file)
    assert refused.value.reason == "IMAGE_MALFORMED"
    assert "first" in refused.value.hint


def test_an_archive_of_something_else_is_no_package() -> None:
    assert detect(MemorySource(tar_of([("readme.txt", b"x" * 600), ("app.ovf", GOOD)]))) == "raw"


def test_a_package_is_not_opened_as_a_disk() -> None:
    file = MemorySource(ova({"a.vmdk": b"x"}))
    for declared, reason in ((None, "FORMAT_UNSUPPORTED"), ("raw", "FORMAT_MISMATCH")):
        with pytest.raises(ImageRefused) as refused:
            open_image(file, declared, LIMIT)
        assert refused.value.reason == reason


def test_a_package_lists_its_disks_and_what_is_to_be_checked() -> None:
    disks = {"a.vmdk": b"one", "b.vmdk": b"two" * 500}
    file = ova(disks)
    package = open_package(MemorySource(file))
    contents = [
        bytes(member_source(MemorySource(file), disk.member).read(0, disk.member.size_bytes))
        for disk in package.disks
    ]
    assert contents == list(disks.values())
    assert [member.name for member, _ in package.checksums] == ["appliance.ovf", "a.vmdk", "b.vmdk"]


def test_a_package_that_is_not_whole_is_refused() -> None:
    text, disk = descriptor({"a.vmdk": 9}), ("a.vmdk", b"123456789")
    assert package_refusal(tar_of([("a.ovf", text)])) == "IMAGE_EXTERNAL_DATA_FILE"
    assert package_refusal(tar_of([("a.ovf", text), ("a.vmdk", b"1")])) == "IMAGE_MALFORMED"
    assert package_refusal(tar_of([disk, ("a.ovf", text)])) == "IMAGE_MALFORMED"
    assert package_refusal(tar_of([])) == "IMAGE_MALFORMED"
    elsewhere = manifest({"a.ovf": text, "b.vmdk": b""})
    assert package_refusal(tar_of([("a.ovf", text), disk, ("a.mf", elsewhere)])) == "IMAGE_TRUNCATED"
    assert package_refusal(tar_of([("a.ovf", text), disk, ("a.mf", bytes(2 << 20))])) == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    "name", ["../../etc/shadow", "/etc/shadow", "http://10.0.0.1/a.vmdk", "file:///etc/shadow"]
)
def test_a_name_in_a_descriptor_leads_nowhere(name: str) -> None:
    file = tar_of([("a.ovf", descriptor({name: 1})), ("a.vmdk", b"1")])
    assert package_refusal(file) == "IMAGE_EXTERNAL_DATA_FILE"

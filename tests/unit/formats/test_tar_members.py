"""The members of tar archives: as tarfile writes them, and as nobody honest does."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsd.contract import ImageRefused
from imsd.formats import tar_members
from imsd.formats.source import MemorySource
from imsd.formats.tar_members import BLOCK_BYTES, TarMember, TarWalk, first_name, is_tar
from tests.packages import tar_of

FILES = [("app.ovf", b"<x/>" * 200), ("app-disk1.vmdk", bytes(5000)), ("empty", b""), ("last", b"x" * 512)]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def walked(file: bytes) -> list[TarMember]:
    walk, members = TarWalk(MemorySource(file)), []
    while member := walk.next():
        members.append(member)
    return members


def refusal(file: bytes) -> str:
    with pytest.raises(ImageRefused) as refused:
        walked(file)
    assert refused.value.hint
    return refused.value.reason


def header(name: bytes = b"disk", size: bytes = b"00000001000", kind: bytes = b"0") -> bytes:
    """A header block with the right checksum."""
    block = bytearray(BLOCK_BYTES)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def attributes(*records: bytes, kind: bytes = b"x") -> bytes:
    content = b"".join(records)
    padding = bytes(-len(content) % BLOCK_BYTES)
    return header(b"pax", b"%011o" % len(content), kind) + content + padding


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 2
    return b"%d" % (length if length < 100 else length + 1) + body


@pytest.mark.parametrize("tar_format", FORMATS)
def test_members_lie_where_tarfile_put_them(tar_format: int) -> None:
    files = [*FILES, ("folder/" * 20 + "long name", b"1"), ("ä" * 60, b"2")]
    if tar_format == tarfile.USTAR_FORMAT:
        files = files[:-1]
    file = tar_of(files, tar_format)
    assert [(member.name, member.size_bytes) for member in walked(file)] == [
        (name, len(content)) for name, content in files
    ]
    assert [file[member.offset : member.offset + member.size_bytes] for member in walked(file)] == [
        content for _, content in files
    ]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_the_first_name_is_known_by_the_head(tar_format: int) -> None:
    name = "x" * 120 + ".ovf" if tar_format != tarfile.USTAR_FORMAT else "app.ovf"
    file = tar_of([(name, bytes(1 << 20))], tar_format)
    assert first_name(file[:66_000]) == name
    assert first_name(file[:400]) is None
    assert first_name(b"no archive" * 100) is None


def test_sizes_may_be_in_base_256() -> None:
    size = b"\x80" + (1000).to_bytes(11, "big")
    assert walked(header(size=size) + bytes(1024))[0].size_bytes == 1000


def test_a_size_of_pax_counts_more_than_the_field() -> None:
    file = attributes(record(b"size", b"700"), record(b"path", b"n.vmdk")) + header(size=b"0") + bytes(1024)
    assert [(member.name, member.size_bytes) for member in walked(file)] == [("n.vmdk", 700)]


def test_names_are_cut_and_kept_as_text() -> None:
    file = attributes(record(b"path", b"../../etc/\xff" + b"x" * 60)) + header(size=b"0")
    assert walked(file)[0].name == "../../etc/\ufffd" + "x" * 60
    long_name = header(b"name", b"%011o" % 1000, b"L") + b"y" * 1000 + bytes(24)
    assert walked(long_name + header(size=b"0"))[0].name == "y" * tar_members.MAX_NAME_CHARACTERS


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S", b"V", b"M", b"K"])
def test_what_is_no_regular_file_is_refused(kind: bytes) -> None:
    assert refusal(header(kind=kind, size=b"0") + bytes(1024)) == "IMAGE_UNKNOWN_FEATURE"


FOLDER = header(b"./", b"0", b"5")


def test_folders_before_the_first_file_are_passed_over() -> None:
    file = FOLDER + header(b"./sub/", b"0", b"5") + header(b"./disk", b"5") + bytes(1024)
    assert [(member.name, member.offset) for member in walked(file)] == [("disk", 1536)]
    assert first_name(file) == "disk"
    assert walked(FOLDER + bytes(1024)) == []
    assert first_name(FOLDER + bytes(1024)) is None


@pytest.mark.parametrize(
    "file",
    [header(size=b"0") + FOLDER, header(b"./", b"1", b"5"), FOLDER + header(kind=b"2", size=b"0")],
)
def test_folders_behind_a_file_or_with_content_and_links_behind_folders_are_refused(file: bytes) -> None:
    assert refusal(file + bytes(1024)) == "IMAGE_UNKNOWN_FEATURE"


def test_folders_count_as_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MAX_MEMBERS", 10)
    folders = b"".join(header(b"%d/" % number, b"0", b"5") for number in range(11))
    assert refusal(folders + bytes(1024)) == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        (b"./a", "a"),
        (b"./sub/a", "sub/a"),
        (b"././a", "./a"),
        (b"../a", "../a"),
        (b".a", ".a"),
        (b"/a", "/a"),
    ],
)
def test_a_name_is_meant_from_the_top_of_the_archive(name: bytes, plain: str) -> None:
    assert [member.name for member in walked(header(name, b"0") + bytes(1024))] == [plain]


def test_two_spellings_of_a_name_are_one_name() -> None:
    assert refusal(header(b"./a", b"0") + header(b"a", b"0") + bytes(1024)) == "IMAGE_MALFORMED"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (header() + bytes(511), "IMAGE_TRUNCATED"),
        (header(size=b"\x80" + b"\x3f" + b"\xff" * 10), "IMAGE_MALFORMED"),
        (header(size=b"\xff" * 12), "IMAGE_MALFORMED"),
        (header(size=b"0000000000x"), "IMAGE_MALFORMED"),
        (header(size=b"77777777777") + bytes(4096), "IMAGE_TRUNCATED"),
        (header(size=b"0") + b"x" * 512, "IMAGE_MALFORMED"),
        (header(size=b"0") * 2, "IMAGE_MALFORMED"),
        (attributes(record(b"size", b"-1")) + header(), "IMAGE_MALFORMED"),
        (attributes(record(b"size", b"9" * 40)) + header(), "IMAGE_MALFORMED"),
        (attributes(b"99 path=x\n") + header(), "IMAGE_MALFORMED"),
        (attributes(b"path=x\n") + header(), "IMAGE_MALFORMED"),
        (attributes(b"0 path=x\n") + header(), "IMAGE_MALFORMED"),
        (attributes(record(b"GNU.sparse.major", b"1")) + header(), "IMAGE_UNKNOWN_FEATURE"),
        (attributes(record(b"path", b"x"), kind=b"g") + header(), "IMAGE_UNKNOWN_FEATURE"),
        (attributes(record(b"path", b"x")), "IMAGE_TRUNCATED"),
        (attributes(record(b"mtime", b"1")) * 9 + header(size=b"0"), "IMAGE_MALFORMED"),
        (header(b"L", b"%011o" % (1 << 20), b"L") + bytes(1 << 20), "IMAGE_MALFORMED"),
        (header(b"L", b"%011o" % 600, b"L") + bytes(512), "IMAGE_TRUNCATED"),
    ],
)
def test_what_lies_is_refused(file: bytes, reason: str) -> None:
    assert refusal(file) == reason


def test_the_number_of_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MAX_MEMBERS", 10)
    many = [(str(number), b"") for number in range(11)]
    assert len(walked(tar_of(many[:10]))) == 10
    assert refusal(tar_of(many)) == "IMAGE_MALFORMED"


def test_a_checksum_that_is_wrong_is_no_archive() -> None:
    file = bytearray(tar_of(FILES))
    assert is_tar(bytes(file))
    file[0] ^= 1
    assert not is_tar(bytes(file))


@pytest.mark.parametrize(
    "change", [lambda file, at: file[:at], lambda file, at: file[:at] + b"\xff" + file[at + 1 :]]
)
@given(seed=st.integers(0, 1 << 30))
def test_any_damage_is_refused_or_leaves_members_inside(
    change: Callable[[bytes, int], bytes], seed: int
) -> None:
    chosen = random.Random(seed)
    file = tar_of(FILES, chosen.choice(FORMATS))
    file = change(file, chosen.randrange(len(file)))
    try:
        ends = [member.offset + member.size_bytes for member in walked(file)]
    except ImageRefused as refused:
        ends = [] if refused.hint else [len(file) + 1]
    assert all(end <= len(file) for end in ends)


@given(st.binary(max_size=2048))
def test_any_bytes_end_soon(content: bytes) -> None:
    file = io.BytesIO(header() + content).getvalue()
    try:
        count = len(walked(file))
    except ImageRefused:
        count = 0
    assert count <= 5

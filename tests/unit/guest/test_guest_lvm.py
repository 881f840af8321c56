"""LVM2: metadata that lvm2 wrote, volumes of several segments and stripes, damaged descriptions."""

from __future__ import annotations

import pytest

from imsd.guest.lvm import LogicalVolume, is_physical_volume, lvm_checksum, read_logical_volumes
from imsd.guest.lvm_text import MAX_TEXT_BYTES, parse_text
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.guest_disks import (
    KIB,
    MIB,
    SparseVolume,
    group_text,
    logical_text,
    physical_volume,
    segment_text,
    vector,
)

OTHER = "B" * 32
EXTENT = 64 * KIB


def marked(extents: int, extent: int, name: bytes) -> dict[int, bytes]:
    """Extents that each start with the name of their volume and their number."""
    return {MIB + number * extent: b"%s %d;" % (name, number) for number in range(extents)}


def mark(found: LogicalVolume, offset: int) -> bytes:
    assert found.volume is not None, found.problem
    return found.volume.read(offset, 16).split(b";")[0]


def test_volumes_that_lvm2_made() -> None:
    first = SparseVolume(200 * MIB, {0: vector("lvm2-pv0.bin.gz")} | marked(199, MIB, b"first"))
    second = SparseVolume(278 * MIB, {0: vector("lvm2-pv1.bin.gz")} | marked(277, MIB, b"second"))
    found, problems = read_logical_volumes([first, BytesVolume(bytes(8 * KIB)), second])
    assert problems == []
    assert [(v.name, v.type, v.problem) for v in found] == [
        ("vg0/root", "linear", ""),
        ("vg0/striped", "striped", ""),
        ("vg0/spanning", "linear", ""),
    ]
    root, striped, spanning = found
    assert [v.volume.size_bytes // MIB for v in found if v.volume] == [100, 40, 200]
    assert [mark(root, n * MIB) for n in (0, 79, 80, 99)] == [
        b"first 0",
        b"first 79",
        b"first 100",
        b"first 119",
    ]
    assert [mark(spanning, n * MIB) for n in (0, 199)] == [b"second 20", b"second 219"]
    # One MiB of each volume is two MiB of stripes of 64 KiB in turn.
    places = (0, EXTENT, 2 * MIB, 2 * MIB + EXTENT, 38 * MIB + EXTENT)
    assert [mark(striped, place) for place in places] == [
        b"first 80", b"second 0", b"first 81", b"second 1", b"second 19",
    ]  # fmt: skip


def read_one(text: bytes) -> tuple[list[LogicalVolume], list[str]]:
    volume = SparseVolume(8 * MIB, {0: physical_volume(text)} | marked(64, EXTENT, b"A"))
    return read_logical_volumes([volume])


def test_segments_are_joined_in_their_order() -> None:
    segments = (segment_text(2, 1, [("pv0", 9)]), segment_text(0, 2, [("pv0", 4)]))
    found, problems = read_one(group_text(logical_text("data", *segments)))
    assert problems == []
    assert [mark(found[0], n * EXTENT) for n in range(3)] == [b"A 4", b"A 5", b"A 9"]
    assert found[0].volume is not None
    assert found[0].volume.read(2 * EXTENT - 2, 5) == b"\0\0A 9"
    with pytest.raises(GuestUnreadable):
        found[0].volume.read(3 * EXTENT - 1, 2)


def test_reading_goes_across_stripes() -> None:
    text = group_text(logical_text("data", segment_text(0, 2, [("pv0", 0), ("pv0", 8)])))
    found, _ = read_one(text)
    assert found[0].type == "striped"
    assert found[0].volume is not None
    whole = found[0].volume.read(0, 2 * EXTENT)
    assert whole[:4] == b"A 0;"
    assert whole[4 * KIB : 4 * KIB + 4] == b"A 8;"
    assert found[0].volume.read(4 * KIB - 5, 10) == whole[4 * KIB - 5 : 4 * KIB + 5]


def test_the_newest_description_counts() -> None:
    old = physical_volume(group_text(logical_text("old", segment_text(0, 1, [("pv0", 0)])), number=3))
    texts = group_text(logical_text("new", segment_text(0, 1, [("pv0", 0)])), number=4)
    new = physical_volume(texts, identity=OTHER.encode())
    found, problems = read_logical_volumes([BytesVolume(new), BytesVolume(old)])
    assert ([volume.name for volume in found], problems) == (["vg/new"], [])


@pytest.mark.parametrize(
    ("logical", "kind", "problem"),
    [
        (logical_text("a", 'start_extent = 0\nextent_count = 1\ntype = "raid1"'), "raid1", "type raid1"),
        (logical_text("a", 'start_extent = 0\nextent_count = 1\ntype = "thin"'), "thin", "type thin"),
        (logical_text("a", segment_text(0, 1, [("pv1", 0)])), "linear", "not here"),
        (logical_text("a", segment_text(1, 1, [("pv0", 0)])), "linear", "gap"),
        (logical_text("a", segment_text(0, 0, [("pv0", 0)])), "linear", "gap"),
        (logical_text("a"), "", "0 segments"),
        (logical_text("a", segment_text(0, 3, [("pv0", 0), ("pv0", 8)])), "striped", "add up"),
        (logical_text("a", segment_text(0, 2, [("pv0", -5)])), "linear", "damaged"),
        (logical_text("a", segment_text(0, 1 << 40, [("pv0", 0)])), "linear", "extent_count"),
        (logical_text("a", segment_text(0, 1, [])), "striped", "number of stripes"),
        (logical_text("a", segment_text(0, 1, [("pv0", 0)], "stripe_count = 2")), "striped", "add up"),
        (logical_text("a", 'type = "striped"\nstripe_count = 1'), "linear", "start_extent"),
        (
            logical_text("a", segment_text(0, 1, [("pv0", 0)]))
            + logical_text("b", 'type = "snapshot"\ncow_store = "a"', status=""),
            "snapshot",
            "type snapshot",
        ),
    ],
)
def test_what_cannot_be_read_is_listed_with_the_reason(logical: str, kind: str, problem: str) -> None:
    [found], problems = read_one(group_text(logical, devices=("A" * 32, OTHER)))
    assert (found.name, found.type, found.volume, problems) == ("vg/a", kind, None, [])
    assert problem in found.problem


def test_hidden_volumes_are_left_out() -> None:
    hidden = logical_text("pool_tmeta", segment_text(0, 1, [("pv0", 0)]), status='"READ"')
    assert read_one(group_text(hidden)) == ([], [])


def test_more_volumes_than_the_limit_are_left_out() -> None:
    many = "\n".join(logical_text(f"v{n}", segment_text(0, 1, [("pv0", 0)])) for n in range(200))
    found, problems = read_one(group_text(many))
    assert (len(found), len(problems)) == (128, 1)


@pytest.mark.parametrize("place", [512, 520, 530, 545, 600])
def test_a_damaged_label_is_said_to_be_so_or_is_none(place: int) -> None:
    disk = bytearray(physical_volume(group_text("")))
    disk[place] ^= 0x40
    found, problems = read_logical_volumes([BytesVolume(bytes(disk))])
    assert found == []
    assert (problems == []) is (place <= 520)
    assert is_physical_volume(BytesVolume(bytes(disk))) is (place > 520)


@pytest.mark.parametrize("place", [0, 10, 24, 44, 50, 512 + 30])
def test_a_damaged_area_is_passed_over(place: int) -> None:
    logical = logical_text("data", segment_text(0, 1, [("pv0", 0)]))
    sound = physical_volume(group_text(logical, devices=("A" * 32, OTHER)), identity=OTHER.encode())
    disk = bytearray(physical_volume(group_text(logical, devices=("A" * 32, OTHER))))
    disk[4 * KIB + place] ^= 0x40
    assert read_logical_volumes([BytesVolume(bytes(disk))]) == ([], [])
    found, problems = read_logical_volumes([BytesVolume(bytes(disk)), BytesVolume(sound)])
    assert ([volume.name for volume in found], problems) == (["vg/data"], [])
    assert found[0].volume is not None


def test_a_text_goes_round_the_end_of_its_area() -> None:
    first, second = vector("lvm2-pv0.bin.gz"), vector("lvm2-pv1.bin.gz")
    assert read_logical_volumes([BytesVolume(first), BytesVolume(second)])[0]
    ring = bytearray(first)
    area = 4 * KIB
    start, length = (int.from_bytes(ring[area + n : area + n + 8], "little") for n in (40, 48))
    text = bytes(ring[area + start : area + start + length])
    size = 4 * KIB  # so small that the text goes on after the header
    ring[area + 512 : area + size] = bytes(size - 512)
    begin = size - 1000
    ring[area + begin : area + size] = text[:1000]
    ring[area + 512 : area + 512 + length - 1000] = text[1000:]
    ring[area + 32 : area + 48] = size.to_bytes(8, "little") + begin.to_bytes(8, "little")
    ring[area : area + 4] = lvm_checksum(bytes(ring[area + 4 : area + 512])).to_bytes(4, "little")
    found, problems = read_logical_volumes([BytesVolume(bytes(ring))])
    assert ([volume.name for volume in found], problems) == (["vg0/root", "vg0/striped", "vg0/spanning"], [])


@pytest.mark.parametrize(
    "text",
    [
        "a {" * 20,
        "a { b { ",
        "}",
        "a",
        "a b",
        "a =",
        "a = {",
        "a = [1, 2",
        "a = [ [ 1 ] ]",
        'a = "open',
        "a = 1 " * 70_000,
        "a" * (MAX_TEXT_BYTES + 1),
        "[" * 1000,
    ],
    ids=lambda text: text[:12],
)
def test_a_description_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(GuestUnreadable):
        parse_text(text)


def test_values_of_a_description() -> None:
    text = 'a = 5 # five\nb = "x \\"y\\" \\\\"\nc { d = [1, "two", -3] e = [] f = 1.5 }\n'
    text += "g = --2\nh = 12345678901234567890123"
    assert parse_text(text) == {
        "a": 5,
        "b": 'x "y" \\',
        "c": {"d": [1, "two", -3], "e": [], "f": "1.5"},
        "g": "--2",
        "h": "12345678901234567890123",
    }


def test_an_extent_without_size_is_refused() -> None:
    text = group_text(logical_text("a", segment_text(0, 1, [("pv0", 0)])))
    [found], _ = read_one(text.replace(b"extent_size = 128", b"extent_size = 0"))
    assert (found.volume, "extent" in found.problem) == (None, True)


def test_a_group_without_a_number_is_a_problem() -> None:
    assert read_one(b'vg { id = "x" }')[0] == []
    assert "seqno" in read_one(b'vg { id = "x" }')[1][0]

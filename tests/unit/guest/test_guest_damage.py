"""Disks with the same random damage each time: only `GuestUnreadable` comes out, after little work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from imsd.guest.disk import read_layout
from imsd.guest.lvm import read_logical_volumes
from imsd.guest.lvm_text import parse_text
from imsd.guest.volume import BytesVolume, GuestUnreadable
from tests.unit.guest.guest_disks import (
    MIB,
    CountingVolume,
    damaged,
    group_text,
    logical_text,
    look_at_all,
    physical_volume,
    segment_text,
    sound_file_systems,
    sound_tables,
)

# Of the bytes that are not zero.
SHARES = (0.0002, 0.001, 0.01)
MAX_READS = 3000
MAX_READ_BYTES = 64 * MIB


KINDS = ("ext4", "ext4 inline", "ext2", "iso9660", "joliet", "xfs", "vfat")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_system_is_read_within_the_budget(kind: str) -> None:
    reader, sound = sound_file_systems()[kind]
    volume = CountingVolume(BytesVolume(sound))
    opened = reader.open(volume)
    assert opened is not None
    assert look_at_all(opened) > 300
    assert volume.reads < MAX_READS


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage_to_a_file_system(kind: str) -> None:
    reader, sound = sound_file_systems()[kind]
    outcomes = set()
    for seed in range(60):
        volume = CountingVolume(damaged(sound, seed, SHARES[seed % len(SHARES)]))
        try:
            opened = reader.open(volume)
            outcomes.add("none" if opened is None else "read" if look_at_all(opened, 60) else "empty")
        except GuestUnreadable:
            outcomes.add("unreadable")
        assert volume.reads < MAX_READS
        assert volume.read_bytes < MAX_READ_BYTES
    assert {"read", "unreadable"} <= outcomes


@pytest.mark.parametrize("kind", sound_tables())
def test_random_damage_to_a_table(kind: str) -> None:
    sound = sound_tables()[kind]
    layouts = set()
    for seed in range(150):
        volume = CountingVolume(damaged(sound, seed, 0.0005 if kind == "lvm" else 0.02))
        layout = read_layout(volume)
        layouts.add((layout.table_kind, len(layout.partitions), len(layout.logical_volumes)))
        assert volume.reads < MAX_READS
    assert len(layouts) > 1, kind


def changes(text: bytes) -> Iterator[bytes]:
    """Texts with a few words doubled, dropped or exchanged."""
    words = text.decode().split(" ")
    for place in range(0, len(words), 2):
        for change in (
            [],
            [words[place]] * 2,
            ["{"],
            ["}"],
            ["["],
            ['"'],
            ["-1"],
            ["99999999999999999999"],
            ["="],
        ):
            yield " ".join(words[:place] + change + words[place + 1 :]).encode()


def test_descriptions_with_words_changed() -> None:
    segments = (segment_text(0, 8, [("pv0", 0)]), segment_text(8, 4, [("pv0", 20), ("pv0", 30)]))
    outcomes = set()
    for text in changes(group_text(logical_text("root", *segments))):
        found, problems = read_logical_volumes([BytesVolume(physical_volume(text))])
        outcomes.add((len(found), bool(problems), any(volume.problem for volume in found)))
    assert {(1, False, False), (1, False, True), (0, True, False)} <= outcomes


@pytest.mark.parametrize(
    "build",
    [
        lambda: "a{" * 200_000,
        lambda: "a=1 " * 100_000,
        lambda: 'a="' + "\\" * 400_000,
        lambda: "a=[" + "1," * 200_000,
        lambda: "#" * 500_000 + "\na",
        lambda: "a=" + "9" * 500_000 + " }",
    ],
)
def test_bombs_of_text_are_refused(build: Callable[[], str]) -> None:
    with pytest.raises(GuestUnreadable):
        parse_text(build())

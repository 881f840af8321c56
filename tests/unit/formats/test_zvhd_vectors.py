"""Files of the format's own published encoder: read bit by bit, at random and front to back."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import pytest

from imsd.formats.detect import detect, head_formats, open_image
from imsd.formats.source import MemorySource
from tests.unit.formats.crafted_zvhd import decoded
from tests.unit.formats.disk_files import LIMIT, LateSource, read_all, read_range, with_fetches

VECTORS = Path(__file__).parent / "vectors" / "zvhd"

# Size and SHA-256 of the disk.
DISKS = {
    "ipxe": (2_097_152, "d3934ddd42ded2879e41cd9667614ec15294b9a3a3a75cb4a4320a3346b168d7"),
    "mixed": (9_437_696, "bbb76136f2e21795936f42347833f2409be2b330e11ec21ce4fb86b685da8c97"),
    "zero-5M512": (5_243_392, "6d135e687ff114dbf34358b8629b220782be1830d804c2412de9bdf65d2019b3"),
}
FILES = [f"{disk}.{name}" for disk in DISKS for name in ("zvhd", "zvhd2")]


def content(file: str) -> bytes:
    return gzip.decompress((VECTORS / f"{file}.gz").read_bytes())


def is_disk_of(file: str, found: bytes) -> bool:
    return (len(found), hashlib.sha256(found).hexdigest()) == DISKS[file.split(".")[0]]


def test_every_vector_has_an_expectation() -> None:
    assert {path.stem for path in VECTORS.glob("*.gz")} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_the_disk_is_read_at_random(file: str) -> None:
    name = file.split(".")[1]
    assert detect(MemorySource(content(file))) == name
    assert head_formats(content(file)) == [name]
    opened = open_image(MemorySource(content(file)), name, LIMIT)
    assert not opened.findings
    found = read_all(opened.blocks)
    assert is_disk_of(file, found)
    for start in (2_097_152 * 4 - 700, 512, 5_000_000):
        expected = found[start : start + 9000]
        assert read_range(opened.blocks, start, len(expected)) == expected


@pytest.mark.parametrize("file", FILES)
def test_the_disk_is_read_from_a_file_whose_bytes_are_late(file: str) -> None:
    source = LateSource(content(file))
    opened, _ = with_fetches(source, lambda: open_image(source, None, LIMIT))
    found, _ = with_fetches(source, lambda: read_all(opened.blocks))
    assert is_disk_of(file, found)


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_the_disk_is_decoded_front_to_back_whatever_arrives_at_once(file: str, resumes: bool) -> None:
    chosen = random.Random(1)
    for longest in (3 << 20, 300_000, 9000):
        found, disk = decoded(
            file.split(".")[1],
            content(file),
            lambda longest=longest: chosen.randrange(1, longest),  # type: ignore[misc]
            resumes=resumes,
        )
        assert not disk.findings
        assert is_disk_of(file, found)

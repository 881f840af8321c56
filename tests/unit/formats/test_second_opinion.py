"""What another inspector calls unsafe is refused: `format_inspector` of oslo.utils, as OpenStack uses it.

It knows fewer formats and looks at less of a file, so it is no measure of what to accept; but nothing that
alarms it may pass, except for what stands in `EXCEPTIONS`.
"""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from oslo_utils.imageutils import format_inspector

from imsd.contract import ImageRefused
from imsd.formats.detect import open_image
from imsd.formats.source import MemorySource
from tests.fuzz.format_targets import MAKERS, REPAIRS, look_at
from tests.fuzz.mutation import damage
from tests.unit.formats.disk_files import LIMIT

VECTORS = Path(__file__).parent / "vectors"
SOUND_FILES = 24
DAMAGED_FILES = 60

# (format that imsd reads, alarm of the other inspector): why imsd accepts such a file all the same.
EXCEPTIONS = {
    ("qcow2", "qcow2: unknown_features"): "extended L2 entries are feature 4, which it takes for unknown",
    ("qcow", "qcow2: unknown_features"): "it takes version 1 for a QCOW2 of an unknown version",
    ("qed", "qed: banned"): "it bans all QED; imsd reads it and refuses its backing files",
    ("iso", "several formats"): "a disc with a boot sector is a hybrid, as most discs are that boot",
    ("iso", "gpt: mbr"): "the boot sector of such a hybrid needs no partitions",
    ("raw", "gpt: mbr"): "a wrong partition table harms the guest alone; inspecting it is another task",
}


def alarms(file: bytes) -> list[str]:
    """What the other inspector has against a file."""
    wrapper = format_inspector.InspectWrapper(io.BytesIO(file))
    while wrapper.read(4096):
        pass
    wrapper.close()
    try:
        found = wrapper.format
    except format_inspector.ImageFormatError:
        return ["several formats"]
    assert found is not None
    try:
        found.safety_check()
    except format_inspector.SafetyCheckFailed as failed:
        return [f"{found}: {name}" for name in failed.failures]
    except format_inspector.ImageFormatError:
        return [f"{found}: incomplete"]
    return []


def accepted_as(file: bytes) -> str | None:
    """The format in which imsd reads all of a file; None when it refuses it."""
    try:
        opened = open_image(MemorySource(file), None, LIMIT)
        look_at(opened.blocks, random.Random(1))
    except ImageRefused:
        return None
    return opened.format_name


def vectors() -> Iterator[bytes]:
    for path in sorted(VECTORS.rglob("*.gz")):
        yield gzip.decompress(path.read_bytes())


def sound_and_damaged() -> Iterator[bytes]:
    for name, make in MAKERS.items():
        for seed in range(SOUND_FILES):
            yield bytes(make(random.Random(seed)))
        for seed in range(DAMAGED_FILES):
            chosen = random.Random(seed)
            changed = damage(chosen, bytearray(make(random.Random(seed % SOUND_FILES))))
            yield REPAIRS[name](changed) if name in REPAIRS and chosen.random() < 0.5 else bytes(changed)


@cache
def verdicts() -> list[tuple[str | None, list[str]]]:
    """What imsd accepts each file as, and its alarms: vectors, sound files of all formats, damaged ones."""
    return [(accepted_as(file), alarms(file)) for files in (vectors(), sound_and_damaged()) for file in files]


def disagreements() -> set[tuple[str, str]]:
    """(format, alarm) of all files that imsd accepts although they alarm."""
    return {(accepted, alarm) for accepted, found in verdicts() if accepted for alarm in found}


def test_what_alarms_another_inspector_is_refused() -> None:
    assert disagreements() <= set(EXCEPTIONS)


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_every_exception_is_needed(exception: tuple[str, str]) -> None:
    assert exception in disagreements()


def test_there_is_enough_to_disagree_about() -> None:
    alarming = [accepted for accepted, found in verdicts() if found]
    assert len(verdicts()) > 900
    assert len(alarming) > 150
    assert alarming.count(None) > 80

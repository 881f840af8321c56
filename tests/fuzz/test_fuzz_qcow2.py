"""A few seconds of damaged QCOW2 files in every run of the suite; `fuzz_qcow2.py` goes on for longer."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_qcow2 import run_one, sound_file, try_file

REASONS = {
    "ok",
    "FORMAT_AMBIGUOUS",
    "FORMAT_UNSUPPORTED",
    "IMAGE_BACKING_FILE",
    "IMAGE_EMPTY",
    "IMAGE_ENCRYPTED",
    "IMAGE_EXTERNAL_DATA_FILE",
    "IMAGE_MALFORMED",
    "IMAGE_MARKED_CORRUPT",
    "IMAGE_TOO_LARGE",
    "IMAGE_TOO_MANY_SNAPSHOTS",
    "IMAGE_TRUNCATED",
    "IMAGE_UNKNOWN_FEATURE",
}


def test_the_files_that_are_damaged_are_sound_before() -> None:
    for seed in range(60):
        chosen = random.Random(seed)
        assert try_file(chosen, bytes(sound_file(chosen))) == "ok", f"of seed {seed}"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 60))
def test_a_damaged_file_is_read_or_refused(seed: int) -> None:
    assert run_one(seed) in REASONS


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 50),
    changes=st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=12)), max_size=6),
    cut=st.integers(0, 1 << 20),
)
def test_a_file_with_any_bytes_in_its_header_is_read_or_refused(
    seed: int, changes: list[tuple[int, bytes]], cut: int
) -> None:
    chosen = random.Random(seed)
    file = sound_file(chosen)
    for offset, content in changes:
        file[offset : offset + len(content)] = content
    assert try_file(chosen, bytes(file[: cut + 1])) in REASONS


def test_every_kind_of_damage_was_reached() -> None:
    endings = {run_one(seed) for seed in range(1500)}
    assert {"ok", "IMAGE_MALFORMED", "IMAGE_TRUNCATED", "IMAGE_BACKING_FILE"} <= endings

"""A few seconds of damaged packages in every run of the suite; `fuzz_packages.py` goes on for longer."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_packages import PACK, run_one, sound_file, try_file

REASONS = {
    "ok",
    "no package",
    "FORMAT_AMBIGUOUS",
    "FORMAT_UNSUPPORTED",
    "IMAGE_BACKING_FILE",
    "IMAGE_EMPTY",
    "IMAGE_EXTERNAL_DATA_FILE",
    "IMAGE_EXPANDS_TOO_MUCH",
    "IMAGE_MALFORMED",
    "IMAGE_TOO_LARGE",
    "IMAGE_TRUNCATED",
    "IMAGE_UNKNOWN_FEATURE",
}


def test_the_files_that_are_damaged_are_sound_before() -> None:
    for seed in range(60):
        file, wrapper = sound_file(random.Random(seed))
        assert try_file(PACK[wrapper](bytes(file))) == "ok", f"of seed {seed}"


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 60))
def test_a_damaged_file_is_taken_apart_or_refused(seed: int) -> None:
    assert run_one(seed) in REASONS


def test_every_kind_of_damage_was_reached() -> None:
    endings = {run_one(seed) for seed in range(1500)}
    assert {"ok", "IMAGE_MALFORMED", "IMAGE_TRUNCATED", "IMAGE_EXTERNAL_DATA_FILE", "no package"} <= endings

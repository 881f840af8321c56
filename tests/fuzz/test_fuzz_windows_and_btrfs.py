"""A few seconds of damaged volumes in every run; `fuzz_windows_and_btrfs.py` goes on for longer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_windows_and_btrfs import run_one, targets
from tests.unit.guest.damage import MAX_READS


def test_the_volumes_that_are_damaged_are_sound_before() -> None:
    # Each was looked at once, and nothing came out.
    assert all(0 < len(reads) < MAX_READS // 10 for _, _, reads in targets())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 60))
def test_a_damaged_volume_is_read_or_unreadable(seed: int) -> None:
    assert run_one(seed) in {"ok", "unreadable"}


def test_both_endings_were_reached() -> None:
    assert {run_one(seed) for seed in range(100)} == {"ok", "unreadable"}

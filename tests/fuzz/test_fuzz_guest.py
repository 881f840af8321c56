"""A few seconds of damaged disks in every run of the suite; `fuzz_guest.py` goes on for longer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_guest import look_into, run_one, sound_disks

ENDINGS = {"read", "nothing", "unreadable"}


def test_the_disks_that_are_damaged_are_sound_before() -> None:
    endings = [look_into(disk) for disk in sound_disks()]
    assert endings == ["read"] * 8 + ["nothing"] * 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 60))
def test_a_damaged_disk_is_looked_into(seed: int) -> None:
    assert run_one(seed) in ENDINGS


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=4096), st.sampled_from([0, 512, 1024, 4096, 32768]))
def test_any_bytes_are_looked_into(content: bytes, start: int) -> None:
    assert look_into(bytes(start) + content) in ENDINGS


def test_every_ending_was_reached() -> None:
    assert {run_one(seed) for seed in range(60)} == ENDINGS

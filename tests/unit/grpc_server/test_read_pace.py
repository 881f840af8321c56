"""Slow readers: how slow is too slow."""

import pytest

from imsd.contract import Unavailable
from imsd.grpc_server.read_pace import (
    IN_FLIGHT_BYTES,
    LONGEST_STALL_SECONDS,
    MIN_BYTES_PER_SECOND,
    STALL_SECONDS,
    ReadPace,
)

MIB = 1 << 20


def test_one_message_every_29_seconds_is_too_slow() -> None:
    pace = ReadPace()
    pace.taken(MIB, 0, 29)
    pace.taken(MIB, 0, 29)
    with pytest.raises(Unavailable, match="less than 64 KiB a second"):
        pace.taken(MIB, 0, 29)


def test_twice_the_least_rate_goes_on_for_ever() -> None:
    pace = ReadPace()
    for _ in range(1000):
        pace.taken(MIB, 0, MIB / (2 * MIN_BYTES_PER_SECOND))
    assert pace.patience_seconds == STALL_SECONDS


def test_a_fast_hour_buys_no_slow_minute() -> None:
    pace = ReadPace()
    for _ in range(3600):
        pace.taken(100 * MIB, 0, 1)
    pace.taken(MIB, 0, 29)
    pace.taken(MIB, 0, 29)
    with pytest.raises(Unavailable):
        pace.taken(MIB, 0, 29)


def test_small_messages_that_are_taken_at_once_are_no_slow_reading() -> None:
    pace = ReadPace()
    for _ in range(100_000):
        pace.taken(300, 0, 0.0005)
    assert pace.patience_seconds == STALL_SECONDS


def test_short_messages_that_stand_for_much_are_given_the_time_it_takes() -> None:
    """2 MiB of the file in 424 bytes each, written to a pipe that takes 4 MiB a second."""
    pace = ReadPace()
    assert pace.patience_seconds == STALL_SECONDS
    for _ in range(1000):
        pace.taken(424, 2 * MIB, 0.0)
    assert pace.patience_seconds > STALL_SECONDS + 1000 * 2 * MIB / (4 * MIB)
    pace.taken(424, 2 * MIB, 500.0)  # the window was full of them
    pace.taken(424, 2 * MIB, 500.0)


def test_what_has_surely_been_read_gives_no_more_time() -> None:
    pace = ReadPace()
    pace.taken(20, 1 << 40, 0.0)
    for _ in range(IN_FLIGHT_BYTES // MIB + 1):
        pace.taken(MIB, MIB, 0.0)
    assert pace.patience_seconds == STALL_SECONDS


def test_what_a_message_stands_for_gives_its_time_once() -> None:
    """A run of 1 GiB of zeros is four and a half hours at the least rate, however it is waited for."""
    pace = ReadPace()
    pace.taken(20, 1 << 30, 0.0)
    for _ in range(int((1 << 30) / MIN_BYTES_PER_SECOND / 1600) - 1):
        pace.taken(256 << 10, 0, 1600.0)
    pace.taken(256 << 10, 0, 1600.0)
    with pytest.raises(Unavailable):
        take_slowly(pace, 3)


def take_slowly(pace: ReadPace, times: int) -> None:
    for _ in range(times):
        pace.taken(256 << 10, 0, 1600.0)


def test_nobody_waits_for_days() -> None:
    pace = ReadPace()
    pace.taken(20, 1 << 50, 0.0)
    assert pace.patience_seconds == LONGEST_STALL_SECONDS

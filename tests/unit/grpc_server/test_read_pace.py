"""Slow readers: how slow is too slow."""

import pytest

from imsd.contract import Unavailable
from imsd.grpc_server.interceptor import MIN_BYTES_PER_SECOND, ReadPace

MIB = 1 << 20


def test_one_message_every_29_seconds_is_too_slow() -> None:
    pace = ReadPace()
    pace.taken(MIB, 29)
    pace.taken(MIB, 29)
    with pytest.raises(Unavailable, match="less than 64 KiB a second"):
        pace.taken(MIB, 29)


def test_twice_the_least_rate_goes_on_for_ever() -> None:
    pace = ReadPace()
    for _ in range(1000):
        pace.taken(MIB, MIB / (2 * MIN_BYTES_PER_SECOND))


def test_a_fast_hour_buys_no_slow_minute() -> None:
    pace = ReadPace()
    for _ in range(3600):
        pace.taken(100 * MIB, 1)
    pace.taken(MIB, 29)
    pace.taken(MIB, 29)
    with pytest.raises(Unavailable):
        pace.taken(MIB, 29)


def test_small_messages_that_are_taken_at_once_are_no_slow_reading() -> None:
    pace = ReadPace()
    for _ in range(100_000):
        pace.taken(300, 0.0005)

import weakref
from typing import Any

import pytest

from imsd.core.job_board import JobBoard
from imsd.core.job_run import JobRun
from tests.unit.metadata.samples import a_job


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_percent_follows_the_phase_and_never_falls() -> None:
    board = JobBoard(Clock())
    live = board.open("job", 1, 0.0)
    board.enter("job", "store", 1000, (10.0, 90.0))
    board.advance("job", 500)
    assert live.percent == pytest.approx(50.0)
    board.advance("job", 100)
    assert live.percent == pytest.approx(50.0)
    board.enter("job", "commit", 0, (20.0, 100.0))
    assert live.percent == pytest.approx(50.0)


def test_more_bytes_than_promised_stay_inside_the_phase() -> None:
    board = JobBoard(Clock())
    live = board.open("job", 1, 0.0)
    board.enter("job", "store", 10, (0.0, 90.0))
    board.advance("job", 1000)
    assert live.percent == pytest.approx(90.0)
    assert (live.bytes_done, live.bytes_total) == (10, 10)


def test_rate_and_eta_come_from_the_last_seconds() -> None:
    clock = Clock()
    board = JobBoard(clock)
    live = board.open("job", 1, 0.0)
    board.enter("job", "store", 10_000, (0.0, 100.0))
    assert (live.rate(), live.eta_seconds()) == (0, 0)
    for second in range(1, 21):
        clock.now += 1
        # slow at first, then a hundred bytes a second
        board.advance("job", second if second < 10 else 100 * second)
    assert live.rate() == pytest.approx(100, rel=0.01)
    assert live.eta_seconds() == 80


def test_a_watcher_is_woken_by_every_change_and_by_the_end() -> None:
    board = JobBoard(Clock())
    board.open("job", 1, 0.0)
    board.enter("job", "store", 10, (0.0, 90.0))
    changed = board.change_of("job")
    assert not changed.is_set()
    board.advance("job", 5)
    assert changed.is_set()
    ended = board.change_of("job")
    board.close("job")
    assert ended.is_set()
    assert board.find("job") is None


def test_a_change_nobody_waits_for_leaves_nothing_on_the_board() -> None:
    board = JobBoard(Clock())
    changed = board.change_of("job")
    assert board.change_of("job") is changed
    forgotten = weakref.ref(changed)
    del changed
    assert forgotten() is None
    board.changed("job")


def test_what_an_earlier_run_did_counts_for_how_far_it_is_and_not_for_the_rate() -> None:
    clock = Clock()
    board = JobBoard(clock)
    live = board.open("job", 2, 0.0)
    board.enter("job", "fetch", 10_000, (0.0, 60.0), 5_000)
    assert (live.bytes_done, live.rate()) == (5_000, 0)
    assert live.percent == pytest.approx(30.0)
    clock.now += 1
    board.advance("job", 5_100)
    assert (live.rate(), live.eta_seconds()) == (100, 49)


def test_spans_are_of_what_is_left_after_what_came_before() -> None:
    board = JobBoard(Clock())
    live = board.open("job", 1, 0.0)
    runtime: Any = None
    run = JobRun(runtime, board, a_job(id="job"))
    run.enter("fetch", 100, (0.0, 60.0))
    run.advance(100)
    assert live.percent == pytest.approx(60.0)
    run.begin_at(60.0)
    run.enter("store", 100, (20.0, 100.0))
    assert live.percent == pytest.approx(68.0)
    run.advance(50)
    assert live.percent == pytest.approx(84.0)

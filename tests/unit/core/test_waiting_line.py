from imsd.core.waiting_line import WaitingLine


def test_positions_follow_the_order_of_arrival() -> None:
    line = WaitingLine()
    for job_id in ("a", "b", "c"):
        line.join(job_id)
    line.join("a")
    assert [line.position(job_id) for job_id in ("a", "b", "c", "x")] == [1, 2, 3, 0]
    line.leave("b")
    line.leave("b")
    assert "b" not in line
    assert [line.position(job_id) for job_id in ("a", "b", "c")] == [1, 0, 2]

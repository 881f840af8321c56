"""What people read: sizes, times, progress, tables."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from imsctl import output, wording
from imsctl.image_output import preflight
from imsctl.json_fields import enum_text, enum_texts, enum_value
from imsctl.progress import BarView, LineView, NoProgress, Snapshot, TransferMeter, job_snapshot

from imsd.v1 import guest_pb2, image_pb2, job_pb2

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 * MIB, "10 MiB"),
        (1023.9 * 1024, "1.0 MiB"),
        (4 << 30, "4.0 GiB"),
        (64 << 40, "64 TiB"),
        (9 << 60, "9216 PiB"),
    ],
)
def test_sizes(size_bytes: float, text: str) -> None:
    assert wording.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3905, "1 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_times_for_programs_are_utc_or_null() -> None:
    assert wording.rfc3339(Timestamp(seconds=1_767_268_800, nanos=5000)) == "2026-01-01T12:00:00.000005Z"
    assert wording.rfc3339(Timestamp()) is None


def test_enums_are_written_as_users_write_them() -> None:
    assert enum_text(image_pb2.DiskFormat, image_pb2.DISK_FORMAT_QCOW2) == "qcow2"
    assert enum_text(image_pb2.DiskFormat, 0) == ""
    assert enum_value(image_pb2.DiskFormat, "qcow2") == image_pb2.DISK_FORMAT_QCOW2
    assert enum_value(image_pb2.DiskFormat, "floppy") is None
    assert "pending_delete" in enum_texts(image_pb2.ImageStatus)


def test_a_snapshot_reads_as_one_line() -> None:
    snapshot = Snapshot("store", 42.3, 512 * MIB, 1228 * MIB, 430 * MIB, 2)
    assert snapshot.numbers() == " 42 % 512 MiB of 1.2 GiB, 430 MiB/s, 2 s left"
    assert Snapshot("upload", None, 5 * MIB).numbers() == "5.0 MiB"


@pytest.mark.parametrize(
    ("committed", "staged", "text"),
    [
        (3 * MIB, 5 * MIB, "the upload is kept, with at least 3.0 MiB of the file"),
        # A file that is read where it lies counts as arrived when all of its disk is stored.
        (0, 5 * MIB, "the upload is kept, with up to 5.0 MiB in the store, which are not stored again"),
        (0, 0, "the upload is kept, with nothing of the file yet"),
    ],
)
def test_what_is_kept_of_an_upload(committed: int, staged: int, text: str) -> None:
    assert wording.kept(committed, staged) == text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_is_that_of_the_last_seconds_and_ignores_what_was_there_before() -> None:
    clock = Clock()
    meter = TransferMeter("upload", 1000 * MIB, begin=500 * MIB, clock=clock)
    for _ in range(10):
        clock.now += 1
        last = meter.at(500 * MIB + int((clock.now - 100) * 10 * MIB))
    assert last.rate == pytest.approx(10 * MIB)
    assert last.eta_seconds == pytest.approx(40)
    assert last.percent == pytest.approx(60)


@pytest.mark.parametrize(
    ("total", "seconds", "done", "is_told"),
    [
        (4 << 30, 11, 120, False),
        (4 << 30, 0.9, 40 * MIB, False),
        (4 << 30, 1, 1 * MIB, True),
        (100_000, 1, 999, False),
        (100_000, 1, 1000, True),
        (0, 1, 120, False),
    ],
)
def test_a_rate_is_told_once_enough_was_seen(total: int, seconds: float, done: int, is_told: bool) -> None:
    clock = Clock()
    meter = TransferMeter("convert", total, begin=50, clock=clock)
    clock.now += seconds
    snapshot = meter.at(50 + done)
    assert (snapshot.rate > 0) is is_told
    assert (snapshot.eta_seconds > 0) is (is_told and total > 0)


def test_lines_come_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    row = LineView(clock).row()
    for step in range(61):
        clock.now = 100 + step / 10
        row.show(Snapshot("upload", step))
    assert capsys.readouterr().err == "upload 30 %\nupload 60 %\n"


def test_bars_appear_only_for_what_takes_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = BarView(clock)
    row = view.row()
    row.show(Snapshot("upload", 10))
    assert capsys.readouterr().err == ""
    clock.now += 1
    row.show(Snapshot("upload", 50, 5 * MIB, 10 * MIB))
    row.show(Snapshot("store", 90, 9 * MIB, 10 * MIB))
    view.close()
    assert "9.0 MiB of 10 MiB" in capsys.readouterr().err


def test_no_progress_still_shows_notes(capsys: pytest.CaptureFixture[str]) -> None:
    view = NoProgress()
    view.row("x").show(Snapshot("upload", 10))
    view.note("resuming")
    assert capsys.readouterr().err == "resuming\n"


def test_a_queued_job_says_its_place() -> None:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_INIT)
    job.progress.phase, job.progress.queue_position = "queued", 3
    assert "number 3 in the queue" in job_snapshot(job).numbers()


def test_tables_align_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("NAME", "SIZE>"), [("a", "1 B"), ("long\nname", "100 MiB")])
    assert capsys.readouterr().out == "NAME          SIZE\na              1 B\nlong\ufffdname  100 MiB\n"


@pytest.mark.parametrize(
    ("severities", "text"),
    [
        ([], "nothing found against booting"),
        (["ADVICE"], "nothing found against booting"),
        (["MAY_BLOCK_BOOT"], "may not work: 1 finding, see `imsctl image inspect 42`"),
        (["MAY_BLOCK_BOOT"] * 2, "may not work: 2 findings, see `imsctl image inspect 42`"),
        (["BLOCKS_BOOT", "MAY_BLOCK_BOOT"], "will not boot: 1 finding, see `imsctl image inspect 42`"),
    ],
)
def test_a_preflight_says_the_worst_and_where_to_look(severities: list[str], text: str) -> None:
    values = [guest_pb2.GuestFinding.Severity.Value(f"SEVERITY_{name}") for name in severities]
    findings = [guest_pb2.GuestFinding(severity=value) for value in values]
    guest = guest_pb2.GuestReport(is_verified=True, findings=findings)
    assert preflight(image_pb2.Image(id="42", guest=guest)) == text


def test_a_preflight_of_what_was_not_looked_at_says_nothing() -> None:
    assert preflight(image_pb2.Image(id="42", kind=image_pb2.IMAGE_KIND_SYSTEM_DISK)) == ""


def test_a_system_disk_without_a_system_is_told() -> None:
    guest = guest_pb2.GuestReport(is_inspected=True)
    image = image_pb2.Image(id="42", kind=image_pb2.IMAGE_KIND_SYSTEM_DISK, guest=guest)
    assert preflight(image) == "no system was found in it, see `imsctl image inspect 42`"
    image.kind = image_pb2.IMAGE_KIND_DATA_DISK
    assert preflight(image) == ""


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("unix:", "unix socket"),
        ("ipv4:192.0.2.7:4711", "192.0.2.7:4711"),
        ("ipv6:%5B::1%5D:4711", "[::1]:4711"),
        ("somewhere", "somewhere"),
    ],
)
def test_where_a_call_came_from_is_an_address(told: str, text: str) -> None:
    assert wording.peer(told) == text


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))


LONG = "a text that is as long as texts are that say something"


def test_a_table_that_is_wider_than_the_terminal_has_its_long_texts_in_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 60)
    output.print_table(("NAME", "WHAT", "SIZE>"), [("first-of-all", LONG, "2.0 GiB"), ("b", "short", "1 B")])
    assert capsys.readouterr().out == (
        "NAME          WHAT                                      SIZE\n"
        "first-of-all  a text that is as long as texts are    2.0 GiB\n"
        "              that say something\n"
        "b             short                                      1 B\n"
    )


def test_times_sizes_and_words_are_never_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 20)
    row = ("2026-11-27 18:33:25", "2.0 GiB", "3f0c2f6e-5b0e-4a6e-9d5b-0c4f0a5d8f11")
    output.print_table(("TIME", "SIZE", "ID"), [row])
    assert capsys.readouterr().out.splitlines()[1] == "  ".join(row)


def test_a_table_for_a_program_has_a_row_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    output.print_table(("NAME", "WHAT"), [("a" * 30, LONG)])
    assert capsys.readouterr().out.splitlines()[1] == f"{'a' * 30}  {LONG}"


def test_a_long_field_goes_on_below_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 40)
    output.print_fields({"name": "x", "because": LONG})
    assert capsys.readouterr().out == (
        "name     x\nbecause  a text that is as long as texts\n         are that say something\n"
    )


def test_what_is_copied_and_typed_stays_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 40)
    output.print_fields({"name": LONG, "start": LONG}, whole={"start"})
    assert capsys.readouterr().out == (
        f"name   a text that is as long as texts\n       are that say something\nstart  {LONG}\n"
    )


def test_a_job_that_was_cancelled_is_not_called_done() -> None:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_CANCELLED, progress=job_pb2.Progress(phase="done", percent=57))
    assert job_snapshot(job).phase == "cancelled"

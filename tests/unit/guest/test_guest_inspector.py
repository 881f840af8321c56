"""Inspecting in a confined process: what it answers, and that whatever it does becomes a report."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from imsd.contract import DataLoss
from imsd.formats.raw import RawBlocks
from imsd.formats.source import MemorySource
from imsd.guest.budget import Budget
from imsd.guest.inspector import GuestInspector, InspectionLimits, Read, inspect_disk
from imsd.guest.report import GuestReport
from imsd.guest.spawner_link import CannotInspect
from imsd.guest.system_calls import CALLS

EMPTY_DISK = bytes(1 << 20)
BAD = "tests.unit.guest.bad_children:"


def reader(disk: bytes) -> Read:
    async def read(offset: int, length: int) -> bytes:
        return disk[offset : offset + length]

    return read


@asynccontextmanager
async def inspecting(job: str = "", limits: InspectionLimits | None = None) -> AsyncIterator[GuestInspector]:
    inspector = GuestInspector(limits, BAD + job) if job else GuestInspector(limits)
    try:
        yield inspector
    finally:
        await inspector.close()


async def report_of(job: str, limits: InspectionLimits | None = None) -> GuestReport:
    async with inspecting(job, limits) as inspector:
        return await inspector.inspect(len(EMPTY_DISK), reader(EMPTY_DISK))


def reason_in(report: GuestReport) -> str:
    assert not report.is_inspected
    assert [each.code for each in report.findings] == ["GUEST_NOT_INSPECTED"]
    return report.findings[0].message


async def test_an_empty_disk_is_inspected_and_has_no_system() -> None:
    async with inspecting() as inspector:
        await inspector.start()
        report = await inspector.inspect(len(EMPTY_DISK), reader(EMPTY_DISK))
    assert report.is_inspected
    assert not report.is_verified
    assert "GUEST_NO_SYSTEM" in {each.code for each in report.findings}


async def test_a_disk_without_a_byte_is_inspected_too() -> None:
    async with inspecting() as inspector:
        report = await inspector.inspect(0, reader(b""))
    assert report.is_inspected


def test_a_disk_at_hand_is_inspected_without_a_loop() -> None:
    report = inspect_disk(RawBlocks(MemorySource(EMPTY_DISK)))
    assert report.is_inspected
    assert "GUEST_NO_SYSTEM" in {each.code for each in report.findings}


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("die", "ended before its report"),
        ("die_unasked", "ended before its report"),
        ("raise_error", "ended before its report"),
        ("eat_memory", "ended before its report"),
        ("send_garbage", "no request"),
        ("report_no_json", "no JSON"),
        ("report_deep_json", "no report"),
        ("report_wrong_types", "no report"),
        ("report_too_long", "a report of 4294967295 bytes"),
        ("report_half", "ended before its report"),
        ("read_beyond", "asked for 2 bytes at 1048575"),
        ("read_a_lot_at_once", "asked for 1048577 bytes"),
    ],
)
async def test_a_process_that_goes_wrong_becomes_a_report(job: str, reason: str) -> None:
    assert reason in reason_in(await report_of(job))


@pytest.mark.parametrize("job", ["loop", "loop_deaf", "sleep"])
async def test_a_process_that_never_ends_is_ended(job: str) -> None:
    report = await report_of(job, InspectionLimits(seconds=0.5))
    assert "longer than 0.5 seconds" in reason_in(report)


async def test_an_inspection_ends_with_its_processor_time() -> None:
    report = await report_of("inspect_for_ever", InspectionLimits(cpu_seconds=0.2))
    assert "processor time" in reason_in(report)


@pytest.mark.parametrize("budget", [Budget(reads=100), Budget(read_bytes=1 << 20)])
async def test_a_process_that_reads_for_ever_is_ended(budget: Budget) -> None:
    report = await report_of("read_for_ever", InspectionLimits(budget))
    assert "more than it may read" in reason_in(report)


async def test_an_inspection_that_needs_more_reads_than_it_has_reports_what_it_knows() -> None:
    async with inspecting(limits=InspectionLimits(Budget(reads=1))) as inspector:
        report = await inspector.inspect(1 << 30, reader(bytes(1 << 30)))
    assert report.is_inspected
    assert "GUEST_PARTLY_INSPECTED" in {each.code for each in report.findings}


async def test_a_confined_process_can_do_nothing_but_answer() -> None:
    report = await report_of("tell_what_it_can_do")
    user = 65534 if os.getuid() == 0 else os.getuid()
    assert report.evidence == ("environment:0", f"user:{user}", "descriptors:1")


async def failing_read(_offset: int, _length: int) -> bytes:
    raise DataLoss("a chunk is missing")


async def short_read(_offset: int, _length: int) -> bytes:
    return b"x"


async def slow_read(_offset: int, _length: int) -> bytes:
    raise TimeoutError


@pytest.mark.parametrize(
    ("read", "reason"),
    [(failing_read, "a chunk is missing"), (short_read, "gave 1 bytes"), (slow_read, "in time")],
)
async def test_a_disk_that_cannot_be_read_becomes_a_report(read: Read, reason: str) -> None:
    async with inspecting("read_one_byte") as inspector:
        assert reason in reason_in(await inspector.inspect(1 << 20, read))


@pytest.mark.parametrize("size", [-1, 1 << 63])
async def test_a_size_that_no_disk_has_becomes_a_report(size: int) -> None:
    async with inspecting() as inspector:
        assert "a disk of" in reason_in(await inspector.inspect(size, reader(b"")))


@pytest.mark.parametrize("job", ["no_such_function", "x:y"])
async def test_an_inspector_that_does_not_start_says_so(job: str) -> None:
    async with inspecting(job) as inspector:
        with pytest.raises(CannotInspect, match="does not start"):
            await inspector.start()
        assert "does not start" in reason_in(await inspector.inspect(1 << 20, reader(EMPTY_DISK)))


def descendants(pid: int) -> set[int]:
    """The processes below ``pid``, those that have ended but for their parent's notice left out."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.add(int(path.parent.name))
    return found.union(*(descendants(child) for child in found))


def children_of_this_process() -> set[int]:
    return descendants(os.getpid())


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_a_spawner_that_was_killed_is_started_again() -> None:
    before = children_of_this_process()
    async with inspecting("read_one_byte") as inspector:
        await inspector.start()
        [spawner] = children_of_this_process() - before
        os.kill(spawner, signal.SIGKILL)
        report = await inspector.inspect(1 << 20, reader(EMPTY_DISK))
    assert report.is_inspected


async def test_an_inspection_ends_well_when_the_whole_service_is_told_to_stop() -> None:
    before = children_of_this_process()

    async def read(offset: int, length: int) -> bytes:
        for process in children_of_this_process() - before:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        return EMPTY_DISK[offset : offset + length]

    async with inspecting() as inspector:
        report = await inspector.inspect(len(EMPTY_DISK), read)
    assert report.is_inspected


async def test_nothing_is_left_after_a_cancelled_inspection_and_a_close() -> None:
    before = children_of_this_process()
    descriptors = open_descriptors()
    async with inspecting("sleep") as inspector:
        await inspector.start()
        inspection = asyncio.create_task(inspector.inspect(1 << 20, reader(EMPTY_DISK)))
        await until(lambda: len(children_of_this_process() - before) == 2)
        inspection.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inspection
        await until(lambda: len(children_of_this_process() - before) == 1)
    assert children_of_this_process() <= before
    assert open_descriptors() == descriptors


async def test_a_closed_inspector_inspects_nothing() -> None:
    async with inspecting("sleep") as inspector:
        await inspector.start()
        inspection = asyncio.create_task(inspector.inspect(1 << 20, reader(EMPTY_DISK)))
        before = children_of_this_process()
        await until(lambda: len(children_of_this_process() - before) == 1)
    assert "ended before its report" in reason_in(await inspection)
    assert "closed" in reason_in(await inspector.inspect(1 << 20, reader(EMPTY_DISK)))


def test_both_kinds_of_machines_are_left_the_same_calls() -> None:
    names = [set(calls) for _, calls in CALLS.values()]
    assert names[0] == names[1]
    assert all(len(set(calls.values())) == len(calls) for _, calls in CALLS.values())


async def test_inspections_run_side_by_side_and_take_turns() -> None:
    async with inspecting("read_one_byte", InspectionLimits(processes=2)) as inspector:
        running, most = 0, 0

        async def read(offset: int, length: int) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1
            return EMPTY_DISK[offset : offset + length]

        reports = await asyncio.gather(*(inspector.inspect(1 << 20, read) for _ in range(6)))
    assert all(report.is_inspected for report in reports)
    assert most == 2


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)

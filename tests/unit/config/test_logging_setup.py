"""What a log line looks like."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from imsd.logging_setup import set_up_logging


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    for name in ("grpc", "asyncio", "alembic"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_the_ids_at_work() -> None:
    stream = io.StringIO()
    set_up_logging("json", "info", stream)
    structlog.contextvars.bind_contextvars(job_id="j1")
    structlog.get_logger("imsd.core").info("stored", blobs=3)
    (line,) = lines(stream)
    assert line["event"] == "stored"
    assert (line["job_id"], line["blobs"], line["level"]) == ("j1", 3, "info")
    assert line["logger"] == "imsd.core"
    assert line["timestamp"].endswith("Z")


def test_what_libraries_log_takes_the_same_way() -> None:
    stream = io.StringIO()
    set_up_logging("json", "info", stream)
    logging.getLogger("sqlalchemy").warning("pool %s", "full", extra={"size": 5})
    logging.getLogger("grpc").warning("a client went away")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["size"]) == ("pool full", "sqlalchemy", 5)


def test_levels_below_the_chosen_one_are_silent() -> None:
    stream = io.StringIO()
    set_up_logging("json", "warning", stream)
    structlog.get_logger("imsd").info("quiet")
    structlog.get_logger("imsd").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_a_traceback_holds_no_local_variables() -> None:
    stream = io.StringIO()
    set_up_logging("json", "info", stream)

    def fail() -> None:
        password = "hush"
        raise ValueError(len(password))

    try:
        fail()
    except ValueError:
        structlog.get_logger("imsd").exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "hush" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_of_a_group_holds_no_local_variables(log_format: str) -> None:
    """As of a `TaskGroup`: the errors in it have tracebacks of their own."""
    stream = io.StringIO()
    set_up_logging(log_format, "info", stream)

    async def fail() -> None:
        password = "hush"
        raise ValueError(len(password))

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    try:
        asyncio.run(both())
    except BaseExceptionGroup:
        structlog.get_logger("imsd").exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "'hush'" not in stream.getvalue()


def test_a_person_gets_text() -> None:
    stream = io.StringIO()
    set_up_logging("console", "info", stream)
    structlog.get_logger("imsd").info("stored", blobs=3)
    text = stream.getvalue()
    assert "stored" in text
    assert "blobs=3" in text
    assert "\x1b" not in text


class Silent:
    """What says nothing of itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class SilentError(Exception):
    """One whose traceback cannot be told."""

    __notes__ = 5  # type: ignore[assignment]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("value", [Silent(), {("a", 1): 2}, {"deep": [Silent()]}])
def test_what_cannot_be_told_keeps_no_line_away_and_reaches_nobody_who_logs(
    log_format: str, value: object
) -> None:
    stream = io.StringIO()
    set_up_logging(log_format, "info", stream)
    structlog.get_logger("imsd.core").info("stored", blobs=3, what=value)
    logging.getLogger("sqlalchemy").warning("pool full", extra={"what": value, "size": 5})
    first, second = stream.getvalue().splitlines()
    assert all(said in first for said in ("stored", "blobs", "3", "imsd.core"))
    assert all(said in second for said in ("pool full", "size", "5"))


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_error_that_cannot_be_told_leaves_a_line(log_format: str) -> None:
    stream = io.StringIO()
    set_up_logging(log_format, "info", stream)
    try:
        raise SilentError
    except SilentError:
        structlog.get_logger("imsd").exception("failed", what={(1, 2): 3})
    assert "failed" in stream.getvalue()


def test_a_traceback_is_told_beside_what_cannot_be() -> None:
    stream = io.StringIO()
    set_up_logging("json", "info", stream)
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger("imsd").exception("failed", what=Silent())
    (line,) = lines(stream)
    assert (line["exception"][0]["exc_value"], line["what"]) == ("why", "<Silent>")

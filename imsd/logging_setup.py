"""Logs: one event a line on standard error, as text for a person or as JSON for a machine.

Events are made by structlog; what libraries log through the standard library takes the same way. Ids
of the call and the job at work are bound by `structlog.contextvars` and appear in every line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

# grpc reports every client that goes away, asyncio every slow callback; alembic each of its steps.
QUIET = {"grpc": logging.ERROR, "asyncio": logging.WARNING, "alembic": logging.WARNING}

# Values of these kinds can always be told.
PLAIN = frozenset((str, int, float, bool, type(None)))


def set_up_logging(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Send every log line to ``stream`` (standard error). ``log_format``: "console" or "json"."""
    out = stream or sys.stderr
    level = logging.getLevelNamesMapping()[log_level.upper()]
    render = _Rendering(_rendering(log_format, out))
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    # Not by way of the standard library, which takes five times as long: every call leaves a line.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_logger_name,
            stamp,
            render,
        ],
        logger_factory=lambda *names: _Lines(out, *names),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                stamp,
                structlog.stdlib.ExtraAdder(),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, at_least in QUIET.items():
        logging.getLogger(name).setLevel(max(level, at_least))
    logging.captureWarnings(True)


class _Lines:
    """What structlog gives its lines to: written whole, as the standard library's handlers do."""

    def __init__(self, out: TextIO, name: str = "") -> None:
        self._out = out
        self.name = name

    def msg(self, line: str) -> None:
        try:
            self._out.write(f"{line}\n")
            self._out.flush()
        except (OSError, ValueError):  # nobody reads it, or it is closed: no reason to fail what is logged
            return

    debug = info = warning = error = critical = msg


class _Rendering:
    """An event as a line. One that cannot be told is told as far as it can: no error reaches who logs."""

    def __init__(self, steps: Sequence[Processor]) -> None:
        self._steps = steps

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        for of_it in (dict, _plain_values, _without_error):
            try:
                line: Any = of_it(event)  # steps change what they are given
                for step in self._steps:
                    line = step(logger, method, line)
                return str(line)
            except Exception as error:  # of a value that says nothing of itself, or cannot be a key
                event = {**event, "logging_error": type(error).__name__}
        return "an event that cannot be told"


def _plain_values(event: EventDict) -> EventDict:
    """Instead of other values their kinds; the error that is logged is kept."""
    return {
        key: value if type(value) in PLAIN or key == "exc_info" else f"<{type(value).__name__}>"
        for key, value in event.items()
    }


def _without_error(event: EventDict) -> EventDict:
    return {key: value for key, value in _plain_values(event).items() if key != "exc_info"}


def _add_logger_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _rendering(log_format: str, out: TextIO) -> list[Processor]:
    if log_format == "json":
        return [
            # Local variables may hold bytes of images and secrets, those of errors in a group too.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(default=str),
        ]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]

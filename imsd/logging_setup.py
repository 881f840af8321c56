"""Logs: one event a line on standard error, as text for a person or as JSON for a machine.

Events are made by structlog; what libraries log through the standard library takes the same way. Ids
of the call and the job at work are bound by `structlog.contextvars` and appear in every line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# grpc reports every client that goes away, asyncio every slow callback; alembic each of its steps.
QUIET = {"grpc": logging.ERROR, "asyncio": logging.WARNING, "alembic": logging.WARNING}


def set_up_logging(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Send every log line to ``stream`` (standard error). ``log_format``: "console" or "json"."""
    out = stream or sys.stderr
    level = logging.getLevelNamesMapping()[log_level.upper()]
    rendering = _rendering(log_format, out)
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    # Not by way of the standard library, which takes five times as long: every call leaves a line.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_logger_name,
            stamp,
            *rendering,
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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
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


def _add_logger_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _rendering(log_format: str, out: TextIO) -> list[Processor]:
    if log_format == "json":
        return [
            structlog.processors.dict_tracebacks,
            _without_locals,
            structlog.processors.JSONRenderer(default=str),
        ]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]


def _without_locals(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop local variables from tracebacks: they may hold bytes of images and secrets."""
    for stack in event.get("exception", ()):
        if isinstance(stack, Mapping):
            for frame in stack.get("frames", ()):
                _forget(frame, "locals")
    return event


def _forget(frame: Any, key: str) -> None:
    if isinstance(frame, dict):
        frame.pop(key, None)

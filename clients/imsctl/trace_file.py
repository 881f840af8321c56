"""Exported traces in a file, one JSON object a line: going on with one, and checking one."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from ims_client import ClientError, LocalFileFailed, cannot_read

from imsd.trace_chain import Seal, SealKey, time_of
from imsd.trace_check import ChainCheck, Link
from imsd.v1 import trace_pb2

from .trace_json import seal_fields, trace_fields

Entry = trace_pb2.Trace | trace_pb2.TraceSeal
Entries = AsyncIterator[Entry]

# A trace with the longest details has less.
MAX_LINE: Final = 1 << 20

# Of a trace and of a seal, as `line_of` writes them.
_BEGINNINGS: Final = (b'{"id": "', b'{"project_id": "')

_TEXTS: Final = ("id", "project_id", "time", "name", "previous_hash", "hash")
_SEAL_TEXTS: Final = ("project_id", "hash", "sealed_at", "key_id", "mac")


@dataclass
class TraceFile:
    """A file that is open for appending. ``sequence``, ``hash``: of its last trace, 0 and empty for none."""

    path: Path
    out: BinaryIO
    sequence: int
    hash: str
    is_sealed: bool
    added: int = 0

    async def append(self, entries: Entries) -> None:
        """Write what comes after the last trace; ``entries`` begin with that very trace, if there is one.

        Raises ClientError (DATA_LOSS) when they do not go on from it, LocalFileFailed.
        """
        has_met = not self.sequence
        try:
            async for entry in entries:
                if isinstance(entry, trace_pb2.TraceSeal):
                    self._add_seal(entry)
                elif entry.sequence == self.sequence and not has_met:
                    self._require(entry.hash == self.hash, f"trace {self.sequence} is another one there")
                    has_met = True
                else:
                    self._add_trace(entry)
                    has_met = True
            self._require(has_met, f"its chain ends before trace {self.sequence}")
        finally:
            self._sync()

    def _add_trace(self, trace: trace_pb2.Trace) -> None:
        if self.sequence:
            number = trace.sequence
            self._require(number > self.sequence, f"trace {number} comes again there")
            self._require(number == self.sequence + 1, f"what came before trace {number} is gone there")
            self._require(
                trace.previous_hash == self.hash, f"trace {number} does not follow from the last one"
            )
        self._write(trace)
        self.sequence, self.hash, self.is_sealed = trace.sequence, trace.hash, False
        self.added += 1

    def _add_seal(self, seal: trace_pb2.TraceSeal) -> None:
        is_of_last = seal.sequence == self.sequence and seal.hash == self.hash
        if (is_of_last and not self.is_sealed) or not self.sequence:
            self._write(seal)
            self.is_sealed = True

    def _require(self, holds: bool, why: str) -> None:
        if not holds:
            raise ClientError(
                "DATA_LOSS",
                f"the daemon's traces do not go on from {self.path}: {why}",
                "look with `imsctl trace verify` what happened there, keep the file, and begin another",
            )

    def _write(self, entry: Entry) -> None:
        try:
            self.out.write(line_of(entry))
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def _sync(self) -> None:
        try:
            self.out.flush()
            os.fsync(self.out.fileno())
        except OSError as error:
            raise _cannot_write(self.path, error) from error


@contextmanager
def appending(path: Path) -> Iterator[TraceFile]:
    """Open a file of traces, or a new one, to go on with it. A last line that was cut short goes.

    Raises LocalFileFailed for a file that is none, or that another export goes on with.
    """
    try:
        with open(path, "a+b") as out:
            _lock(out, path)
            end = _end_of_lines(out)
            sequence, hash, is_sealed = _last_trace(out, path, end)
            _require_cut_line(out, path, end)
            out.truncate(end)
            yield TraceFile(path, out, sequence, hash, is_sealed)
    except OSError as error:
        raise _cannot_write(path, error) from error


def line_of(entry: Entry) -> bytes:
    """An entry of an export as a line of the file."""
    fields = seal_fields(entry) if isinstance(entry, trace_pb2.TraceSeal) else trace_fields(entry)
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def check_file(path: Path, key: SealKey | None) -> ChainCheck:
    """Check a file of traces, which may begin anywhere in their chain. Raises LocalFileFailed."""
    check, project_id = ChainCheck(key, is_part=True), ""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(_lines(file, path), 1):
                fields = _parsed(line, path, number)
                project_id = project_id or fields["project_id"]
                if fields["project_id"] != project_id:
                    raise _no_traces(path, number, "it is of another project than the lines before")
                try:
                    _add(check, fields)
                except ValueError:  # a text that cannot be written as UTF-8, a number of a million digits
                    raise _no_traces(path, number, "it is neither a trace nor a seal") from None
    except OSError as error:
        raise cannot_read(path, error) from error
    return check


def _add(check: ChainCheck, fields: dict[str, Any]) -> None:
    if "mac" in fields:
        check.add_seal(Seal(**{**fields, "sealed_at": time_of(fields["sealed_at"])}))
    else:
        check.add(Link.of(fields))


def read_key(path: Path) -> SealKey:
    """Raises LocalFileFailed."""
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error
    if len(secret) != 32:
        raise LocalFileFailed(
            f"{path} is no key of seals", "it is the file trace-key of the daemon's state directory"
        )
    return SealKey(secret)


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if not line.endswith(b"\n"):
            raise _no_traces(path, number, "it has no end")
        yield line


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """A trace or a seal. Raises LocalFileFailed."""
    try:
        fields = json.loads(line)
        texts = _SEAL_TEXTS if "mac" in fields else _TEXTS
        is_right = type(fields["sequence"]) is int and all(isinstance(fields[name], str) for name in texts)
        if "mac" in fields:
            is_right = is_right and set(fields) == {*_SEAL_TEXTS, "sequence"}
            time_of(fields["sealed_at"])
        else:
            is_right = is_right and all(isinstance(value, str) for value in fields["details"].values())
            time_of(fields["time"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        is_right = False
    if not is_right:
        raise _no_traces(path, number, "it is neither a trace nor a seal")
    return dict(fields)


def _lock(out: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(out.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LocalFileFailed(f"another export writes to {path}", "let it end first") from None


def _end_of_lines(out: BinaryIO) -> int:
    """Where the last whole line ends."""
    size = out.seek(0, os.SEEK_END)
    start = max(0, size - MAX_LINE)
    out.seek(start)
    return start + out.read(size - start).rfind(b"\n") + 1


def _last_trace(out: BinaryIO, path: Path, end: int) -> tuple[int, str, bool]:
    """Number and hash of the last trace before ``end``, and whether its seal follows."""
    start = max(0, end - 2 * MAX_LINE)
    out.seek(start)
    lines = out.read(end - start).splitlines()
    is_sealed = False
    for line in reversed(lines):
        fields = _parsed(line, path, 0)
        if "mac" not in fields:
            return fields["sequence"], fields["hash"], is_sealed
        is_sealed = True
    if lines:
        raise _no_traces(path, 0, "there is no trace in it")
    return 0, "", False


def _require_cut_line(out: BinaryIO, path: Path, end: int) -> None:
    """What stands behind the last whole line must be the beginning of one that an export wrote."""
    out.seek(end)
    found = out.read(max(map(len, _BEGINNINGS)))
    if not any(begin.startswith(found) or found.startswith(begin) for begin in _BEGINNINGS):
        raise _no_traces(path, 0, "its end is none")


def _no_traces(path: Path, number: int, why: str) -> LocalFileFailed:
    where = f"line {number} of {path}" if number else str(path)
    return LocalFileFailed(
        f"{where} is no line of exported traces: {why}", "name a file that `imsctl trace export` wrote"
    )


def _cannot_write(path: Path, error: OSError) -> LocalFileFailed:
    return LocalFileFailed(
        f"cannot write {path}: {os.strerror(error.errno) if error.errno else error}",
        "choose a place where you may write, and make room there",
    )

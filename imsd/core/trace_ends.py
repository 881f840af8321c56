"""Where each chain of traces ended, remembered outside the database.

A chain proves that nobody changed what it holds, but not that it holds all: who cuts off its end, or puts an
older copy of the database in place, leaves a chain that was whole once. So the daemon compares each chain
with the end that it saw last, which a file beside its key keeps, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import FailedPrecondition, run_blocking
from imsd.metadata import traces as rows
from imsd.metadata.trace_writing import ChainHead
from imsd.metadata.traces import ChainEnd
from imsd.trace_chain import GENESIS

from .chain_writer import ChainWriter, Growth, doubting
from .runtime import Runtime
from .state_directory import write_durably

log = structlog.get_logger(__name__)

# Chains that are looked at in one statement.
BATCH: Final = 500

Ends = dict[str, ChainEnd]

# Of a chain that has not begun.
_NONE: Final = ChainEnd(0, GENESIS)


class TraceEnds:
    """``file`` None: they are remembered as long as the daemon runs. A crash loses those of a minute."""

    def __init__(self, runtime: Runtime, chains: ChainWriter, file: Path | None) -> None:
        self._runtime = runtime
        self._chains = chains
        self._file = file
        self._known: Ends = {}
        self._kept: Ends = {}  # what the file says
        self._comparing = asyncio.Lock()

    async def load(self) -> None:
        """Raises FailedPrecondition (INVALID_CONFIGURATION) for a file that is none."""
        if self._file is not None:
            self._known = await run_blocking(_read, self._file)
            self._kept = dict(self._known)

    def saw(self, grown: Mapping[str, Growth]) -> None:
        """Chains have grown by what this daemon has just written.

        One that did not go on from the end that is known is looked at by the next comparison.
        """
        for project_id, growth in grown.items():
            if self._known.get(project_id, _NONE) == _end_of(growth.before):
                self._known[project_id] = _end_of(growth.after)

    async def compare(self) -> int:
        """Write a trace of doubt into each chain that has lost what it had, and keep all ends.

        Returns how many doubts there were.
        """
        async with self._comparing:
            known, found = dict(self._known), 0
            projects = sorted(known)
            for start in range(0, len(projects), BATCH):
                found += await self._compare({each: known[each] for each in projects[start : start + BATCH]})
            await self._add_others()
            if self._file is not None and self._known != self._kept:
                kept = dict(self._known)
                await run_blocking(_write, self._file, kept)
                self._kept = kept
        return found

    async def doubt_of(self, project_id: str) -> str:
        """What the chain of a project has lost; empty if it goes on from the end that is known."""
        known = self._known.get(project_id)
        if known is None:
            return ""
        async with self._runtime.database.reading() as c:
            _, doubts = await _compared(c, {project_id: known})
        return doubts.get(project_id, "")

    async def _compare(self, known: Ends) -> int:
        async with self._runtime.database.reading() as c:
            now, doubts = await _compared(c, known)
        for project_id in known.keys() - doubts.keys():
            if self._known[project_id] == known[project_id]:  # else it has grown since
                self._known[project_id] = now[project_id]
        if doubts:
            grown = await self._runtime.database.run(self._write_doubts, doubts)
            self._known |= {project_id: _end_of(growth.after) for project_id, growth in grown.items()}
            for project_id, doubt in doubts.items():
                log.error("a chain of traces has lost what it had", project_id=project_id, detail=doubt)
        return len(doubts)

    def _write_doubts(self, c: Connection, doubts: Mapping[str, str]) -> dict[str, Growth]:
        now = self._runtime.clock()
        return self._chains.append(c, [doubting(each, doubt, now) for each, doubt in doubts.items()], now)

    async def _add_others(self) -> None:
        """Of chains that are not known: this daemon has not seen their beginning."""
        after = ""
        while True:
            async with self._runtime.database.reading() as c:
                found = await rows.chain_ends(c, after, BATCH)
            self._known = found | self._known
            if len(found) < BATCH:
                return
            after = next(reversed(found))  # the last in the database's order, which is not Python's


async def _compared(c: AsyncConnection, known: Ends) -> tuple[Ends, dict[str, str]]:
    """Where these chains end now, and what is wrong with those that have not just grown since."""
    now = await rows.ends_of(c, known)
    grown = {project_id: end for project_id, end in known.items() if now.get(project_id) != end}
    hashes = await rows.hashes_at(c, grown)
    found = {}
    for project_id, end in grown.items():
        had = f"trace {end.sequence}"
        at = now.get(project_id)
        if at is None:
            found[project_id] = f"there is no chain, but it had {had}: it was removed"
        elif at.sequence < end.sequence:
            found[project_id] = (
                f"the chain ends with trace {at.sequence}, but had {had}: its end was cut off,"
                " or the database is an older copy"
            )
        elif hashes.get(project_id, end.hash) != end.hash:
            found[project_id] = (
                f"{had} is not the one that was there: the end of the chain was replaced,"
                " or the database was an older copy"
            )
    return now, found


def _end_of(head: ChainHead) -> ChainEnd:
    return ChainEnd(head.sequence, head.hash)


def _read(file: Path) -> Ends:
    try:
        found = json.loads(file.read_bytes())
        return {project_id: ChainEnd(_number(end[0]), _text(end[1])) for project_id, end in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise FailedPrecondition(
            f"{file} does not say where chains of traces ended",
            reason="INVALID_CONFIGURATION",
            hint="restore it from a backup, or remove it: ends that were cut off before are not missed then",
        ) from None


def _write(file: Path, ends: Ends) -> None:
    write_durably(file, json.dumps(ends, separators=(",", ":")).encode())


def _number(value: object) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value

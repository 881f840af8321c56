"""The recorder: each call that changes something leaves one trace, however it ends.

Before its work a call's *intent* is written; when its outcome is known, one transaction puts the trace at the
end of its chain in place of the intent, and only then the client gets its answer. What a daemon that died
leaves are intents, of which `imsd.core.trace_upkeep` makes traces that say so.

Calls that come at the same time share a transaction: whoever comes while one is written waits for the next. A
transaction of intents alone does not wait for the disk: a power cut that takes it takes the change as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import Connection

from imsd.contract import ImsError, Unavailable, wait_through
from imsd.metadata import trace_writing
from imsd.metadata.trace_writing import TraceIntent
from imsd.trace_chain import Trace

from .chain_writer import ChainWriter, Growth
from .projects import deleted_project
from .runtime import Runtime
from .trace_ends import TraceEnds
from .trace_text import SERVICE_CHAIN, fitted_details

log = structlog.get_logger(__name__)

# An intent that its daemon did not renew for so long is that of a daemon that died. Renewed every minute.
INTENT_LEASE: Final = timedelta(minutes=10)

# What one transaction takes; with `SEAL_TRACES` it bounds how far two seals are apart.
MAX_BATCH: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """``has_intent``: of a trace that ended, whether its intent was written."""

    trace: Trace
    is_ended: bool
    has_intent: bool
    done: asyncio.Future[Trace]


class TraceRecorder:
    def __init__(self, runtime: Runtime, chains: ChainWriter, ends: TraceEnds) -> None:
        self._runtime = runtime
        self._chains = chains
        self._ends = ends
        self._waiting: list[_Entry] = []
        # Of calls that ended when the database did not answer; their intents are there.
        self._late: dict[str, _Entry] = {}
        self._is_writing = False

    async def begin(self, trace: Trace) -> Trace:
        """Note that a call begins its work; returns its trace with the name of the resource.

        A project is not deleted while such a call runs in it. Raises NotFound (PROJECT_UNKNOWN) when it was
        before; Unavailable, or what else keeps the database from writing: then the call must not begin.
        """
        return await self._written(trace, is_ended=False, has_intent=False)

    async def end(self, trace: Trace, *, has_intent: bool) -> None:
        """Note how a call ended; ``has_intent``: it was let begin its work.

        Raises Unavailable when that cannot be written now. If there was work, it is tried again until it is
        written, and an intent stays that says so should the daemon die before.
        """
        await self._written(trace, is_ended=True, has_intent=has_intent)

    async def write_late(self) -> int:
        """Try again what could not be written; returns how many traces still wait."""
        if self._late and not self._is_writing:
            await self._write_batch([])
        return len(self._late)

    async def _written(self, trace: Trace, *, is_ended: bool, has_intent: bool) -> Trace:
        entry = _Entry(trace, is_ended, has_intent, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if not self._is_writing:
            self._is_writing = True
            self._runtime.background.spawn(self._write_all(), "recorder of traces")
        # The call may be cancelled meanwhile; what it leaves is written all the same.
        if cancelled := await wait_through([entry.done]):
            entry.done.exception()  # retrieved here, or asyncio logs it as lost
            raise cancelled
        return entry.done.result()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._write_batch(batch)
        finally:
            self._is_writing = False

    async def _write_batch(self, batch: Sequence[_Entry]) -> None:
        """Write these, and with them what is late."""
        entries = [*self._late.values(), *batch]
        try:
            await self._write(entries)
        except ImsError as error:
            for entry in entries:
                self._put_off(entry, error)
        except Exception:
            # One of them cannot be written, by a defect: the others must not suffer from it.
            for entry in entries:
                await self._write_alone(entry)

    async def _write_alone(self, entry: _Entry) -> None:
        try:
            await self._write([entry])
        except ImsError as error:
            self._put_off(entry, error)
        except Exception as error:
            self._late.pop(entry.trace.id, None)
            if not entry.done.done():
                entry.done.set_exception(error)
            log.exception("a trace cannot be written", trace_id=entry.trace.id, name=entry.trace.name)

    def _put_off(self, entry: _Entry, error: ImsError) -> None:
        if entry.done.done():  # late already
            return
        if entry.has_intent:
            self._late[entry.trace.id] = entry
            log.error("the trace of a call waits for the database", trace_id=entry.trace.id)
        entry.done.set_exception(_unanswered(error) if entry.is_ended else error)

    async def _write(self, entries: Sequence[_Entry]) -> None:
        begun = [entry.trace for entry in entries if not entry.is_ended]
        ended = [entry.trace for entry in entries if entry.is_ended]
        nameless = {entry.trace.id for entry in entries if not entry.has_intent}
        run = self._runtime.database.run if ended else self._runtime.database.run_unsynced
        names, gone, grown = await run(self._commit, begun, ended, nameless)
        self._ends.saw(grown)
        for entry in entries:
            self._late.pop(entry.trace.id, None)
            if entry.done.done():
                continue
            if not entry.is_ended and entry.trace.project_id in gone:
                entry.done.set_exception(deleted_project(entry.trace.project_id))
            else:
                entry.done.set_result(_named(entry.trace, names))

    def _commit(
        self, c: Connection, begun: Sequence[Trace], ended: Sequence[Trace], nameless: set[str]
    ) -> tuple[dict[str, str], set[str], Mapping[str, Growth]]:
        """Names of resources, projects of ``begun`` that were deleted, and how the chains have grown."""
        now, grown = self._runtime.clock(), dict[str, Growth]()
        names = trace_writing.resource_names(c, [each for each in (*begun, *ended) if each.id in nameless])
        gone = trace_writing.deleted_projects(c, {each.project_id for each in begun})
        if some := [_named(each, names) for each in begun if each.project_id not in gone]:
            owner, lease_until = self._runtime.instance_id, now + INTENT_LEASE
            trace_writing.insert_intents(c, [TraceIntent(each, owner, lease_until) for each in some])
        if ended:
            new = self._not_written(c, [_named(each, names) for each in ended])
            grown = self._chains.append(c, _homed(c, new, nameless), now)
        return names, gone, grown

    def _not_written(self, c: Connection, ended: Sequence[Trace]) -> Sequence[Trace]:
        """``ended``, but for what was written by a commit whose answer got lost, or by another daemon."""
        ids = [each.id for each in ended]
        if trace_writing.delete_intents(c, ids) == len(ids):
            return ended
        written = trace_writing.written(c, ids)
        return [each for each in ended if each.id not in written]


def _homed(c: Connection, ended: Sequence[Trace], refused: set[str]) -> list[Trace]:
    """``ended``; what was refused in a project that there is not goes to the chain of the service.

    Or anybody who may nothing could make chains of any name.
    """
    asked = {each.project_id for each in ended if each.id in refused} - {SERVICE_CHAIN}
    unknown = asked - trace_writing.known_projects(c, asked) if asked else set()
    return [
        for_service(each) if each.id in refused and each.project_id in unknown else each for each in ended
    ]


def for_service(trace: Trace) -> Trace:
    """``trace``, of a call that was refused in a project, for the chain of the service."""
    details = fitted_details({"project_id": trace.project_id, **trace.details})
    return replace(trace, project_id=SERVICE_CHAIN, details=details)


def _named(trace: Trace, names: dict[str, str]) -> Trace:
    return replace(trace, resource_name=names[trace.id]) if names.get(trace.id) else trace


def _unanswered(error: ImsError) -> Unavailable:
    return Unavailable(
        f"the call has ended, but its trace could not be written: {error.message}",
        hint="what it changed is changed, so look before you repeat it; its trace follows",
    )

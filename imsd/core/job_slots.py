"""How many jobs run at once, by kind: in the daemon, and of one project. The others wait in line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from weakref import WeakValueDictionary

from imsd.metadata.records import JobKind, JobRecord

from .runtime import ServiceLimits
from .waiting_line import WaitingLine

# Jobs that only read: few at once, so that they never crowd out the work people wait for.
MAX_RUNNING_VERIFY_JOBS = 4

# Each keeps a few pieces of a file in memory, however slow its bucket is.
MAX_RUNNING_EXPORT_JOBS = 4
MAX_RUNNING_EXPORT_JOBS_OF_PROJECT = 2

# They wait for stores more than for this machine, and each keeps some packs open.
MAX_RUNNING_MOVE_JOBS = 2
# Work on whole stores, one job a store at a time: in the background, so few of them at once.
MAX_RUNNING_STORE_JOBS = 2

# Each is there to see how fast a store is.
MAX_RUNNING_CHECK_JOBS = 1

# Jobs of one transaction each: they would wait for each other anyway.
MAX_RUNNING_MEMBER_JOBS = 4

# Each asks a key service, once for each image under its key.
MAX_RUNNING_KEY_JOBS = 4


@dataclass(frozen=True, slots=True)
class SlotRule:
    """Jobs of a kind that run at once in the daemon, and of one project; 0: as many as in the daemon."""

    in_daemon: int
    of_project: int = 0


@dataclass(frozen=True, slots=True)
class JobKey:
    """What is known of a job before somebody has claimed it."""

    id: str
    kind: JobKind
    project_id: str

    @classmethod
    def of(cls, job: JobRecord) -> JobKey:
        return cls(job.id, job.kind, job.project_id)


def slot_rules(limits: ServiceLimits) -> Mapping[JobKind, SlotRule]:
    return {
        JobKind.CREATE_IMAGE: SlotRule(limits.max_running_create_jobs),
        JobKind.VERIFY_IMAGE: SlotRule(MAX_RUNNING_VERIFY_JOBS),
        # A copy that is cut anew is as much work as an import.
        JobKind.COPY_IMAGE: SlotRule(limits.max_running_create_jobs, limits.max_copy_jobs_per_project),
        JobKind.EXPORT_IMAGE: SlotRule(MAX_RUNNING_EXPORT_JOBS, MAX_RUNNING_EXPORT_JOBS_OF_PROJECT),
        JobKind.CHECK_STORE: SlotRule(MAX_RUNNING_CHECK_JOBS),
        JobKind.MOVE_IMAGE: SlotRule(MAX_RUNNING_MOVE_JOBS),
        JobKind.SCRUB_STORE: SlotRule(MAX_RUNNING_STORE_JOBS),
        JobKind.REPACK_STORE: SlotRule(MAX_RUNNING_STORE_JOBS),
        JobKind.ADD_MEMBERS: SlotRule(MAX_RUNNING_MEMBER_JOBS),
        JobKind.UPDATE_MEMBERS: SlotRule(MAX_RUNNING_MEMBER_JOBS),
        JobKind.REMOVE_MEMBERS: SlotRule(MAX_RUNNING_MEMBER_JOBS),
        JobKind.ROTATE_KEY: SlotRule(MAX_RUNNING_KEY_JOBS),
    }


class JobSlots:
    """Slots, and a line of those who wait for one: of a kind, and of a project where that has its own."""

    def __init__(self, rules: Mapping[JobKind, SlotRule]) -> None:
        self._rules = rules
        self._in_daemon = {kind: asyncio.Semaphore(rule.in_daemon) for kind, rule in rules.items()}
        # Only who waits for one or has one keeps the slots of a project.
        self._of_projects: WeakValueDictionary[tuple[JobKind, str], asyncio.Semaphore] = WeakValueDictionary()
        self._lines: dict[tuple[JobKind, str], WaitingLine] = {}
        self._waiting: set[str] = set()

    def __contains__(self, job_id: str) -> bool:
        """Whether the job waits."""
        return job_id in self._waiting

    def join(self, job: JobKey) -> None:
        """Stand at the end of the line; whoever is in it keeps its place."""
        self._lines.setdefault(self._line_of(job), WaitingLine()).join(job.id)
        self._waiting.add(job.id)

    def leave(self, job: JobKey) -> None:
        """Wait no longer, for whatever reason."""
        self._waiting.discard(job.id)
        if line := self._lines.get(self._line_of(job)):
            line.leave(job.id)
            if not line:
                del self._lines[self._line_of(job)]

    def position(self, job: JobKey) -> int:
        """1 for the next of its line; 0 for one that does not wait."""
        line = self._lines.get(self._line_of(job))
        return line.position(job.id) if line else 0

    async def take(self, job: JobKey) -> Callable[[], None]:
        """Wait for a slot, first of the project, then of the daemon; returns what gives it back."""
        with ExitStack() as undo:
            for slots in self._slots_of(job):
                await slots.acquire()
                undo.callback(slots.release)
            return undo.pop_all().close

    def _slots_of(self, job: JobKey) -> list[asyncio.Semaphore]:
        rule = self._rules[job.kind]
        if not rule.of_project:
            return [self._in_daemon[job.kind]]
        key = job.kind, job.project_id
        own = self._of_projects.get(key)
        if own is None:
            own = self._of_projects[key] = asyncio.Semaphore(rule.of_project)
        return [own, self._in_daemon[job.kind]]

    def _line_of(self, job: JobKey) -> tuple[JobKind, str]:
        return job.kind, job.project_id if self._rules[job.kind].of_project else ""

"""Projects: made, listed, forgotten, and which of them a call is about."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from imsd.contract import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound
from imsd.metadata import identity as identity_rows
from imsd.metadata.database import Database
from imsd.metadata.identity_records import ProjectRecord

from . import checks, identity_checks, limits
from .caller import EVERY_PROJECT, Caller
from .principals import MAX_REMEMBERED, REMEMBER_SECONDS, Principals
from .remembered import Changes, Remembered
from .runtime import Runtime


def chosen_project(caller: Caller, project_id: str) -> str:
    """The project that a call is about: the one it names, else the only one in which its caller has roles.

    Empty for the local administrator: the core's default. Raises InvalidRequest (PROJECT_REQUIRED).
    """
    if project_id or caller.is_local_administrator:
        return project_id
    projects = sorted(caller.roles.keys() - {EVERY_PROJECT})
    if len(projects) == 1:
        return projects[0]
    if projects:
        some = ", ".join(projects[:10]) + (" …" if len(projects) > 10 else "")
        message, hint = f"{caller.id} has roles in {len(projects)} projects", f"name one of: {some}"
    elif EVERY_PROJECT in caller.roles:
        message, hint = f"{caller.id} has roles in every project", "name the project"
    else:
        message, hint = f"{caller.id} has no role in any project", "ask an operator to grant one"
    raise InvalidRequest(message, reason="PROJECT_REQUIRED", field="project_id", hint=hint)


def unknown_project(project_id: str) -> NotFound:
    return NotFound(
        f"there is no project {project_id!r}",
        reason="PROJECT_UNKNOWN",
        field="project_id",
        hint="an operator makes it with `imsctl project create`",
    )


def deleted_project(project_id: str) -> NotFound:
    return NotFound(
        _was_deleted(project_id), reason="PROJECT_UNKNOWN", field="project_id", hint="use another project"
    )


def _was_deleted(project_id: str) -> str:
    return f"project {project_id!r} was deleted, and its id is not used again"


class KnownProjects:
    """Those that are there, remembered: each change in a project asks for its own."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime],
        changes: Changes,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._changes = changes
        self._known: Remembered[str, bool] = Remembered(changes, REMEMBER_SECONDS, MAX_REMEMBERED, monotonic)

    async def note(self, caller: Caller, project_id: str) -> None:
        """A call of ``caller`` changes something in a project.

        The local administrator makes a project by using it, unless it was deleted; for anybody else it must
        be there. Raises NotFound (PROJECT_UNKNOWN).
        """
        project_id = project_id or limits.DEFAULT_PROJECT
        if self._known.get(project_id) or not limits.PROJECT.match(project_id):
            return  # what is no project id is refused where the request is read
        seen = self._changes.count
        async with self._database.reading() as c:
            is_known = await identity_rows.known_project(c, project_id)
        if not is_known:
            if not caller.is_local_administrator:
                raise unknown_project(project_id)
            record = ProjectRecord(id=project_id, description="", created_at=self._clock())
            async with self._database.transaction() as c:
                if await identity_rows.was_project_deleted(c, project_id):
                    raise deleted_project(project_id)
                await identity_rows.insert_project(c, record)
        self._known.put(project_id, True, seen)


class Projects:
    def __init__(self, runtime: Runtime, principals: Principals) -> None:
        self._runtime = runtime
        self._principals = principals
        self.known = KnownProjects(runtime.database, runtime.clock, principals.changes)

    async def create(self, project_id: str, description: str) -> ProjectRecord:
        """Raises InvalidRequest, AlreadyExists."""
        record = ProjectRecord(
            id=identity_checks.new_project_id(project_id),
            description=checks.description(description),
            created_at=self._runtime.clock(),
        )
        async with self._principals.changing() as c:
            if await identity_rows.was_project_deleted(c, project_id):
                raise AlreadyExists(
                    f"{_was_deleted(project_id)}: its jobs, usage and traces would be the new one's",
                    field="id",
                    hint="give the new project another id",
                )
            if not await identity_rows.insert_project(c, record):
                raise AlreadyExists(f"there is a project {project_id!r} already", field="id")
        return record

    async def list(
        self, caller: Caller, page_size: int, page_token: str
    ) -> tuple[Sequence[ProjectRecord], str]:
        """A page of those that ``caller`` has a role in, by id, and the token of the next one."""
        limit = checks.page_size(page_size)
        sees_all = caller.is_local_administrator or EVERY_PROJECT in caller.roles
        query = ("projects", "" if sees_all else caller.kind, "" if sees_all else caller.id)
        after = self._runtime.tokens.read(query, page_token)
        only = None if sees_all else caller.roles.keys()
        async with self._runtime.database.reading() as c:
            found = await identity_rows.list_projects(c, limit + 1, str(after[0]) if after else "", only)
        if len(found) <= limit:
            return found, ""
        return found[:limit], self._runtime.tokens.make(query, (found[limit - 1].id, ""))

    async def delete(self, project_id: str) -> None:
        """It leaves what others share with it, and its id is not used again.

        Raises InvalidRequest, NotFound, FailedPrecondition.
        """
        identity_checks.new_project_id(project_id)
        if project_id == limits.DEFAULT_PROJECT:
            raise FailedPrecondition(
                f"{project_id!r} is where the local administrator works when it names no project",
                hint="delete what it has, if that is what you want",
            )
        async with self._principals.changing() as c:
            if what := await identity_rows.what_a_project_has(c, project_id):
                article = "an" if what[0] in "aeiou" else "a"
                raise FailedPrecondition(
                    f"project {project_id!r} has {article} {what}",
                    hint="delete what it has first, and wait for its calls to end",
                )
            if not await identity_rows.delete_project(c, project_id, self._runtime.clock()):
                raise NotFound(f"there is no project {project_id!r}", field="id")

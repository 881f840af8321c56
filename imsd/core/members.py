"""Members of images as a caller sees them: jobs that change shares, lists of members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imsd.contract import InvalidRequest, NotFound
from imsd.metadata import jobs as job_rows
from imsd.metadata import members as member_rows
from imsd.metadata.records import JobKind, JobRecord, JobState, MemberRecord, MemberStatus

from . import checks, limits, requests
from .dispatcher import Dispatcher
from .image_access import seen_image
from .requests import RequestKey
from .runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberQuery:
    """Which members of an image; ``statuses`` empty: all."""

    project_id: str
    image_id: str
    statuses: Sequence[MemberStatus] = ()


class Members:
    def __init__(self, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher

    async def add(self, key: RequestKey, image_ids: Sequence[str], project_ids: Sequence[str]) -> str:
        """Start an ADD_MEMBERS job and return its id; the first one's when ``key`` was used before."""
        return await self._start(key, JobKind.ADD_MEMBERS, _pairs(image_ids, project_ids))

    async def update(self, key: RequestKey, image_ids: Sequence[str], status: MemberStatus) -> str:
        """Start an UPDATE_MEMBERS job of the project, by which it accepts or rejects images."""
        if status is MemberStatus.PENDING:
            checks.refuse("status", "a member accepts or rejects", "use ACCEPTED or REJECTED")
        spec = _pairs(image_ids, [key.project_id]) | {"status": status}
        return await self._start(key, JobKind.UPDATE_MEMBERS, spec)

    async def remove(self, key: RequestKey, image_ids: Sequence[str], project_ids: Sequence[str]) -> str:
        """Start a REMOVE_MEMBERS job."""
        return await self._start(key, JobKind.REMOVE_MEMBERS, _pairs(image_ids, project_ids))

    async def list(
        self, query: MemberQuery, page_size: int, page_token: str
    ) -> tuple[Sequence[MemberRecord], str]:
        """A page of members, the first added first, and the token of the next one.

        The owner of the image sees all of them, any other project itself. Raises NotFound.
        """
        limit = checks.page_size(page_size)
        after = self._runtime.tokens.read(query, page_token)
        async with self._runtime.database.reading() as c:
            image = await seen_image(c, query.project_id, query.image_id)
            is_owner = image.project_id == query.project_id
            only = "" if is_owner else query.project_id
            found = await member_rows.list_members(
                c, image.id, query.statuses, limit + 1, after, only_project_id=only
            )
        token = ""
        if len(found) > limit:
            last = found[limit - 1]
            token = self._runtime.tokens.make(query, (last.created_at, last.project_id))
        return found[:limit], token

    async def get(self, project_id: str, image_id: str, member_project_id: str) -> MemberRecord:
        """One member, for the owner of the image or the member itself. Raises InvalidRequest, NotFound."""
        _check_project("member_project_id", member_project_id)
        async with self._runtime.database.reading() as c:
            image = await seen_image(c, project_id, image_id)
            found = await member_rows.member_of(c, image_id, member_project_id)
        if found is None or project_id not in (image.project_id, member_project_id):
            raise NotFound(
                f"image {image_id} is not shared with project {member_project_id}",
                hint="list the members of the image",
            )
        return found

    async def _start(self, key: RequestKey, kind: JobKind, spec: Mapping[str, Any]) -> str:
        image_ids = spec["image_ids"]
        job = JobRecord(
            id=self._runtime.new_id(),
            project_id=key.project_id,
            kind=kind,
            state=JobState.INIT,
            spec=spec,
            image_id=image_ids[0] if len(image_ids) == 1 else "",
            created_at=self._runtime.clock(),
        )
        async with self._runtime.database.transaction() as c:
            if earlier := await requests.recall(c, key):
                return earlier
            await job_rows.insert_job(c, job)
            await requests.remember(c, self._runtime, key, job.id)
            self._dispatcher.dispatch(job)
        return job.id


def _pairs(image_ids: Sequence[str], project_ids: Sequence[str]) -> dict[str, Any]:
    """The ``spec`` of a job on every pair. Raises InvalidRequest."""
    _check_list("image_ids", image_ids)
    _check_list("member_project_ids", project_ids)
    for image_id in image_ids:
        checks.uuid("image_ids", image_id)
    for project_id in project_ids:
        _check_project("member_project_ids", project_id)
    if (count := len(image_ids) * len(project_ids)) > limits.MAX_MEMBER_PAIRS:
        raise InvalidRequest(
            f"{len(image_ids)} images and {len(project_ids)} projects make {count} pairs, "
            f"but a request may have {limits.MAX_MEMBER_PAIRS}",
            field="member_project_ids",
            hint="use several requests",
        )
    return {"image_ids": list(image_ids), "project_ids": list(project_ids)}


def _check_list(field: str, values: Sequence[str]) -> None:
    if not 1 <= len(values) <= limits.MAX_LISTED_IDS:
        checks.refuse(field, f"{field} has {len(values)} entries, but must have 1 to {limits.MAX_LISTED_IDS}")
    seen: set[str] = set()
    for value in values:
        if value in seen:
            checks.refuse(field, f"{value[:64]!r} stands twice in {field}", "name each once")
        seen.add(value)


def _check_project(field: str, value: str) -> None:
    if not limits.PROJECT.match(value):
        checks.refuse(field, f"{value[:64]!r} is no project id", "1 to 64 letters, digits, - or _")

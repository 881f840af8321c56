"""Share images with projects, answer, or end shares: each pair by itself, all of them in one transaction.

What is known of the images and projects is read, each pair is decided by the rules, what was decided is
written and the job is SUCCESS, with a result for each pair: all at once. A job that a crash ended has done
nothing yet, and is done as a whole when it runs again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import ImsError
from imsd.core import quotas, share_rules
from imsd.core.image_access import seen_images
from imsd.core.job_run import JobRun, Workflow
from imsd.core.quota_rules import IMAGE_MEMBERS, SHARED_IMAGES
from imsd.core.runtime import Runtime
from imsd.core.share_rules import Room, Shares
from imsd.metadata import identity
from imsd.metadata import members as member_rows
from imsd.metadata.members import MemberChange
from imsd.metadata.records import JobRecord, MemberStatus


class ChangeMembers(Workflow):
    """``spec``: ``image_ids`` and ``project_ids``, of which every pair is meant."""

    @abstractmethod
    def decide(self, shares: Shares, job: JobRecord, image_id: str, project_id: str) -> MemberChange:
        """What becomes of a pair. Raises `ImsError`."""

    async def run(self, run: JobRun) -> None:
        run.enter("share", 0, (0.0, 100.0))
        async with run.runtime.database.transaction() as c:
            await run.require_fence(c)
            shares = await _known(c, run.runtime, run.record)
            changes, results = self._decide_all(shares, run.record)
            await member_rows.change_members(c, changes, run.runtime.clock())
            await run.succeed(c, {"members": results})

    async def undo(self, c: AsyncConnection, run: JobRun, error: ImsError | None) -> None:
        return None

    def _decide_all(
        self, shares: Shares, job: JobRecord
    ) -> tuple[Sequence[MemberChange], Sequence[dict[str, str]]]:
        changes, results = [], []
        for image_id in job.spec["image_ids"]:
            for project_id in job.spec["project_ids"]:
                result = {"image_id": image_id, "project_id": project_id}
                try:
                    change = self.decide(shares, job, image_id, project_id)
                except ImsError as error:
                    result |= {
                        "reason": error.reason,
                        "message": error.message,
                        "hint": error.hint,
                        "field": error.field,
                    }
                else:
                    shares.note(change)
                    changes.append(change)
                results.append(result)
        return changes, results


class AddMembers(ChangeMembers):
    def decide(self, shares: Shares, job: JobRecord, image_id: str, project_id: str) -> MemberChange:
        return share_rules.add(shares, image_id, project_id)


class UpdateMembers(ChangeMembers):
    def decide(self, shares: Shares, job: JobRecord, image_id: str, project_id: str) -> MemberChange:
        return share_rules.answer(shares, image_id, project_id, MemberStatus(job.spec["status"]))


class RemoveMembers(ChangeMembers):
    def decide(self, shares: Shares, job: JobRecord, image_id: str, project_id: str) -> MemberChange:
        return share_rules.remove(shares, image_id, project_id)


async def _known(c: AsyncConnection, runtime: Runtime, job: JobRecord) -> Shares:
    image_ids, project_ids = job.spec["image_ids"], job.spec["project_ids"]
    known = await identity.list_projects(c, len(project_ids), "", only=project_ids)
    images = await seen_images(c, job.project_id, image_ids)
    owners = {image.project_id for image in images.values()}
    if job.spec.get("status") != MemberStatus.ACCEPTED:
        owners = set()  # of whose quotas nothing is taken
    return Shares(
        asking=job.project_id,
        images=images,
        statuses=await member_rows.statuses_of(c, image_ids, project_ids),
        counts=await member_rows.member_counts(c, image_ids),
        accepted=await member_rows.member_counts(c, image_ids, [MemberStatus.ACCEPTED]),
        known_projects={record.id for record in known},
        rooms={owner: await _room(c, runtime, owner) for owner in owners},
        max_members=runtime.limits.max_members_per_image,
    )


async def _room(c: AsyncConnection, runtime: Runtime, project_id: str) -> Room:
    return Room(
        await quotas.room(c, runtime, project_id, SHARED_IMAGES),
        await quotas.room(c, runtime, project_id, IMAGE_MEMBERS),
    )

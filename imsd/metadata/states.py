"""How images, shares, jobs and uploads may change their state: a table each. Final: nothing follows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from .records import ImageStatus, JobState, MemberStatus, UploadState

StateT = TypeVar("StateT", ImageStatus, JobState, MemberStatus, UploadState)

IMAGE_NEXT_STATES: Mapping[ImageStatus, frozenset[ImageStatus]] = {
    ImageStatus.QUEUED: frozenset({ImageStatus.SAVING, ImageStatus.KILLED, ImageStatus.DELETED}),
    # Back to QUEUED: filling a prepared image failed.
    ImageStatus.SAVING: frozenset({ImageStatus.ACTIVE, ImageStatus.QUEUED, ImageStatus.KILLED}),
    ImageStatus.ACTIVE: frozenset({ImageStatus.DEACTIVATED, ImageStatus.PENDING_DELETE}),
    ImageStatus.DEACTIVATED: frozenset({ImageStatus.ACTIVE, ImageStatus.PENDING_DELETE}),
    ImageStatus.PENDING_DELETE: frozenset({ImageStatus.ACTIVE, ImageStatus.DEACTIVATED, ImageStatus.DELETED}),
    ImageStatus.KILLED: frozenset(),
    ImageStatus.DELETED: frozenset(),
}

JOB_NEXT_STATES: Mapping[JobState, frozenset[JobState]] = {
    JobState.INIT: frozenset({JobState.RUNNING, JobState.CANCELLING}),
    JobState.RUNNING: frozenset({JobState.SUCCESS, JobState.FAIL, JobState.CANCELLING}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED}),
    JobState.SUCCESS: frozenset(),
    JobState.FAIL: frozenset(),
    JobState.CANCELLED: frozenset(),
}

# Contract §6.2; a member that the owner removes leaves no record.
MEMBER_NEXT_STATES: Mapping[MemberStatus, frozenset[MemberStatus]] = {
    MemberStatus.PENDING: frozenset({MemberStatus.ACCEPTED, MemberStatus.REJECTED}),
    MemberStatus.ACCEPTED: frozenset({MemberStatus.REJECTED}),
    # Back to PENDING: the owner asks again.
    MemberStatus.REJECTED: frozenset({MemberStatus.ACCEPTED, MemberStatus.PENDING}),
}

UPLOAD_NEXT_STATES: Mapping[UploadState, frozenset[UploadState]] = {
    UploadState.OPEN: frozenset({UploadState.COMMITTED}),
    UploadState.COMMITTED: frozenset(),
}


def require_move(
    table: Mapping[StateT, frozenset[StateT]], from_states: Collection[StateT], to_state: StateT
) -> None:
    """Raises ValueError, a defect, unless every one of ``from_states`` may become ``to_state``."""
    wrong = [state for state in from_states if to_state not in table[state]]
    if wrong or not from_states:
        raise ValueError(f"{', '.join(sorted(wrong)) or 'nothing'} cannot become {to_state}")

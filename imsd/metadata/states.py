"""How images, jobs and uploads may change their state: one table each. Final when nothing follows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from .records import ImageStatus, JobState, UploadState

StateT = TypeVar("StateT", ImageStatus, JobState, UploadState)

IMAGE_NEXT_STATES: Mapping[ImageStatus, frozenset[ImageStatus]] = {
    ImageStatus.QUEUED: frozenset({ImageStatus.SAVING, ImageStatus.KILLED}),
    ImageStatus.SAVING: frozenset({ImageStatus.ACTIVE, ImageStatus.KILLED}),
    ImageStatus.ACTIVE: frozenset({ImageStatus.PENDING_DELETE}),
    ImageStatus.PENDING_DELETE: frozenset({ImageStatus.DELETED}),
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

from __future__ import annotations

import itertools

import pytest

from imsd.metadata import images, jobs, uploads
from imsd.metadata.database import Database
from imsd.metadata.records import ImageStatus, JobState, UploadState
from imsd.metadata.states import IMAGE_NEXT_STATES, JOB_NEXT_STATES, UPLOAD_NEXT_STATES, require_move
from tests.unit.metadata.samples import a_job, an_image, an_upload


def test_every_state_is_in_its_table() -> None:
    assert set(IMAGE_NEXT_STATES) == set(ImageStatus)
    assert set(JOB_NEXT_STATES) == set(JobState)
    assert set(UPLOAD_NEXT_STATES) == set(UploadState)


def test_the_final_states_are_those_of_the_contract() -> None:
    assert {state for state, after in JOB_NEXT_STATES.items() if not after} == {
        JobState.SUCCESS,
        JobState.FAIL,
        JobState.CANCELLED,
    }
    assert {state for state, after in IMAGE_NEXT_STATES.items() if not after} == {
        ImageStatus.KILLED,
        ImageStatus.DELETED,
    }


async def test_a_job_makes_every_move_of_the_table_and_no_other(database: Database) -> None:
    for old, new in itertools.product(JobState, JobState):
        record = a_job(state=old)
        async with database.transaction() as c:
            await jobs.insert_job(c, record)
            if new in JOB_NEXT_STATES[old]:
                moved = await jobs.move_job(c, record.id, [old], new, fence=None, values={})
                assert moved is not None
                assert moved.state is new
                assert await jobs.move_job(c, record.id, [old], new, fence=None, values={}) is None
            else:
                with pytest.raises(ValueError, match="cannot become"):
                    await jobs.move_job(c, record.id, [old], new, fence=None, values={})
                assert await jobs.get_job(c, "lab", record.id) == record


async def test_an_image_makes_every_move_of_the_table_and_no_other(database: Database) -> None:
    for old, new in itertools.product(ImageStatus, ImageStatus):
        record = an_image(status=old)
        async with database.transaction() as c:
            await images.insert_image(c, record)
            if new in IMAGE_NEXT_STATES[old] or new is old:
                moved = await images.update_image(c, record.id, {"status": new}, statuses=[old])
                assert moved is not None
                assert moved.status is new
            else:
                with pytest.raises(ValueError, match="cannot become"):
                    await images.update_image(c, record.id, {"status": new}, statuses=[old])
                assert await images.get_image(c, "lab", record.id) == record


async def test_an_upload_makes_every_move_of_the_table_and_no_other(database: Database) -> None:
    for old, new in itertools.product(UploadState, UploadState):
        record = an_upload(state=old)
        async with database.transaction() as c:
            await uploads.insert_upload(c, record)
            if new in UPLOAD_NEXT_STATES[old]:
                moved = await uploads.move_upload(c, record.id, [old], new, record.fence, {})
                assert moved is not None
                assert moved.state is new
            else:
                with pytest.raises(ValueError, match="cannot become"):
                    await uploads.move_upload(c, record.id, [old], new, record.fence, {})
                assert await uploads.get_upload(c, "lab", record.id) == record


def test_one_wrong_state_among_right_ones_is_refused() -> None:
    require_move(JOB_NEXT_STATES, [JobState.INIT, JobState.RUNNING], JobState.CANCELLING)
    with pytest.raises(ValueError, match="success cannot become cancelling"):
        require_move(JOB_NEXT_STATES, [JobState.RUNNING, JobState.SUCCESS], JobState.CANCELLING)


def test_a_move_from_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing cannot become"):
        require_move(JOB_NEXT_STATES, [], JobState.CANCELLING)

"""Members, and the results of jobs on them, as messages."""

from __future__ import annotations

from typing import Any

import pytest

from imsd.contract import InvalidRequest
from imsd.core.jobs import JobView
from imsd.grpc_server import convert
from imsd.grpc_server.convert_member import member_query_from_pb, member_to_pb, status_from_pb
from imsd.metadata.records import JobKind, JobState, MemberRecord, MemberStatus
from imsd.v1 import image_pb2, job_pb2, member_pb2
from tests.unit.metadata.samples import START, a_job, at


def view_of(*results: dict[str, str]) -> JobView:
    return JobView(a_job(kind=JobKind.ADD_MEMBERS, state=JobState.SUCCESS, result={"members": list(results)}))


def result(project_id: str, reason: str = "") -> dict[str, str]:
    pair = {"image_id": "i", "project_id": project_id}
    return pair | ({"reason": reason, "message": "why", "hint": "what"} if reason else {})


def test_each_pair_has_its_result_and_the_hosted_services_code() -> None:
    message = convert.job_to_pb(view_of(result("web"), result("shop", "IMAGE_PUBLISHED")))
    done, failed = message.member_results
    assert done == job_pb2.MemberResult(image_id="i", project_id="web", is_done=True)
    error = job_pb2.JobError(reason="IMAGE_PUBLISHED", message="why", hint="what", img_code="IMG.0107")
    assert failed == job_pb2.MemberResult(image_id="i", project_id="shop", error=error)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("NOT_OWNER", "IMG.0047"),
        ("SHARE_WITH_OWNER", "IMG.0076"),
        ("QUOTA_EXCEEDED", "IMG.0088"),
        ("IMAGE_PUBLIC", "IMG.0089"),
        ("IMAGE_PUBLISHED", "IMG.0107"),
        ("PROJECT_UNKNOWN", "IMG.0108"),
        ("NOT_FOUND", ""),
    ],
)
def test_the_codes_of_sharing(reason: str, code: str) -> None:
    """Contract §13, Sharing."""
    [failed] = convert.job_to_pb(view_of(result("web", reason))).member_results
    assert failed.error.img_code == code


def test_lists_of_jobs_leave_the_results_out() -> None:
    assert not convert.listed_job_to_pb(view_of(result("web"))).member_results


def test_a_job_that_did_not_succeed_has_no_results() -> None:
    for state in set(JobState) - {JobState.SUCCESS}:
        message = convert.job_to_pb(JobView(a_job(kind=JobKind.ADD_MEMBERS, state=state)))
        assert not message.member_results


def test_a_member_keeps_its_times() -> None:
    record = MemberRecord(
        image_id="i", project_id="web", status=MemberStatus.REJECTED, created_at=START, updated_at=at(5)
    )
    message = member_to_pb(record)
    assert message.status == image_pb2.MEMBER_STATUS_REJECTED
    assert (message.updated_at.ToDatetime() - message.created_at.ToDatetime()).seconds == 5


@pytest.mark.parametrize("value", [0, 4, -1, 2**31 - 1])
def test_no_status_and_an_unknown_one_are_refused(value: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        status_from_pb(value)
    assert refused.value.field == "status"


def test_the_same_statuses_in_any_order_are_the_same_query() -> None:
    several: list[Any] = [[2, 1], [1, 2], [1, 2, 2]]
    queries = [
        member_query_from_pb(member_pb2.ListMembersRequest(image_id="i", statuses=statuses))
        for statuses in several
    ]
    assert queries[0] == queries[1] == queries[2]
    unknown: Any = [9]
    with pytest.raises(InvalidRequest):
        member_query_from_pb(member_pb2.ListMembersRequest(statuses=unknown))

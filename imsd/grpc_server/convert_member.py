"""Members of images as messages, and which of them are asked for."""

from __future__ import annotations

from imsd.core import checks
from imsd.core.members import MemberQuery
from imsd.metadata.records import MemberRecord, MemberStatus
from imsd.v1 import member_pb2 as pb

from . import convert
from .convert_image_fields import MEMBER_STATUSES


def member_to_pb(record: MemberRecord) -> pb.Member:
    return pb.Member(
        image_id=record.image_id,
        project_id=record.project_id,
        status=MEMBER_STATUSES[record.status],
        created_at=convert.time_to_pb(record.created_at),
        updated_at=convert.time_to_pb(record.updated_at),
    )


def status_from_pb(value: int) -> MemberStatus:
    """Raises InvalidRequest for no status and for an unknown one."""
    name = convert.known_name(MEMBER_STATUSES, value, "status")
    if not name:
        checks.refuse("status", "the request says no status", "use ACCEPTED or REJECTED")
    return MemberStatus(name)


def member_query_from_pb(request: pb.ListMembersRequest) -> MemberQuery:
    return MemberQuery(
        project_id=checks.project_id(request.project_id),
        image_id=request.image_id,
        statuses=convert.member_statuses_from_pb(request.statuses, "statuses"),
    )

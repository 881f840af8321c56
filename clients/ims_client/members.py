"""`MemberService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from imsd.v1 import image_pb2, job_pb2
from imsd.v1 import member_pb2 as pb
from imsd.v1.member_pb2_grpc import MemberServiceStub

from .connection import Connection

PAGE_SIZE = 500


class MemberCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/member.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = MemberServiceStub(connection.channel)

    async def add(
        self, image_ids: Sequence[str], member_project_ids: Sequence[str], request_id: str = ""
    ) -> job_pb2.Job:
        """Start the job that shares each of the images with each of the projects."""
        request = pb.AddMembersRequest(
            project_id=self._project_id,
            request_id=request_id,
            image_ids=image_ids,
            member_project_ids=member_project_ids,
        )
        job: job_pb2.Job = await self._connection.call(self._stub.AddMembers, request)
        return job

    async def update(
        self, image_ids: Sequence[str], status: image_pb2.MemberStatus.ValueType, request_id: str = ""
    ) -> job_pb2.Job:
        """Start the job by which the project of this client accepts or rejects each of the images."""
        request = pb.UpdateMembersRequest(
            project_id=self._project_id, request_id=request_id, image_ids=image_ids, status=status
        )
        job: job_pb2.Job = await self._connection.call(self._stub.UpdateMembers, request)
        return job

    async def remove(
        self, image_ids: Sequence[str], member_project_ids: Sequence[str], request_id: str = ""
    ) -> job_pb2.Job:
        """Start the job that ends the share of each of the images with each of the projects."""
        request = pb.RemoveMembersRequest(
            project_id=self._project_id,
            request_id=request_id,
            image_ids=image_ids,
            member_project_ids=member_project_ids,
        )
        job: job_pb2.Job = await self._connection.call(self._stub.RemoveMembers, request)
        return job

    async def list(
        self,
        image_id: str,
        statuses: Sequence[image_pb2.MemberStatus.ValueType] = (),
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[pb.Member]:
        """All members of an image that fit, the first added first, page by page."""
        request = pb.ListMembersRequest(
            project_id=self._project_id, image_id=image_id, page_size=page_size, statuses=statuses
        )
        while True:
            page = await self._connection.call(self._stub.ListMembers, request)
            for member in page.members:
                yield member
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get(self, image_id: str, member_project_id: str) -> pb.Member:
        request = pb.GetMemberRequest(
            project_id=self._project_id, image_id=image_id, member_project_id=member_project_id
        )
        member: pb.Member = await self._connection.call(self._stub.GetMember, request)
        return member

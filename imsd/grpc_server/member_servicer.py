"""MemberService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from imsd.core import checks
from imsd.core.jobs import Jobs
from imsd.core.members import Members
from imsd.v1 import job_pb2
from imsd.v1 import member_pb2 as pb
from imsd.v1.member_pb2_grpc import MemberServiceServicer

from . import convert
from .context import Context
from .convert_member import member_query_from_pb, member_to_pb, status_from_pb


class MemberServicer(MemberServiceServicer):
    """Serves ``imsd.v1.MemberService``; what each call means is written in the .proto file."""

    def __init__(self, members: Members, jobs: Jobs) -> None:
        self._members = members
        self._jobs = jobs

    async def AddMembers(self, request: pb.AddMembersRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        job_id = await self._members.add(key, request.image_ids, request.member_project_ids)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def UpdateMembers(self, request: pb.UpdateMembersRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        job_id = await self._members.update(key, request.image_ids, status_from_pb(request.status))
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def RemoveMembers(self, request: pb.RemoveMembersRequest, _: Context) -> job_pb2.Job:
        key = convert.request_key(request, request.project_id, request.request_id)
        job_id = await self._members.remove(key, request.image_ids, request.member_project_ids)
        return convert.job_to_pb(await self._jobs.get(key.project_id, job_id))

    async def ListMembers(self, request: pb.ListMembersRequest, _: Context) -> pb.ListMembersResponse:
        query = member_query_from_pb(request)
        members, token = await self._members.list(query, request.page_size, request.page_token)
        return pb.ListMembersResponse(members=map(member_to_pb, members), next_page_token=token)

    async def GetMember(self, request: pb.GetMemberRequest, _: Context) -> pb.Member:
        project_id = checks.project_id(request.project_id)
        found = await self._members.get(project_id, request.image_id, request.member_project_id)
        return member_to_pb(found)

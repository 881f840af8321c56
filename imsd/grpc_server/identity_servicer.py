"""IdentityService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from imsd.core.caller import current_caller
from imsd.core.identity_services import IdentityServices
from imsd.v1 import identity_pb2 as pb
from imsd.v1.identity_pb2_grpc import IdentityServiceServicer

from . import convert_identity as convert
from .context import Context
from .pages import page_that_fits


class IdentityServicer(IdentityServiceServicer):
    """Serves ``imsd.v1.IdentityService``; what each call means is written in the .proto file."""

    def __init__(self, core: IdentityServices) -> None:
        self._projects = core.projects
        self._identity = core.identity
        self._grants = core.grants
        self._tokens = core.tokens

    async def GetCaller(self, _: pb.GetCallerRequest, context: Context) -> pb.Caller:
        caller = current_caller()
        return convert.caller_to_pb(caller, await self._grants.of_caller(caller))

    async def CreateProject(self, request: pb.CreateProjectRequest, _: Context) -> pb.Project:
        return convert.project_to_pb(await self._projects.create(request.id, request.description))

    async def ListProjects(self, request: pb.ListProjectsRequest, _: Context) -> pb.ListProjectsResponse:
        async def page(size: int) -> pb.ListProjectsResponse:
            found, token = await self._projects.list(current_caller(), size, request.page_token)
            return pb.ListProjectsResponse(projects=map(convert.project_to_pb, found), next_page_token=token)

        return await page_that_fits(page, lambda made: made.projects, request.page_size)

    async def DeleteProject(self, request: pb.DeleteProjectRequest, _: Context) -> pb.DeleteProjectResponse:
        await self._projects.delete(request.id)
        return pb.DeleteProjectResponse()

    async def CreateUser(self, request: pb.CreateUserRequest, _: Context) -> pb.User:
        return convert.user_to_pb(await self._identity.create_user(request.id, request.description))

    async def ListUsers(self, request: pb.ListUsersRequest, _: Context) -> pb.ListUsersResponse:
        async def page(size: int) -> pb.ListUsersResponse:
            found, token = await self._identity.list_users(size, request.page_token)
            return pb.ListUsersResponse(users=map(convert.user_to_pb, found), next_page_token=token)

        return await page_that_fits(page, lambda made: made.users, request.page_size)

    async def DeleteUser(self, request: pb.DeleteUserRequest, _: Context) -> pb.DeleteUserResponse:
        await self._identity.delete_user(request.id)
        return pb.DeleteUserResponse()

    async def CreateGroup(self, request: pb.CreateGroupRequest, _: Context) -> pb.Group:
        return convert.group_to_pb(await self._identity.create_group(request.id, request.description))

    async def ListGroups(self, request: pb.ListGroupsRequest, _: Context) -> pb.ListGroupsResponse:
        async def page(size: int) -> pb.ListGroupsResponse:
            found, token = await self._identity.list_groups(size, request.page_token)
            return pb.ListGroupsResponse(groups=map(convert.group_to_pb, found), next_page_token=token)

        return await page_that_fits(page, lambda made: made.groups, request.page_size)

    async def DeleteGroup(self, request: pb.DeleteGroupRequest, _: Context) -> pb.DeleteGroupResponse:
        await self._identity.delete_group(request.id)
        return pb.DeleteGroupResponse()

    async def SetGroupMembers(self, request: pb.SetGroupMembersRequest, _: Context) -> pb.Group:
        return convert.group_to_pb(
            await self._identity.set_members(request.id, request.add_user_ids, request.remove_user_ids)
        )

    async def GrantRole(self, request: pb.GrantRoleRequest, _: Context) -> pb.RoleGrant:
        kind = convert.principal_kind_from_pb(request.principal_kind)
        return convert.grant_to_pb(
            await self._grants.grant(kind, request.principal_id, request.project_id, request.role)
        )

    async def RevokeRole(self, request: pb.RevokeRoleRequest, _: Context) -> pb.RevokeRoleResponse:
        kind = convert.principal_kind_from_pb(request.principal_kind)
        await self._grants.revoke(kind, request.principal_id, request.project_id, request.role)
        return pb.RevokeRoleResponse()

    async def ListRoleGrants(
        self, request: pb.ListRoleGrantsRequest, _: Context
    ) -> pb.ListRoleGrantsResponse:
        query = convert.grant_query_from_pb(request)
        found, token = await self._grants.list(query, request.page_size, request.page_token)
        return pb.ListRoleGrantsResponse(grants=map(convert.grant_to_pb, found), next_page_token=token)

    async def CreateToken(self, request: pb.CreateTokenRequest, _: Context) -> pb.CreateTokenResponse:
        made = await self._tokens.create(
            current_caller(), request.user_id, request.name, request.lifetime_seconds
        )
        return pb.CreateTokenResponse(token=convert.token_to_pb(made.record), secret=made.secret)

    async def ListTokens(self, request: pb.ListTokensRequest, _: Context) -> pb.ListTokensResponse:
        found, token = await self._tokens.list(
            current_caller(), request.user_id, request.has_all, request.page_size, request.page_token
        )
        return pb.ListTokensResponse(tokens=map(convert.token_to_pb, found), next_page_token=token)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, _: Context) -> pb.Token:
        return convert.token_to_pb(await self._tokens.revoke(request.token_id))

"""`IdentityService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from imsd.v1 import identity_pb2 as pb
from imsd.v1.identity_pb2_grpc import IdentityServiceStub

from .connection import Connection

PAGE_SIZE = 500


class IdentityCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/identity.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = IdentityServiceStub(connection.channel)

    async def caller(self) -> pb.Caller:
        """Who this client is for the daemon."""
        caller: pb.Caller = await self._connection.call(self._stub.GetCaller, pb.GetCallerRequest())
        return caller

    async def create_project(self, project_id: str, description: str = "") -> pb.Project:
        request = pb.CreateProjectRequest(id=project_id, description=description)
        project: pb.Project = await self._connection.call(self._stub.CreateProject, request)
        return project

    async def projects(self, page_size: int = PAGE_SIZE) -> AsyncIterator[pb.Project]:
        """The projects that the caller may see, page by page."""
        request = pb.ListProjectsRequest(page_size=page_size)
        async for page in self._pages(self._stub.ListProjects, request):
            for project in page.projects:
                yield project

    async def delete_project(self, project_id: str) -> None:
        await self._connection.call(self._stub.DeleteProject, pb.DeleteProjectRequest(id=project_id))

    async def create_user(self, user_id: str, description: str = "") -> pb.User:
        request = pb.CreateUserRequest(id=user_id, description=description)
        user: pb.User = await self._connection.call(self._stub.CreateUser, request)
        return user

    async def users(self, page_size: int = PAGE_SIZE) -> AsyncIterator[pb.User]:
        """All users, page by page."""
        request = pb.ListUsersRequest(page_size=page_size)
        async for page in self._pages(self._stub.ListUsers, request):
            for user in page.users:
                yield user

    async def delete_user(self, user_id: str) -> None:
        await self._connection.call(self._stub.DeleteUser, pb.DeleteUserRequest(id=user_id))

    async def create_group(self, group_id: str, description: str = "") -> pb.Group:
        request = pb.CreateGroupRequest(id=group_id, description=description)
        group: pb.Group = await self._connection.call(self._stub.CreateGroup, request)
        return group

    async def groups(self, page_size: int = PAGE_SIZE) -> AsyncIterator[pb.Group]:
        """All groups, page by page."""
        request = pb.ListGroupsRequest(page_size=page_size)
        async for page in self._pages(self._stub.ListGroups, request):
            for group in page.groups:
                yield group

    async def delete_group(self, group_id: str) -> None:
        await self._connection.call(self._stub.DeleteGroup, pb.DeleteGroupRequest(id=group_id))

    async def set_group_members(
        self, group_id: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> pb.Group:
        request = pb.SetGroupMembersRequest(id=group_id, add_user_ids=add, remove_user_ids=remove)
        group: pb.Group = await self._connection.call(self._stub.SetGroupMembers, request)
        return group

    async def grant_role(
        self, kind: pb.PrincipalKind.ValueType, principal_id: str, project_id: str, role: str
    ) -> pb.RoleGrant:
        request = pb.GrantRoleRequest(
            principal_kind=kind, principal_id=principal_id, project_id=project_id, role=role
        )
        grant: pb.RoleGrant = await self._connection.call(self._stub.GrantRole, request)
        return grant

    async def revoke_role(
        self, kind: pb.PrincipalKind.ValueType, principal_id: str, project_id: str, role: str
    ) -> None:
        request = pb.RevokeRoleRequest(
            principal_kind=kind, principal_id=principal_id, project_id=project_id, role=role
        )
        await self._connection.call(self._stub.RevokeRole, request)

    async def role_grants(
        self,
        kind: pb.PrincipalKind.ValueType = pb.PRINCIPAL_KIND_UNSPECIFIED,
        principal_id: str = "",
        project_id: str = "",
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[pb.RoleGrant]:
        """The grants that fit every condition, page by page; what is not given fits all."""
        request = pb.ListRoleGrantsRequest(
            principal_kind=kind, principal_id=principal_id, project_id=project_id, page_size=page_size
        )
        async for page in self._pages(self._stub.ListRoleGrants, request):
            for grant in page.grants:
                yield grant

    async def create_token(
        self, name: str, user_id: str = "", lifetime_seconds: int = 0
    ) -> pb.CreateTokenResponse:
        """A new token with its secret, which nobody can ask for again."""
        request = pb.CreateTokenRequest(name=name, user_id=user_id, lifetime_seconds=lifetime_seconds)
        made: pb.CreateTokenResponse = await self._connection.call(self._stub.CreateToken, request)
        return made

    async def tokens(
        self, user_id: str = "", *, has_all: bool = False, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.Token]:
        """Tokens, newest first, page by page; ``has_all``: those that are good no more, too."""
        request = pb.ListTokensRequest(user_id=user_id, has_all=has_all, page_size=page_size)
        async for page in self._pages(self._stub.ListTokens, request):
            for token in page.tokens:
                yield token

    async def revoke_token(self, token_id: str) -> pb.Token:
        request = pb.RevokeTokenRequest(token_id=token_id)
        token: pb.Token = await self._connection.call(self._stub.RevokeToken, request)
        return token

    async def _pages(self, method: Callable[[Any], Any], request: Any) -> AsyncIterator[Any]:
        while True:
            page = await self._connection.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

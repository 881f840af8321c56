"""`PolicyService`, as methods."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.v1 import policy_pb2 as pb
from imsd.v1.policy_pb2_grpc import PolicyServiceStub

from .connection import Connection


class PolicyCalls:
    """Who may do what, and why."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = PolicyServiceStub(connection.channel)

    async def roles(self) -> Sequence[pb.Role]:
        answer = await self._connection.call(self._stub.ListRoles, pb.ListRolesRequest())
        return list(answer.roles)

    async def actions(self) -> Sequence[pb.Action]:
        answer = await self._connection.call(self._stub.ListActions, pb.ListActionsRequest())
        return list(answer.actions)

    async def check(self, action: str, user_id: str = "", image_id: str = "") -> pb.CheckPolicyResponse:
        """May a user do it, and why? ``user_id`` empty: whoever asks; ``image_id`` empty: of no image."""
        request = pb.CheckPolicyRequest(
            user_id=user_id, action=action, project_id=self._project_id, image_id=image_id
        )
        answer: pb.CheckPolicyResponse = await self._connection.call(self._stub.CheckPolicy, request)
        return answer

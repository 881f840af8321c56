"""PolicyService: what the policies say, and why."""

from __future__ import annotations

from imsd.core.caller import current_caller
from imsd.core.policy_checks import ActionCalls, Check, Explanation, PolicyChecks, RoleActions
from imsd.v1 import policy_pb2 as pb
from imsd.v1.policy_pb2_grpc import PolicyServiceServicer

from .context import Context


class PolicyServicer(PolicyServiceServicer):
    """Serves ``imsd.v1.PolicyService``; what each call means is written in the .proto file."""

    def __init__(self, checks: PolicyChecks) -> None:
        self._checks = checks

    async def ListRoles(self, _request: pb.ListRolesRequest, _: Context) -> pb.ListRolesResponse:
        return pb.ListRolesResponse(roles=map(_role_to_pb, self._checks.roles()))

    async def ListActions(self, _request: pb.ListActionsRequest, _: Context) -> pb.ListActionsResponse:
        return pb.ListActionsResponse(actions=map(_action_to_pb, self._checks.actions()))

    async def CheckPolicy(self, request: pb.CheckPolicyRequest, _: Context) -> pb.CheckPolicyResponse:
        asked = Check(request.action, request.user_id, request.project_id, request.image_id)
        return _explanation_to_pb(await self._checks.check(current_caller(), asked))


def _role_to_pb(found: RoleActions) -> pb.Role:
    role = found.role
    return pb.Role(
        name=role.name,
        summary=role.summary,
        depends_on=role.depends_on,
        actions=found.actions,
        source=role.source,
    )


def _action_to_pb(found: ActionCalls) -> pb.Action:
    return pb.Action(name=found.action, methods=found.methods, is_mutation=found.is_mutation)


def _explanation_to_pb(said: Explanation) -> pb.CheckPolicyResponse:
    return pb.CheckPolicyResponse(
        is_allowed=said.is_allowed,
        policies=said.policies,
        roles=said.roles,
        ignored_roles=said.ignored,
        explanation=". ".join(said.sentences),
        rules=said.rules,
        project_id=said.project_id,
    )

"""The full matrix of roles and calls, each call through the gate; and what the gate does beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from imsd.contract import InvalidRequest, PermissionDenied
from imsd.core.access import Access
from imsd.core.actions import OPERATIONS, SERVICE_TRACES, Operation
from imsd.core.caller import Caller
from imsd.core.policies.decisions import Policies
from imsd.core.policies.entities import Principal, Question, Uid, project_uid
from imsd.core.policies.loading import load_policies
from imsd.core.projects import KnownProjects
from imsd.core.remembered import Changes
from imsd.grpc_server.gate import Admission, operation_of
from imsd.metadata import api_tokens, identity
from imsd.metadata.database import Database, open_database
from imsd.metadata.identity_records import ProjectRecord, TokenRecord, UserRecord
from imsd.v1 import image_pb2
from tests.contract.test_actions import METHODS
from tests.unit.core.core_world import now
from tests.unit.policies import role_matrix as matrix
from tests.unit.policies.policy_world import IMAGE_ID

ALICE, BOB = "alice", "bob"
TOKENS = {ALICE: "aaaaaaaa-0000-4000-8000-000000000000", BOB: "bbbbbbbb-0000-4000-8000-000000000000"}
NO_TOKEN = "00000000-0000-4000-8000-000000000000"

in_one_loop = pytest.mark.asyncio(loop_scope="module")  # the database is opened once

# Calls that may be about another user.
OF_USERS = sorted(f"imsd.v1.{call}" for call in matrix.ROWS[matrix.ONESELF])


@pytest.fixture(scope="module")
def policies() -> Policies:
    return Policies(load_policies())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Database]:
    """With a token of each user; no test changes it."""
    folder = tmp_path_factory.mktemp("database")
    async with open_database(f"sqlite+aiosqlite:///{folder}/db.sqlite3") as database:
        async with database.transaction() as c:
            await identity.insert_project(c, ProjectRecord(id="blue", description="", created_at=now()))
            for user_id, token_id in TOKENS.items():
                await identity.insert_user(c, UserRecord(id=user_id, description="", created_at=now()))
                token = TokenRecord(
                    id=token_id,
                    user_id=user_id,
                    name="t",
                    secret_hash=token_id.encode()[:32],
                    created_at=now(),
                    expires_at=now() + timedelta(days=1),
                )
                await api_tokens.insert_token(c, token)
        yield database


def requests_of(method: str, user_id: str) -> list[Any]:
    """Requests in project "blue", about ``user_id`` where they are about a user; all kinds of an image."""
    descriptor = METHODS[method].input_type
    if METHODS[method].client_streaming:
        descriptor = descriptor.fields_by_name["header"].message_type
    made = descriptor._concrete_class()
    for field, value in {"project_id": "blue", "image_id": IMAGE_ID, "user_id": user_id}.items():
        if field in descriptor.fields_by_name:
            setattr(made, field, value)
    if "token_id" in descriptor.fields_by_name:
        made.token_id = TOKENS.get(user_id, NO_TOKEN)
    if "image_ids" in descriptor.fields_by_name:
        made.image_ids.append(IMAGE_ID)
    if method.endswith("/CreateImage"):
        kinds = [image_pb2.IMAGE_KIND_SYSTEM_DISK, image_pb2.IMAGE_KIND_DATA_DISK, image_pb2.IMAGE_KIND_ISO]
        return [image_pb2.CreateImageRequest(project_id="blue", kind=kind) for kind in kinds]
    return [made]


def caller_of(case: matrix.Case) -> Caller:
    roles = {project_id: frozenset(names) for project_id, names in case.roles.items()}
    return Caller(kind=case.kind, id=ALICE, roles=roles, peer="ipv4:192.0.2.7:5")


def admission(access: Access, caller: Caller, method: str) -> Admission:
    """One that leaves no trace."""
    return Admission(caller, method, access, KnownProjects(access._database, now, Changes()), trace=None)


async def is_admitted(access: Access, caller: Caller, method: str, request: Any) -> bool:
    denied: PermissionDenied | None = None
    try:
        await admission(access, caller, method).admit(request)
    except PermissionDenied as error:
        denied = error
    if denied is not None:
        assert denied.reason == "PERMISSION_DENIED"
        assert OPERATIONS[method].action_for(request) in denied.message
        assert "imsctl policy check me " in denied.hint
    return denied is None


def test_every_call_stands_in_one_row() -> None:
    calls = [f"imsd.v1.{call}" for row in matrix.ROWS.values() for call in row]
    assert sorted(calls) == sorted(METHODS)
    assert set(METHODS) >= matrix.OPERATOR_QUERIES


@pytest.mark.parametrize("case", matrix.CASES, ids=lambda case: case.name)
@in_one_loop
async def test_a_role_may_what_the_tables_say_and_nothing_else(
    case: matrix.Case, database: Database, policies: Policies
) -> None:
    access, caller = Access(database, policies), caller_of(case)
    wrong = []
    for method in METHODS:
        for request in requests_of(method, user_id=""):
            admitted = await is_admitted(access, caller, method, request)
            if admitted is not case.allows(method):
                wrong.append(f"{method} admitted: {admitted}")
    assert wrong == []


@pytest.mark.parametrize("case", matrix.CASES, ids=lambda case: case.name)
@in_one_loop
async def test_only_an_operator_asks_about_other_users(
    case: matrix.Case, database: Database, policies: Policies
) -> None:
    access, caller = Access(database, policies), caller_of(case)
    for method in OF_USERS:
        for request in requests_of(method, user_id=BOB):
            expected = case.allows(method, is_about_another=True)
            assert await is_admitted(access, caller, method, request) is expected, method


@pytest.mark.parametrize("case", matrix.CASES, ids=lambda case: case.name)
@in_one_loop
async def test_only_an_operator_lists_the_tokens_of_all(
    case: matrix.Case, database: Database, policies: Policies
) -> None:
    method = "imsd.v1.IdentityService/ListTokens"
    (request,) = requests_of(method, user_id="*")
    admitted = await is_admitted(Access(database, policies), caller_of(case), method, request)
    assert admitted is case.allows(method, is_about_another=True)


@pytest.mark.parametrize("case", matrix.CASES, ids=lambda case: case.name)
@in_one_loop
async def test_a_user_asks_about_itself_by_its_name_too(
    case: matrix.Case, database: Database, policies: Policies
) -> None:
    is_alice = case.kind.value in ("api_token", "oidc")
    for method in OF_USERS:
        (request,) = requests_of(method, user_id=ALICE)
        expected = is_alice or case.allows(method, is_about_another=True)
        assert await is_admitted(Access(database, policies), caller_of(case), method, request) is expected


@in_one_loop
async def test_usage_of_all_projects_is_for_who_may_in_all(database: Database, policies: Policies) -> None:
    method = "imsd.v1.QuotaService/ListUsage"
    admitted = set()
    for case in matrix.CASES:
        (request,) = requests_of(method, "")
        request.project_id = "*"
        if await is_admitted(Access(database, policies), caller_of(case), method, request):
            admitted.add(case.name)
    assert admitted == {
        "FullAccess in all projects",
        "ReadOnlyAccess in all projects",
        "IMS Administrator in all projects",
        "Operator",
        "Operator with FullAccess",
        "local administrator",
    }


@in_one_loop
async def test_traces_of_the_service_are_for_operators(database: Database, policies: Policies) -> None:
    """They tell of users, roles and tokens: who may all with the images of every project is no operator."""
    access = Access(database, policies)
    for method in (f"imsd.v1.{call}" for call in matrix.ROWS[matrix.SEEING_TRACES]):
        admitted = set()
        for case in matrix.CASES:
            (request,) = requests_of(method, "")
            request.project_id = "@service"
            if await is_admitted(access, caller_of(case), method, request):
                admitted.add(case.name)
        assert admitted == {"Operator", "Operator with FullAccess", "local administrator"}


@pytest.mark.parametrize(
    ("role", "rows"),
    [
        (
            "Server Administrator",
            {matrix.CREATING, matrix.DELETING, matrix.QUERYING, matrix.UPDATING, matrix.UPLOADING},
        ),
        ("IMS Administrator", matrix.OWNER - matrix.KNOWN),
        ("Tenant Administrator", set()),
    ],
)
def test_a_role_of_table_8_1_allows_this_by_itself(role: str, rows: set[str], policies: Policies) -> None:
    """Not with what its dependencies allow, which it never counts without."""
    principal = Principal(uid=Uid("User", ALICE), authentication="oidc", roles=frozenset({role}))
    for method, row in matrix.ROW_OF.items():
        for action in OPERATIONS[method].actions:
            asked = Question(
                principal=principal, action=action, project_id="blue", resource=project_uid("blue")
            )
            is_operators = action == SERVICE_TRACES
            expected = (row in rows and not is_operators) or row == matrix.OPEN
            assert policies.decide(asked).is_allowed is expected, method


def test_a_call_without_an_action_passes_for_nobody() -> None:
    for method in (
        "imsd.v1.ImageService/EraseImage",
        "",
        "grpc.health.v1.Health/Check",
        "imsd.v2.ImageService/GetImage",
    ):
        with pytest.raises(PermissionDenied, match="no action stands for"):
            operation_of(method)


@in_one_loop
async def test_an_action_that_the_policies_do_not_know_passes_for_nobody(
    database: Database, policies: Policies
) -> None:
    method = "imsd.v1.ImageService/GetImage"
    for case in matrix.CASES:
        entering = admission(Access(database, policies), caller_of(case), method)
        entering.operation = Operation(action="ims:images:erase")
        with pytest.raises(PermissionDenied):
            await entering.admit(requests_of(method, "")[0])


@pytest.mark.parametrize("project_id", ["a b", "x" * 65, 'blue"', "../blue", "blue\n", "**", "\x00"])
@in_one_loop
async def test_what_is_no_project_is_refused_before_a_decision(
    project_id: str, database: Database, policies: Policies
) -> None:
    (request,) = requests_of("imsd.v1.ImageService/GetImage", "")
    request.project_id = project_id
    for case in matrix.CASES:
        with pytest.raises(InvalidRequest):
            await is_admitted(
                Access(database, policies), caller_of(case), "imsd.v1.ImageService/GetImage", request
            )


@in_one_loop
async def test_a_user_that_cannot_be_one_is_refused_before_a_decision(
    database: Database, policies: Policies
) -> None:
    for user_id in ("x" * 256, "a\x00b"):
        (request,) = requests_of("imsd.v1.IdentityService/ListTokens", user_id)
        with pytest.raises(InvalidRequest):
            await is_admitted(
                Access(database, policies),
                caller_of(matrix.CASES[0]),
                "imsd.v1.IdentityService/ListTokens",
                request,
            )

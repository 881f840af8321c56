"""What `CheckPolicy` says: the decision of a call, why, and what it does not tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imsd.contract import InvalidRequest, NotFound
from imsd.core.access import Access
from imsd.core.actions import ACTIONS, OPERATIONS
from imsd.core.export_rules import ExportPolicy
from imsd.core.image_refusals import RULES, Asked, refusals
from imsd.core.policy_checks import Check, Explanation, PolicyChecks
from imsd.core.principals import Principals
from imsd.core.roles import ROLES
from imsd.metadata import identity, images, jobs, role_grants
from imsd.metadata.database import Database, open_database
from imsd.metadata.identity_records import GrantRecord, GroupRecord, PrincipalKind, UserRecord
from imsd.metadata.records import ImageKind, ImageRecord, ImageStatus, MemberStatus, Visibility
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, open_runtime, pool_of, some_limits
from tests.unit.metadata.samples import a_job
from tests.unit.policies.policy_world import LOCAL, image, policies, user

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DELETE, LIST, UPDATE = "ims:images:delete", "ims:images:list", "ims:images:update"
LIVE, PROTECTED, THEIRS, PUBLIC, MISSING = (f"{n}0000000-0000-4000-8000-000000000000" for n in range(5))
FULL, OPERATOR = "IMS FullAccess", "IMS Operator"

EXPORTS = ExportPolicy(some_limits(), ["ubuntu"])

POLICY = """
@id("live-stays")
forbid (principal, action == Action::"ims:images:delete", resource is Image)
when { resource.hasTag("stage") && resource.getTag("stage") == "live" };
"""

GRANTS = (
    (PrincipalKind.USER, "alice", "blue", FULL),
    (PrincipalKind.USER, "bob", "blue", "Server Administrator"),
    (PrincipalKind.USER, "bob", "blue", "IMS ReadOnlyAccess"),
    (PrincipalKind.USER, "carol", "blue", FULL),
    (PrincipalKind.USER, "carol", "green", FULL),
    (PrincipalKind.GROUP, "qa", "blue", FULL),
    (PrincipalKind.USER, "from-oidc", "blue", FULL),
    (PrincipalKind.CERTIFICATE, "spiffe://corp/build", "blue", FULL),
    (PrincipalKind.USER, "chief", "*", OPERATOR),
)


async def fill(database: Database) -> None:
    async with database.transaction() as c:
        for user_id in ("alice", "bob", "carol", "dave", "chief"):
            await identity.insert_user(c, UserRecord(id=user_id, description="", created_at=NOW))
        await identity.insert_group(c, GroupRecord(id="qa", description="", created_at=NOW))
        await identity.add_members(c, "qa", ["dave"])
        for kind, name, project_id, role in GRANTS:
            grant = GrantRecord(
                principal_kind=kind, principal_id=name, project_id=project_id, role=role, created_at=NOW
            )
            await role_grants.insert_grant(c, grant)
        for record in (
            image(id=LIVE, tags={"stage": "live"}),
            image(id=PROTECTED, is_protected=True),
            image(id=THEIRS, project_id="green"),
            image(id=PUBLIC, project_id="vendor", visibility=Visibility.PUBLIC, kind=ImageKind.ISO),
        ):
            await images.insert_image(c, record)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3") as database:
        await fill(database)
        yield database


@pytest.fixture
async def checks(tmp_path: Path, database: Database) -> AsyncIterator[PolicyChecks]:
    async with open_runtime(database, pool_of(**{STORE: MemoryStore()})) as runtime:
        access = Access(database, policies(tmp_path / "p", POLICY))
        yield PolicyChecks(runtime, access, Principals(database), EXPORTS)


async def of(checks: PolicyChecks, user_id: str, action: str, **named: str) -> Explanation:
    return await checks.check(LOCAL, Check(action, user_id, **named))


async def test_an_answer_names_policies_roles_and_the_project(checks: PolicyChecks) -> None:
    assert await of(checks, "alice", DELETE) == Explanation(
        is_allowed=True,
        project_id="blue",
        policies=("full-access",),
        roles=[FULL],
        ignored=[],
        sentences=["alice may do ims:images:delete in project blue, permitted by policy full-access"],
        rules=[],
    )


async def test_a_role_without_what_it_depends_on_is_told(checks: PolicyChecks) -> None:
    said = await of(checks, "bob", DELETE)
    assert not said.is_allowed
    assert said.roles == ["IMS ReadOnlyAccess"]
    assert said.ignored == ["Server Administrator (needs IMS Administrator and Tenant Administrator)"]
    assert said.sentences == [
        "bob may not do ims:images:delete in project blue: no policy permits it",
        "granted there, IMS Administrator with Tenant Administrator or IMS FullAccess allows it",
    ]
    assert (await of(checks, "bob", LIST)).is_allowed


async def test_what_a_policy_forbids_is_told(checks: PolicyChecks) -> None:
    said = await of(checks, "alice", DELETE, image_id=LIVE)
    assert (said.is_allowed, said.policies) == (False, ("live-stays",))
    assert "forbidden by policy live-stays, whatever others permit" in said.sentences[0]
    assert LIVE in said.sentences[0]


async def test_rules_that_refuse_all_the_same_are_told(checks: PolicyChecks) -> None:
    said = await of(checks, "alice", DELETE, image_id=PROTECTED)
    assert (said.is_allowed, said.rules) == (True, ["DeleteImage: image 'web' is protected"])
    said = await of(checks, "alice", DELETE, image_id=PUBLIC, project_id="blue")
    assert said.is_allowed
    assert [rule.partition(":")[2].partition(":")[0] for rule in said.rules] == [
        " image 'web' is another project's",
        " image 'web' is public",
    ]
    said = await of(checks, "alice", "ims:images:copy", image_id=PUBLIC, project_id="blue")
    [rule] = said.rules
    assert rule.endswith("is an installation disc, and those are not copied")
    assert (await of(checks, "alice", "ims:images:get", image_id=PUBLIC, project_id="blue")).rules == []


async def test_roles_of_a_group_count(checks: PolicyChecks) -> None:
    assert (await of(checks, "dave", DELETE)).roles == [FULL]


async def test_of_a_user_that_only_tokens_know_the_grants_decide(checks: PolicyChecks) -> None:
    said = await of(checks, "from-oidc", DELETE)
    assert said.is_allowed
    assert said.sentences[-1].startswith("from-oidc is no user here: groups that its OpenID Connect tokens")


async def test_a_certificate_is_found_by_its_name(checks: PolicyChecks) -> None:
    assert (await of(checks, "spiffe://corp/build", DELETE)).is_allowed


@pytest.mark.parametrize("user_id", ["nobody", 'alice"', "*", "me", "\u202e"])
async def test_who_is_not_known_is_not_found(checks: PolicyChecks, user_id: str) -> None:
    with pytest.raises(NotFound, match="there is no user"):
        await of(checks, user_id, DELETE, project_id="blue")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Check("ims:images:erase"), "action"),
        (Check(""), "action"),
        (Check("x" * 100_000), "action"),
        (Check(DELETE, project_id="a b"), "project_id"),
        (Check(DELETE, project_id="*"), "project_id"),
        (Check(DELETE, image_id="web"), "image_id"),
        (Check(DELETE, user_id="x" * 256), "user_id"),
        (Check(DELETE, user_id="a\x00"), "user_id"),
    ],
)
async def test_a_wrong_question_is_refused(checks: PolicyChecks, asked: Check, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await checks.check(LOCAL, asked)
    assert caught.value.field == field
    assert len(caught.value.message) < 300


async def test_a_near_miss_of_an_action_gets_a_hint(checks: PolicyChecks) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await of(checks, "alice", "ims:image:delete")
    assert caught.value.hint == "did you mean ims:images:delete?"


async def test_without_a_project_that_of_the_image_counts(checks: PolicyChecks) -> None:
    assert (await of(checks, "carol", DELETE, image_id=THEIRS)).project_id == "green"
    with pytest.raises(InvalidRequest) as caught:
        await of(checks, "carol", DELETE)
    assert caught.value.reason == "PROJECT_REQUIRED"


async def test_an_image_that_is_not_there_is_not_found(checks: PolicyChecks) -> None:
    for image_id in (MISSING, THEIRS):
        with pytest.raises(NotFound, match="there is no image"):
            await of(checks, "alice", DELETE, image_id=image_id, project_id="blue")


async def test_who_may_not_see_an_image_learns_nothing_of_it(checks: PolicyChecks) -> None:
    nobody = user("erin", FULL, project_id="blue")
    answers = [
        await checks.check(nobody, Check(DELETE, project_id="green", image_id=image_id))
        for image_id in (THEIRS, MISSING)
    ]
    assert answers[0] == answers[1]
    assert not answers[0].is_allowed
    assert answers[0].sentences[-1] == "erin may not see images of project green, so this is not about one"


async def test_nor_does_it_without_naming_a_project(checks: PolicyChecks) -> None:
    erin = user(
        "erin",
        "Tenant Administrator",
        project_id="green",
        roles={"green": frozenset({"Tenant Administrator"}), "blue": frozenset({FULL})},
    )
    for image_id in (THEIRS, MISSING):
        with pytest.raises(InvalidRequest) as caught:
            await checks.check(erin, Check(DELETE, image_id=image_id))
        assert caught.value.reason == "PROJECT_REQUIRED"


async def test_a_caller_asks_for_itself_with_the_roles_it_has(checks: PolicyChecks) -> None:
    alice = user("alice", FULL)  # as its token says: what is granted here is not looked up again
    said = await checks.check(alice, Check(DELETE, image_id=PROTECTED))
    assert said.rules == ["DeleteImage: image 'web' is protected"]
    assert (said.is_allowed, said.project_id) == (True, "blue")
    assert await checks.check(alice, Check(DELETE, "alice", image_id=PROTECTED)) == said


async def test_the_local_administrator_may_all(checks: PolicyChecks) -> None:
    said = await checks.check(LOCAL, Check(DELETE))
    assert (said.is_allowed, said.project_id, said.policies) == (True, "default", ("local-administrator",))


async def test_actions_of_no_project_are_decided_for_all(checks: PolicyChecks) -> None:
    assert (await of(checks, "chief", "ims:identity:manage")).project_id == "*"
    assert (await of(checks, "chief", "ims:identity:manage")).is_allowed
    assert not (await of(checks, "alice", "ims:identity:manage")).is_allowed
    assert (await of(checks, "chief", "ims:traces:listService")).is_allowed
    assert (await of(checks, "chief", "ims:traces:listService")).project_id == "*"
    assert (await of(checks, "alice", "ims:tokens:create")).policies == ("oneself",)
    assert (await of(checks, "alice", "ims:catalog:get")).policies == ("open",)
    assert (await of(checks, "chief", "ims:usage:get", project_id="*")).is_allowed
    assert not (await of(checks, "alice", "ims:usage:get", project_id="*")).is_allowed


async def test_roles_are_shown_with_what_they_allow(checks: PolicyChecks) -> None:
    found = {each.role.name: each.actions for each in checks.roles()}
    assert list(found) == list(ROLES)
    assert found["Tenant Administrator"] == []
    assert found["IMS ReadOnlyAccess"] == [
        "ims:imageJobs:getPercentage",
        "ims:images:get",
        "ims:images:list",
        "ims:keys:get",
        "ims:keys:list",
        "ims:quotas:get",
        "ims:usage:get",
    ]
    assert (
        set(found["IMS FullAccess"]) == set(found["IMS Administrator"]) > set(found["Server Administrator"])
    )
    assert "ims:catalog:get" not in found["IMS FullAccess"]  # everybody may


async def test_actions_are_shown_with_their_calls(checks: PolicyChecks) -> None:
    found = {each.action: each for each in checks.actions()}
    assert tuple(found) == ACTIONS
    assert found[DELETE].methods == ["imsd.v1.ImageService/DeleteImage", "imsd.v1.ImageService/UndeleteImage"]
    assert found[DELETE].is_mutation
    assert not found[LIST].is_mutation
    assert {method for each in found.values() for method in each.methods} == set(OPERATIONS)


def told(action: str, about: ImageRecord, project_id: str = "blue", *, has_job: bool = False) -> list[str]:
    asked = Asked(project_id=project_id, image=about, has_job=has_job, exports=EXPORTS)
    return list(refusals(action, asked))


QUEUED = image(status=ImageStatus.QUEUED, is_prepared=True)
DEACTIVATED = image(status=ImageStatus.DEACTIVATED)
NOT_ACTIVE = (
    "UpdateImage, MoveImage, VerifyImage, SetImageTags, DeleteImageTags: "
    "image 'web' is deactivated, not active"
)


@pytest.mark.parametrize(
    ("action", "about", "rules"),
    [
        (LIST, image(is_published=True), []),
        (UPDATE, image(), []),
        (UPDATE, DEACTIVATED, [NOT_ACTIVE]),
        (DELETE, image(), []),
        (DELETE, QUEUED, []),
        (DELETE, image(status=ImageStatus.QUEUED), ["DeleteImage: image 'web' is being created"]),
        (DELETE, image(status=ImageStatus.SAVING), ["DeleteImage: image 'web' is being created"]),
        (DELETE, image(is_published=True), ["DeleteImage: image 'web' is in the marketplace"]),
        ("ims:images:upload", QUEUED, []),
        ("ims:images:upload", image(), ["RegisterImage: image 'web' was not made without bytes"]),
        ("ims:images:copy", QUEUED, ["image 'web' is queued, not active"]),
        ("ims:images:export", image(), []),
        (
            "ims:images:export",
            image(public_platform="Ubuntu"),
            ["ExportImage: image 'web' descends from a public image of Ubuntu: it cannot be exported"],
        ),
        ("ims:images:export", DEACTIVATED, ["image 'web' is deactivated, not active"]),
        ("ims:images:publish", image(is_published=True), []),
        ("ims:images:publish", image(visibility=Visibility.PUBLIC), ["image 'web' is public"]),
        (
            "ims:images:publish",
            image(kind=ImageKind.ISO),
            ["image 'web' is an ISO image: only a system disk is published"],
        ),
        ("ims:images:publicize", image(), []),
        ("ims:images:publicize", image(visibility=Visibility.PUBLIC, kind=ImageKind.ISO), []),
        (
            "ims:images:publicize",
            image(visibility=Visibility.SHARED),
            ["image 'web' is shared with other projects"],
        ),
        ("ims:images:publicize", image(is_published=True), ["image 'web' is in the marketplace"]),
    ],
)
def test_rules_that_refuse_are_told_with_their_calls(
    action: str, about: ImageRecord, rules: list[str]
) -> None:
    assert told(action, about) == rules


def test_a_job_that_fills_an_image_is_told() -> None:
    assert told(DELETE, QUEUED, has_job=True) == ["DeleteImage: image 'web' is being created"]
    assert told("ims:images:upload", QUEUED, has_job=True) == [
        "RegisterImage: image 'web' is being filled already"
    ]


async def test_whether_a_job_fills_an_image_is_looked_up(checks: PolicyChecks, database: Database) -> None:
    job = a_job(project_id="blue")
    async with database.transaction() as c:
        await jobs.insert_job(c, job)
        await images.insert_image(c, replace(QUEUED, id=MISSING, job_id=job.id))
    said = await of(checks, "alice", DELETE, image_id=MISSING)
    assert said.rules == ["DeleteImage: image 'web' is being created"]


def test_what_a_member_may_do_is_not_refused() -> None:
    [rule] = told("ims:images:share", image(project_id="vendor", member_status=MemberStatus.PENDING))
    assert rule.startswith("AddMembers, RemoveMembers: image 'web' is another project's")


def test_every_call_on_an_image_has_its_rules_or_none() -> None:
    """None: it reads, or its rules need what only its request says, or an image that is deleted."""
    calls = {
        method.rpartition("/")[2]
        for method, each in OPERATIONS.items()
        if each.id_field == "image_id" or (each.resource == "member" and each.is_mutation)
    }
    without = {
        "GetImage",
        "GetImageSpace",
        "GetImageTags",
        "ListMembers",
        "GetMember",
        "UpdateMembers",
        "UndeleteImage",
    }
    assert calls == {*RULES, *without}
    assert not without & set(RULES)

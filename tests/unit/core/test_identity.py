"""Who may call: projects, users, groups, roles, and the caller that comes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imsd.contract import (
    AlreadyExists,
    FailedPrecondition,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unauthenticated,
)
from imsd.core import identity, identity_checks
from imsd.core.authentication import Credentials
from imsd.core.caller import Caller, CallerKind
from imsd.core.identity_services import IdentityServices, identity_services
from imsd.core.principals import REMEMBER_SECONDS
from imsd.core.projects import KnownProjects, chosen_project
from imsd.core.remembered import Changes
from imsd.core.runtime import Runtime
from imsd.metadata import identity as identity_rows
from imsd.metadata import uploads
from imsd.metadata.identity_records import PrincipalKind
from imsd.metadata.role_grants import GrantQuery
from tests.unit.core.core_world import now
from tests.unit.metadata.samples import an_upload

USER, GROUP, CERTIFICATE = PrincipalKind
ADMINISTRATOR = Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="local")
ANN = Caller(kind=CallerKind.API_TOKEN, id="ann")
FULL, READ = "IMS FullAccess", "IMS ReadOnlyAccess"
BAD_NAMES = ["", " ", "a b", "a\n", "é", "a" * 129, "*", "\x00", "\x7f"]


@pytest.fixture
async def services(runtime: Runtime) -> IdentityServices:
    services = identity_services(runtime)
    for name in ("ann", "bob"):
        await services.identity.create_user(name, "")
    await services.identity.create_group("ops", "")
    for name in ("lab", "web"):
        await services.projects.create(name, "")
    return services


async def caller_of(services: IdentityServices, user_id: str = "ann") -> Caller:
    made = await services.tokens.create(ADMINISTRATOR, user_id, "t", 0)
    return await services.authentication.caller(Credentials(peer="ipv4:1", bearer=made.secret))


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_bad_name_is_refused_everywhere(services: IdentityServices, name: str) -> None:
    for call in (
        services.identity.create_user(name, ""),
        services.identity.delete_user(name),
        services.identity.create_group(name, ""),
        services.identity.delete_group(name),
        services.identity.set_members(name, [], []),
        services.identity.set_members("ops", [name], []),
        services.identity.set_members("ops", [], [name]),
        services.grants.grant(USER, name, "lab", FULL),
        services.grants.revoke(GROUP, name, "lab", FULL),
    ):
        with pytest.raises(InvalidRequest):
            await call


@pytest.mark.parametrize("name", ["", "a b", "é", "a" * 65, "*", "a.b", "a/b", "lab\n"])
async def test_a_bad_project_is_refused_everywhere(services: IdentityServices, name: str) -> None:
    for call in (services.projects.create(name, ""), services.projects.delete(name)):
        with pytest.raises(InvalidRequest):
            await call
    if name != "*":
        with pytest.raises(InvalidRequest):
            await services.grants.grant(USER, "ann", name, FULL)


@pytest.mark.parametrize("text", ["a" * 1025, "<b>", "a\rb", "a\x00"])
async def test_a_bad_description_is_refused(services: IdentityServices, text: str) -> None:
    for call in (
        services.projects.create("new", text),
        services.identity.create_user("new", text),
        services.identity.create_group("new", text),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await call
        assert refused.value.field == "description"


async def test_what_is_there_is_not_made_again(services: IdentityServices) -> None:
    for call in (
        services.projects.create("lab", ""),
        services.identity.create_user("ann", ""),
        services.identity.create_group("ops", ""),
    ):
        with pytest.raises(AlreadyExists):
            await call


async def test_what_is_not_there_is_not_found(services: IdentityServices) -> None:
    for call in (
        services.projects.delete("none"),
        services.identity.delete_user("none"),
        services.identity.delete_group("none"),
        services.identity.set_members("none", ["ann"], []),
        services.identity.set_members("ops", ["none"], []),
        services.grants.grant(USER, "none", "lab", FULL),
        services.grants.grant(GROUP, "ann", "lab", FULL),
        services.grants.revoke(USER, "ann", "lab", FULL),
    ):
        with pytest.raises(NotFound) as refused:
            await call
        assert refused.value.reason == "NOT_FOUND"
    with pytest.raises(NotFound) as refused:
        await services.grants.grant(USER, "ann", "none", FULL)
    assert refused.value.reason == "PROJECT_UNKNOWN"


async def test_a_failed_change_of_members_changes_nothing(services: IdentityServices) -> None:
    await services.identity.set_members("ops", ["ann"], [])
    with pytest.raises(NotFound):
        await services.identity.set_members("ops", ["bob", "none"], ["ann"])
    with pytest.raises(InvalidRequest):
        await services.identity.set_members("ops", ["bob"], ["bob"])
    found, _ = await services.identity.list_groups(0, "")
    assert found[0].user_ids == ("ann",)


async def test_groups_and_memberships_are_bounded(
    services: IdentityServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_checks, "MAX_GROUP_USERS", 1)
    with pytest.raises(InvalidRequest):
        await services.identity.set_members("ops", ["ann", "bob"], [])
    await services.identity.set_members("ops", ["ann"], [])
    with pytest.raises(LimitExceeded):
        await services.identity.set_members("ops", ["bob"], [])
    assert (await services.identity.set_members("ops", ["bob"], ["ann"])).user_ids == ("bob",)
    monkeypatch.setattr(identity_checks, "MAX_GROUPS_OF_USER", 1)
    await services.identity.create_group("dev", "")
    with pytest.raises(LimitExceeded):
        await services.identity.set_members("dev", ["bob"], [])
    monkeypatch.setattr(identity_checks, "MAX_GRANTS_OF_PRINCIPAL", 1)
    await services.grants.grant(USER, "ann", "lab", FULL)
    await services.grants.grant(USER, "ann", "lab", FULL)
    with pytest.raises(LimitExceeded):
        await services.grants.grant(USER, "ann", "web", FULL)
    assert len((await services.grants.list(GrantQuery(), 0, ""))[0]) == 1


@pytest.mark.parametrize("role", ["", "FullAccess", "ims fullaccess", "a" * 200, "x\n"])
async def test_only_a_known_role_is_granted(services: IdentityServices, role: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await services.grants.grant(USER, "ann", "lab", role)
    assert refused.value.field == "role"


@pytest.mark.parametrize("name", ["", "a" * 256, "spiffe://x\n", "a\x00b"])
async def test_a_bad_certificate_is_granted_nothing(services: IdentityServices, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await services.grants.grant(CERTIFICATE, name, "lab", FULL)


async def test_lists_come_in_pages(services: IdentityServices) -> None:
    users, token = await services.identity.list_users(1, "")
    assert [user.id for user in users] == ["ann"]
    users, token = await services.identity.list_users(1, token)
    assert ([user.id for user in users], token) == (["bob"], "")
    await services.identity.create_group("dev", "")
    groups, token = await services.identity.list_groups(1, "")
    assert [group.id for group in groups] == ["dev"]
    groups, token = await services.identity.list_groups(1, token)
    assert ([group.id for group in groups], token) == (["ops"], "")
    for project_id in ("lab", "web"):
        await services.grants.grant(USER, "ann", project_id, FULL)
    grants, token = await services.grants.list(GrantQuery(principal_id="ann"), 1, "")
    assert [grant.record.project_id for grant in grants] == ["lab"]
    with pytest.raises(InvalidRequest):
        await services.grants.list(GrantQuery(principal_id="bob"), 1, token)
    grants, token = await services.grants.list(GrantQuery(principal_id="ann"), 1, token)
    assert ([grant.record.project_id for grant in grants], token) == (["web"], "")
    for wrong in (-1, 1001):
        for call in (
            services.identity.list_users(wrong, ""),
            services.identity.list_groups(wrong, ""),
            services.grants.list(GrantQuery(), wrong, ""),
            services.projects.list(ADMINISTRATOR, wrong, ""),
        ):
            with pytest.raises(InvalidRequest):
                await call


async def test_a_page_of_large_groups_is_shorter_but_none_is_left_out(
    services: IdentityServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "MAX_USERS_OF_PAGE", 1)
    for name in ("a", "b"):
        await services.identity.create_group(name, "")
        await services.identity.set_members(name, ["ann", "bob"], [])
    seen, token = [], "first"
    while token:
        found, token = await services.identity.list_groups(0, token if token != "first" else "")
        seen.append([group.id for group in found])
    assert seen == [["a"], ["b"], ["ops"]]


async def test_a_caller_has_its_own_roles_and_those_of_its_groups(services: IdentityServices) -> None:
    await services.identity.set_members("ops", ["ann"], [])
    await services.grants.grant(USER, "ann", "lab", READ)
    await services.grants.grant(GROUP, "ops", "lab", FULL)
    await services.grants.grant(GROUP, "ops", "*", "IMS Operator")
    await services.grants.grant(CERTIFICATE, "ann", "web", FULL)
    caller = await caller_of(services)
    assert (caller.kind, caller.id, caller.groups) == (CallerKind.API_TOKEN, "ann", frozenset({"ops"}))
    assert caller.roles == {"lab": frozenset({READ, FULL}), "*": frozenset({"IMS Operator"})}
    assert [grant.record.role for grant in await services.grants.of_caller(caller)] == [
        READ,
        "IMS Operator",
        FULL,
    ]
    other = await caller_of(services, "bob")
    assert (other.groups, other.roles) == (frozenset(), {})


async def test_a_changed_role_counts_with_the_next_call(services: IdentityServices) -> None:
    made = await services.tokens.create(ADMINISTRATOR, "ann", "t", 0)
    given = Credentials(peer="ipv4:1", bearer=made.secret)
    assert (await services.authentication.caller(given)).roles == {}
    await services.grants.grant(USER, "ann", "lab", READ)
    assert (await services.authentication.caller(given)).roles == {"lab": frozenset({READ})}
    await services.grants.revoke(USER, "ann", "lab", READ)
    assert (await services.authentication.caller(given)).roles == {}
    await services.grants.grant(GROUP, "ops", "lab", READ)
    await services.identity.set_members("ops", ["ann"], [])
    assert (await services.authentication.caller(given)).roles == {"lab": frozenset({READ})}
    await services.identity.delete_group("ops")
    assert (await services.authentication.caller(given)).groups == frozenset()


async def test_a_bearer_token_decides_also_on_the_unix_socket(services: IdentityServices) -> None:
    local = Credentials(peer="unix:", is_local=True, certificate_id="node")
    assert (await services.authentication.caller(local)).is_local_administrator
    for bad in ("imsd_x", "eyJhbGciOiJub25lIn0.e30.", "x"):
        with pytest.raises(Unauthenticated):
            await services.authentication.caller(replace(local, bearer=bad))
    made = await services.tokens.create(ADMINISTRATOR, "ann", "t", 0)
    caller = await services.authentication.caller(replace(local, bearer=made.secret))
    assert (caller.kind, caller.id, caller.peer) == (CallerKind.API_TOKEN, "ann", "unix:")
    assert made.secret not in repr(replace(local, bearer=made.secret))


async def test_a_certificate_calls_under_its_own_name(services: IdentityServices) -> None:
    await services.grants.grant(CERTIFICATE, "spiffe://ims.test/node", "lab", READ)
    await services.grants.grant(USER, "ann", "lab", FULL)
    given = Credentials(peer="ipv4:1", certificate_id="spiffe://ims.test/node")
    caller = await services.authentication.caller(given)
    assert (caller.kind, caller.roles) == (CallerKind.CERTIFICATE, {"lab": frozenset({READ})})
    assert (await services.authentication.caller(replace(given, certificate_id="ann"))).roles == {}
    with pytest.raises(Unauthenticated):
        await services.authentication.caller(Credentials(peer="ipv4:1"))


async def test_a_grant_says_which_roles_it_lacks(services: IdentityServices) -> None:
    server = "Server Administrator"
    first = await services.grants.grant(USER, "ann", "lab", server)
    assert first.missing == ("IMS Administrator", "Tenant Administrator")
    await services.grants.grant(USER, "ann", "*", "Tenant Administrator")
    await services.grants.grant(USER, "ann", "web", "IMS Administrator")
    assert await missing_of(services, server) == ("IMS Administrator",)
    await services.grants.grant(GROUP, "ops", "lab", "IMS Administrator")
    assert await missing_of(services, server) == ("IMS Administrator",)
    await services.identity.set_members("ops", ["ann"], [])
    assert await missing_of(services, server) == ()
    caller = await caller_of(services)
    lacks = {grant.record.role: grant.missing for grant in await services.grants.of_caller(caller)}
    assert lacks == {server: (), "Tenant Administrator": (), "IMS Administrator": ()}
    grants, _ = await services.grants.list(GrantQuery(principal_kind=GROUP), 0, "")
    assert grants[0].missing == ("Tenant Administrator",)  # of the group alone
    assert (await services.grants.grant(USER, "ann", "lab", FULL)).missing == ()


async def missing_of(services: IdentityServices, role: str) -> object:
    grants, _ = await services.grants.list(GrantQuery(), 0, "")
    return next(grant.missing for grant in grants if grant.record.role == role)


async def test_a_project_that_has_something_stays(services: IdentityServices, runtime: Runtime) -> None:
    await services.grants.grant(USER, "ann", "lab", FULL)
    record = an_upload()
    async with runtime.database.transaction() as c:
        await uploads.insert_upload(c, record)
    with pytest.raises(FailedPrecondition) as refused:
        await services.projects.delete("lab")
    assert "an upload" in refused.value.message
    async with runtime.database.transaction() as c:
        await uploads.delete_upload_row(c, record.id)
    await services.projects.delete("lab")
    assert (await caller_of(services)).roles == {}


async def test_who_sees_which_projects(services: IdentityServices) -> None:
    await services.grants.grant(USER, "ann", "web", READ)
    ann = await caller_of(services)
    assert [project.id for project in (await services.projects.list(ann, 0, ""))[0]] == ["web"]
    nobody = await caller_of(services, "bob")
    assert await services.projects.list(nobody, 0, "") == ([], "")
    await services.grants.grant(USER, "bob", "*", READ)
    for caller in (ADMINISTRATOR, await caller_of(services, "bob")):
        found, token = await services.projects.list(caller, 1, "")
        assert [project.id for project in found] == ["lab"]
        found, token = await services.projects.list(caller, 1, token)
        assert ([project.id for project in found], token) == (["web"], "")
    _, token = await services.projects.list(ADMINISTRATOR, 1, "")
    with pytest.raises(InvalidRequest):
        await services.projects.list(ann, 1, token)


async def test_the_local_administrator_makes_a_project_by_using_it(
    services: IdentityServices, runtime: Runtime
) -> None:
    async def is_known(project_id: str) -> bool:
        async with runtime.database.reading() as c:
            return await identity_rows.known_project(c, project_id)

    with pytest.raises(NotFound) as refused:
        await services.projects.known.note(ANN, "new")
    assert refused.value.reason == "PROJECT_UNKNOWN"
    await services.projects.known.note(ADMINISTRATOR, "new")
    await services.projects.known.note(ADMINISTRATOR, "")
    assert await is_known("new")
    assert await is_known("default")
    await services.projects.known.note(ANN, "new")
    await services.projects.delete("new")
    with pytest.raises(NotFound):
        await services.projects.known.note(ANN, "new")
    with pytest.raises(NotFound, match="was deleted") as refused:
        await services.projects.known.note(ADMINISTRATOR, "new")
    assert refused.value.reason == "PROJECT_UNKNOWN"
    assert not await is_known("new")
    await services.projects.known.note(ADMINISTRATOR, "no project\x00")  # refused later, where it is read
    assert not await is_known("no project\x00")


async def test_a_project_that_another_daemon_forgets_is_unknown_here_within_seconds(runtime: Runtime) -> None:
    seconds = 0.0
    here = KnownProjects(runtime.database, now, Changes(), lambda: seconds)
    elsewhere = identity_services(runtime).projects
    await elsewhere.create("new", "")
    await here.note(ANN, "new")
    await elsewhere.delete("new")
    seconds = REMEMBER_SECONDS
    with pytest.raises(NotFound):
        await here.note(ANN, "new")
    await here.note(ADMINISTRATOR, "newer")
    assert [project.id for project in (await elsewhere.list(ADMINISTRATOR, 0, ""))[0]] == ["newer"]


async def test_the_id_of_a_deleted_project_is_not_used_again(services: IdentityServices) -> None:
    """Its finished jobs, its usage and its traces are still there: they are not the next one's."""
    await services.projects.create("gone", "")
    await services.projects.delete("gone")
    for _ in range(2):
        with pytest.raises(AlreadyExists, match="was deleted, and its id is not used again") as refused:
            await services.projects.create("gone", "")
        assert (refused.value.reason, refused.value.field) == ("ALREADY_EXISTS", "id")
        assert refused.value.hint
    with pytest.raises(NotFound, match="there is no project"):
        await services.projects.delete("gone")
    with pytest.raises(NotFound) as unknown:
        await services.grants.grant(USER, "ann", "gone", FULL)
    assert unknown.value.reason == "PROJECT_UNKNOWN"
    await services.projects.create("gone2", "")


async def test_the_project_of_requests_that_name_none_stays(services: IdentityServices) -> None:
    await services.projects.known.note(ADMINISTRATOR, "")
    with pytest.raises(FailedPrecondition, match="'default' is where"):
        await services.projects.delete("default")
    await services.projects.known.note(ADMINISTRATOR, "")


def test_a_caller_with_one_project_need_not_name_it() -> None:
    some = frozenset({READ})
    assert chosen_project(ADMINISTRATOR, "") == ""
    assert chosen_project(replace(ANN, roles={"lab": some}), "") == "lab"
    assert chosen_project(replace(ANN, roles={"lab": some, "*": some}), "") == "lab"
    assert chosen_project(ANN, "web") == "web"
    for roles in ({}, {"*": some}, {"lab": some, "web": some}, {f"p{n}": some for n in range(100)}):
        with pytest.raises(InvalidRequest) as refused:
            chosen_project(replace(ANN, roles=roles), "")
        assert refused.value.reason == "PROJECT_REQUIRED"
        assert len(refused.value.hint) < 300

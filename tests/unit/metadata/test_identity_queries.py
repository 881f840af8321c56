"""Projects, users, groups and roles, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.metadata import api_tokens, identity, images, jobs, members, role_grants, uploads
from imsd.metadata.database import Database
from imsd.metadata.identity_records import (
    GrantRecord,
    GroupRecord,
    PrincipalKind,
    ProjectRecord,
    TokenRecord,
    UserRecord,
)
from imsd.metadata.records import ImageStatus, JobState, MemberRecord, MemberStatus
from imsd.metadata.role_grants import GrantQuery
from tests.unit.metadata.samples import START, a_job, an_image, an_upload, at, new_id

USER, GROUP = PrincipalKind.USER, PrincipalKind.GROUP


def a_project(project_id: str) -> ProjectRecord:
    return ProjectRecord(id=project_id, description="", created_at=START)


def a_user(user_id: str, *groups: str) -> UserRecord:
    return UserRecord(id=user_id, description="", created_at=START, groups=groups)


def a_group(group_id: str, *user_ids: str) -> GroupRecord:
    return GroupRecord(id=group_id, description="", created_at=START, user_ids=user_ids)


def a_grant(
    principal_id: str, project_id: str = "lab", role: str = "R", kind: PrincipalKind = USER
) -> GrantRecord:
    return GrantRecord(
        principal_kind=kind, principal_id=principal_id, project_id=project_id, role=role, created_at=START
    )


def a_token(user_id: str, seconds: float = 0, **values: object) -> TokenRecord:
    given = {"expires_at": at(1000), "created_at": at(seconds)} | values
    return TokenRecord(id=new_id(), user_id=user_id, name="ci", secret_hash=bytes(32), **given)  # type: ignore[arg-type]


async def add_users(c: AsyncConnection, *user_ids: str) -> None:
    for user_id in user_ids:
        assert await identity.insert_user(c, a_user(user_id))


async def test_a_project_is_known_once_it_is_made(database: Database) -> None:
    async with database.transaction() as c:
        assert not await identity.known_project(c, "lab")
        assert await identity.insert_project(c, a_project("lab"))
        assert not await identity.insert_project(c, a_project("lab"))
        assert await identity.known_project(c, "lab")


async def test_projects_come_by_id_page_by_page(database: Database) -> None:
    names = [f"p{number:04}" for number in range(1200)]
    async with database.transaction() as c:
        for name in reversed(names):
            await identity.insert_project(c, a_project(name))
        page = await identity.list_projects(c, 2, "")
        assert [record.id for record in page] == ["p0000", "p0001"]
        page = await identity.list_projects(c, 5000, "p1197")
        assert [record.id for record in page] == ["p1198", "p1199"]
        some = await identity.list_projects(c, 3, "p0001", ["p0002", "p0000", "other", "p0005"])
        assert [record.id for record in some] == ["p0002", "p0005"]
        assert len(await identity.list_projects(c, 5000, "", names)) == 1200


async def test_what_a_project_has_keeps_it(database: Database) -> None:
    shared = an_image(project_id="other")
    async with database.transaction() as c:
        assert await identity.what_a_project_has(c, "lab") == ""
        for status in (ImageStatus.KILLED, ImageStatus.DELETED):
            await images.insert_image(c, an_image(status=status))
        await jobs.insert_job(c, a_job(state=JobState.SUCCESS))
        await images.insert_image(c, shared)
        assert await identity.what_a_project_has(c, "lab") == ""
        member = MemberRecord(
            image_id=shared.id,
            project_id="lab",
            status=MemberStatus.REJECTED,
            created_at=START,
            updated_at=START,
        )
        await members.insert_member(c, member)
        assert await identity.what_a_project_has(c, "lab") == ""  # else a stranger could keep it
        await jobs.insert_job(c, a_job(state=JobState.CANCELLING))
        assert await identity.what_a_project_has(c, "lab") == "unfinished job"
        await uploads.insert_upload(c, an_upload())
        assert await identity.what_a_project_has(c, "lab") == "upload"
        await images.insert_image(c, an_image(status=ImageStatus.PENDING_DELETE))
        assert await identity.what_a_project_has(c, "lab") == "image"


async def test_a_deleted_project_takes_its_roles_along(database: Database) -> None:
    async with database.transaction() as c:
        await identity.insert_project(c, a_project("lab"))
        for project_id in ("lab", "web", "*"):
            await role_grants.insert_grant(c, a_grant("ann", project_id))
        assert await identity.delete_project(c, "lab", START)
        assert not await identity.delete_project(c, "lab", START)
        left = await role_grants.list_grants(c, GrantQuery(), 10, None)
        assert [grant.project_id for grant in left] == ["*", "web"]


async def test_a_deleted_project_is_remembered(database: Database) -> None:
    async with database.transaction() as c:
        for name in ("lab", "web"):
            await identity.insert_project(c, a_project(name))
        assert not await identity.was_project_deleted(c, "lab")
        await identity.delete_project(c, "lab", START)
        assert not await identity.delete_project(c, "nothing", START)
        deleted = [name for name in ("lab", "web", "nothing") if await identity.was_project_deleted(c, name)]
        assert deleted == ["lab"]


async def test_a_user_says_its_groups_and_a_group_its_users(database: Database) -> None:
    async with database.transaction() as c:
        await add_users(c, "eve", "ann", "bob")
        assert not await identity.insert_user(c, a_user("ann"))
        for name in ("ops", "dev"):
            assert await identity.insert_group(c, a_group(name))
            await identity.add_members(c, name, ["bob", "ann", "bob"])
        await identity.add_members(c, "ops", ["ann"])
        await identity.remove_members(c, "dev", ["bob", "nobody"])
        assert await identity.list_users(c, 2, "") == [a_user("ann", "dev", "ops"), a_user("bob", "ops")]
        assert await identity.list_users(c, 2, "bob") == [a_user("eve")]
        assert await identity.get_group(c, "ops") == a_group("ops", "ann", "bob")
        assert await identity.get_group(c, "none") is None
        assert await identity.user_in_most_groups(c, "ops") == ("ann", 2)
        assert await identity.missing_users(c, ["zoe", "ann", "max", "zoe"]) == ["max", "zoe"]


async def test_a_page_of_groups_ends_before_it_has_too_many_users(database: Database) -> None:
    async with database.transaction() as c:
        await add_users(c, "ann", "bob")
        for name in ("a", "b", "c", "d"):
            await identity.insert_group(c, a_group(name))
            await identity.add_members(c, name, ["ann", "bob"] if name != "b" else [])
        found = await identity.list_groups(c, 10, "", 4)
        assert [group.id for group in found] == ["a", "b", "c"]
        assert [group.id for group in await identity.list_groups(c, 10, "c", 1)] == ["d"]


async def test_a_deleted_user_takes_all_along_that_it_had(database: Database) -> None:
    async with database.transaction() as c:
        await add_users(c, "ann", "bob")
        await identity.insert_group(c, a_group("ann"))
        await identity.add_members(c, "ann", ["ann", "bob"])
        await role_grants.insert_grant(c, a_grant("ann"))
        await role_grants.insert_grant(c, a_grant("ann", kind=GROUP))
        token = a_token("ann")
        await api_tokens.insert_token(c, token)
        assert await identity.delete_user(c, "ann")
        assert not await identity.delete_user(c, "ann")
        assert await api_tokens.get_token(c, token.id) is None
        assert await identity.get_group(c, "ann") == a_group("ann", "bob")
        assert await role_grants.list_grants(c, GrantQuery(), 10, None) == [a_grant("ann", kind=GROUP)]
        assert await identity.delete_group(c, "ann")
        assert not await identity.known_group(c, "ann")
        assert await role_grants.list_grants(c, GrantQuery(), 10, None) == []
        assert await identity.known_user(c, "bob")


async def test_a_role_that_is_granted_twice_is_one(database: Database) -> None:
    async with database.transaction() as c:
        first = await role_grants.insert_grant(c, a_grant("ann"))
        later = replace(first, created_at=at(9))
        assert await role_grants.insert_grant(c, later) == first
        assert await role_grants.count_grants(c, USER, "ann") == 1
        assert await role_grants.delete_grant(c, later)
        assert not await role_grants.delete_grant(c, later)


async def test_grants_are_found_by_each_condition_and_in_pages(database: Database) -> None:
    grants = [
        a_grant("ops", "lab", kind=GROUP),
        *(a_grant("ann", project_id, role) for project_id in ("lab", "web") for role in ("A", "B")),
        a_grant("bob"),
    ]
    async with database.transaction() as c:
        for grant in reversed(grants):
            await role_grants.insert_grant(c, grant)
        seen: list[GrantRecord] = []
        while page := await role_grants.list_grants(
            c, GrantQuery(), 2, role_grants.place_of(seen[-1]) if seen else None
        ):
            seen += page
        assert seen == grants
        for query, expected in (
            (GrantQuery(principal_kind=GROUP), grants[:1]),
            (GrantQuery(principal_id="ann"), grants[1:5]),
            (GrantQuery(project_id="web", principal_kind=USER), grants[3:5]),
            (GrantQuery(project_id="none"), []),
        ):
            assert await role_grants.list_grants(c, query, 10, None) == expected


async def test_grants_of_many_principals_are_bounded(database: Database) -> None:
    async with database.transaction() as c:
        for number in range(12):
            await role_grants.insert_grant(c, a_grant(f"g{number:02}", kind=GROUP))
        await role_grants.insert_grant(c, a_grant("g00"))
        ids = [f"g{number:02}" for number in range(2000)]
        assert len(await role_grants.grants_of(c, GROUP, ids, limit=100)) == 12
        assert len(await role_grants.grants_of(c, GROUP, ids, limit=5)) == 5
        assert await role_grants.grants_of(c, GROUP, ids, limit=5, roles=["other"]) == []
        assert await role_grants.grants_of(c, USER, ids, limit=5, roles=["R"]) == [a_grant("g00")]


@pytest.mark.parametrize("wanted", ["", "ann"])
async def test_tokens_are_listed_newest_first(database: Database, wanted: str) -> None:
    tokens = [a_token("ann", seconds) for seconds in (3, 2, 1)]
    async with database.transaction() as c:
        await add_users(c, "ann", "bob")
        for token in tokens:
            await api_tokens.insert_token(c, token)
        first = await api_tokens.list_tokens(c, wanted, None, 2, None)
        assert first == tokens[:2]
        after = (tokens[1].created_at, tokens[1].id)
        assert await api_tokens.list_tokens(c, wanted, None, 2, after) == tokens[2:]
        assert await api_tokens.list_tokens(c, "bob", None, 2, None) == []


async def test_a_token_is_live_until_it_expires_or_is_revoked(database: Database) -> None:
    live, expired, revoked = a_token("ann"), a_token("ann", 1, expires_at=at(10)), a_token("ann", 2)
    async with database.transaction() as c:
        await add_users(c, "ann")
        for token in (live, expired, revoked):
            await api_tokens.insert_token(c, token)
        assert await api_tokens.count_live_tokens(c, "ann", at(9)) == 3
        await api_tokens.revoke_token(c, revoked.id, at(9))
        await api_tokens.revoke_token(c, revoked.id, at(11))
        found = await api_tokens.get_token(c, revoked.id)
        assert found is not None
        assert found.revoked_at == at(9)
        assert await api_tokens.list_tokens(c, "ann", at(10), 9, None) == [live]
        assert await api_tokens.count_live_tokens(c, "ann", at(10)) == 1
        await api_tokens.forget_dead_tokens(c, "ann", at(10), keep=1)
        assert [token.id for token in await api_tokens.list_tokens(c, "", None, 9, None)] == [
            revoked.id,
            live.id,
        ]


async def test_the_last_use_never_goes_back(database: Database) -> None:
    tokens = [a_token("ann"), a_token("ann")]
    async with database.transaction() as c:
        await add_users(c, "ann")
        for token in tokens:
            await api_tokens.insert_token(c, token)
        await api_tokens.note_uses(c, {})
        await api_tokens.note_uses(c, {token.id: at(120) for token in tokens})
        await api_tokens.note_uses(c, {tokens[0].id: at(60), tokens[1].id: at(180)})
        found = [await api_tokens.get_token(c, token.id) for token in tokens]
        assert [each and each.last_used_at for each in found] == [at(120), at(180)]

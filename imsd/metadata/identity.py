"""Projects, users and groups: their rows, and who is in which group."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .identity_records import GroupRecord, PrincipalKind, ProjectRecord, UserRecord
from .identity_tables import deleted_project, group_member, project, role_grant, user_account, user_group
from .key_tables import encryption_key
from .members import leave_shares
from .quota_tables import quota_override
from .records import ImageStatus, JobState
from .rows import in_batches, insert_new, to_row
from .tables import image, job, upload
from .trace_tables import trace_intent

# Of a project, images in these states hold nothing, and jobs in these do nothing any more.
_GONE = (ImageStatus.DELETED, ImageStatus.KILLED)
_ENDED = (JobState.SUCCESS, JobState.FAIL, JobState.CANCELLED)


async def known_project(c: AsyncConnection, project_id: str) -> bool:
    """Whether there is such a project."""
    return await _is_there(c, project, project_id)


async def insert_project(c: AsyncConnection, record: ProjectRecord) -> bool:
    """False, and nothing changed, when it is there already."""
    return await _insert(c, project, to_row(record))


async def was_project_deleted(c: AsyncConnection, project_id: str) -> bool:
    """Whether there was such a project, and is no more."""
    return await _is_there(c, deleted_project, project_id)


async def list_projects(
    c: AsyncConnection, limit: int, after: str, only: Collection[str] | None = None
) -> list[ProjectRecord]:
    """At most ``limit`` whose id comes after ``after``, by id. ``only``: of those, None: of all."""
    if only is None:
        return [ProjectRecord(**row) for row in await _page(c, project, limit, after)]
    found: list[ProjectRecord] = []
    for ids in in_batches(sorted(only)):
        rows = await _page(c, project, limit, after, project.c.id.in_(ids))
        found += [ProjectRecord(**row) for row in rows]
    return sorted(found, key=lambda record: record.id)[:limit]


async def what_a_project_has(c: AsyncConnection, project_id: str) -> str:
    """One kind of thing for which a project cannot be forgotten; empty when it has none."""
    for kind, condition in (
        ("image", exists().where(image.c.project_id == project_id, image.c.status.not_in(_GONE))),
        ("upload", exists().where(upload.c.project_id == project_id)),
        ("key", exists().where(encryption_key.c.project_id == project_id)),
        ("unfinished job", exists().where(job.c.project_id == project_id, job.c.state.not_in(_ENDED))),
    ):
        if (await c.execute(select(condition))).scalar_one():
            return kind
    running = await c.execute(select(trace_intent.c.content["project_id"].as_string()))
    return "running call that changes something" if project_id in running.scalars() else ""


async def delete_project(c: AsyncConnection, project_id: str, now: datetime) -> bool:
    """Forget a project, its roles, its quotas and what others share with it; its id is remembered.

    False when it is not there.
    """
    await c.execute(delete(role_grant).where(role_grant.c.project_id == project_id))
    await c.execute(delete(quota_override).where(quota_override.c.project_id == project_id))
    await leave_shares(c, project_id, now)
    if not await _delete(c, project, project_id):
        return False
    await _insert(c, deleted_project, {"id": project_id, "deleted_at": now})
    return True


async def known_user(c: AsyncConnection, user_id: str) -> bool:
    return await _is_there(c, user_account, user_id)


async def insert_user(c: AsyncConnection, record: UserRecord) -> bool:
    """Without its groups. False, and nothing changed, when it is there already."""
    return await _insert(c, user_account, to_row(record, without=["groups"]))


async def list_users(c: AsyncConnection, limit: int, after: str) -> list[UserRecord]:
    """At most ``limit`` whose id comes after ``after``, by id."""
    rows = await _page(c, user_account, limit, after)
    groups = await groups_of(c, [row["id"] for row in rows])
    return [UserRecord(**row, groups=tuple(groups[row["id"]])) for row in rows]


async def delete_user(c: AsyncConnection, user_id: str) -> bool:
    """Forget a user, its memberships, roles and tokens; False when it is not there."""
    await _delete_grants(c, PrincipalKind.USER, user_id)
    return await _delete(c, user_account, user_id)


async def known_group(c: AsyncConnection, group_id: str) -> bool:
    return await _is_there(c, user_group, group_id)


async def insert_group(c: AsyncConnection, record: GroupRecord) -> bool:
    """Without its users. False, and nothing changed, when it is there already."""
    return await _insert(c, user_group, to_row(record, without=["user_ids"]))


async def get_group(c: AsyncConnection, group_id: str) -> GroupRecord | None:
    row = (await c.execute(select(user_group).where(user_group.c.id == group_id))).mappings().one_or_none()
    return None if row is None else (await _with_users(c, [dict(row)]))[0]


async def list_groups(c: AsyncConnection, limit: int, after: str, max_users: int) -> list[GroupRecord]:
    """At most ``limit`` whose id comes after ``after``, by id; fewer when they have more than ``max_users``.

    One group always comes, if there is any.
    """
    rows = await _page(c, user_group, limit, after)
    sizes = await _sizes(c, [row["id"] for row in rows])
    count, total = 0, 0
    for row in rows:
        total += sizes.get(row["id"], 0)
        if count and total > max_users:
            break
        count += 1
    return await _with_users(c, rows[:count])


async def delete_group(c: AsyncConnection, group_id: str) -> bool:
    """Forget a group, its members and roles; False when it is not there."""
    await _delete_grants(c, PrincipalKind.GROUP, group_id)
    return await _delete(c, user_group, group_id)


async def missing_users(c: AsyncConnection, user_ids: Iterable[str]) -> list[str]:
    """Those of ``user_ids`` that are not there, in order."""
    wanted = sorted(set(user_ids))
    found: set[str] = set()
    for ids in in_batches(wanted):
        rows = await c.execute(select(user_account.c.id).where(user_account.c.id.in_(ids)))
        found.update(rows.scalars())
    return [user_id for user_id in wanted if user_id not in found]


async def add_members(c: AsyncConnection, group_id: str, user_ids: Iterable[str]) -> None:
    """Who is a member stays one."""
    rows = [{"group_id": group_id, "user_id": user_id} for user_id in sorted(set(user_ids))]
    if rows:
        await c.execute(insert_new(c.dialect, group_member), rows)


async def remove_members(c: AsyncConnection, group_id: str, user_ids: Iterable[str]) -> None:
    for ids in in_batches(sorted(set(user_ids))):
        await c.execute(
            delete(group_member).where(group_member.c.group_id == group_id, group_member.c.user_id.in_(ids))
        )


async def groups_of(c: AsyncConnection, user_ids: Iterable[str]) -> dict[str, list[str]]:
    """The groups of each of the users, in order."""
    groups: dict[str, list[str]] = {user_id: [] for user_id in user_ids}
    for ids in in_batches(list(groups)):
        query = select(group_member).where(group_member.c.user_id.in_(ids)).order_by(group_member.c.group_id)
        for row in await c.execute(query):
            groups[row.user_id].append(row.group_id)
    return groups


async def user_in_most_groups(c: AsyncConnection, group_id: str) -> tuple[str, int]:
    """Of a group's members, the one that is in the most groups, and in how many; ("", 0) without members."""
    members = select(group_member.c.user_id).where(group_member.c.group_id == group_id)
    count = func.count()
    query = (
        select(group_member.c.user_id, count.label("groups"))
        .where(group_member.c.user_id.in_(members))
        .group_by(group_member.c.user_id)
        .order_by(count.desc(), group_member.c.user_id)
        .limit(1)
    )
    row = (await c.execute(query)).one_or_none()
    return ("", 0) if row is None else (str(row.user_id), int(row.groups))


async def _sizes(c: AsyncConnection, group_ids: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for ids in in_batches(group_ids):
        query = (
            select(group_member.c.group_id, func.count().label("users"))
            .where(group_member.c.group_id.in_(ids))
            .group_by(group_member.c.group_id)
        )
        sizes |= {row.group_id: row.users for row in await c.execute(query)}
    return sizes


async def _with_users(c: AsyncConnection, rows: Iterable[Mapping[str, Any]]) -> list[GroupRecord]:
    users: dict[str, list[str]] = {row["id"]: [] for row in rows}
    for ids in in_batches(list(users)):
        query = select(group_member).where(group_member.c.group_id.in_(ids)).order_by(group_member.c.user_id)
        for member in await c.execute(query):
            users[member.group_id].append(member.user_id)
    return [GroupRecord(**row, user_ids=tuple(users[row["id"]])) for row in rows]


async def _is_there(c: AsyncConnection, table: Table, row_id: str) -> bool:
    return bool((await c.execute(select(exists().where(table.c.id == row_id)))).scalar_one())


async def _insert(c: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
    return bool((await c.execute(insert_new(c.dialect, table).values(row))).rowcount)


async def _delete(c: AsyncConnection, table: Table, row_id: str) -> bool:
    return bool((await c.execute(delete(table).where(table.c.id == row_id))).rowcount)


async def _delete_grants(c: AsyncConnection, kind: PrincipalKind, principal_id: str) -> None:
    await c.execute(
        delete(role_grant).where(
            role_grant.c.principal_kind == kind, role_grant.c.principal_id == principal_id
        )
    )


async def _page(
    c: AsyncConnection, table: Table, limit: int, after: str, *conditions: ColumnElement[bool]
) -> list[Mapping[str, Any]]:
    rows = select(table).where(table.c.id > after, *conditions).order_by(table.c.id).limit(limit)
    return [dict(row) for row in (await c.execute(rows)).mappings()]

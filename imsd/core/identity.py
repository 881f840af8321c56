"""Users and groups: made, listed, forgotten, and who is in which group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import AlreadyExists, LimitExceeded, NotFound
from imsd.metadata import identity as identity_rows
from imsd.metadata.identity_records import GroupRecord, UserRecord

from . import checks, identity_checks
from .principals import Principals
from .running_calls import RunningCalls
from .runtime import Runtime

# A page of groups ends before it has more users than that, so that it fits a message.
MAX_USERS_OF_PAGE = 10_000


class Identity:
    def __init__(self, runtime: Runtime, principals: Principals, calls: RunningCalls) -> None:
        self._runtime = runtime
        self._principals = principals
        self._calls = calls

    async def create_user(self, user_id: str, description: str) -> UserRecord:
        """Raises InvalidRequest, AlreadyExists."""
        record = UserRecord(
            id=identity_checks.principal_name("id", user_id),
            description=checks.description(description),
            created_at=self._runtime.clock(),
        )
        async with self._principals.changing() as c:
            if not await identity_rows.insert_user(c, record):
                raise AlreadyExists(f"there is a user {user_id!r} already", field="id")
        return record

    async def list_users(self, page_size: int, page_token: str) -> tuple[Sequence[UserRecord], str]:
        """A page, by id, and the token of the next one. Raises InvalidRequest."""
        limit, after = checks.page_size(page_size), self._after("users", page_token)
        async with self._runtime.database.reading() as c:
            found = await identity_rows.list_users(c, limit + 1, after)
        if len(found) <= limit:
            return found, ""
        return found[:limit], self._runtime.tokens.make("users", (found[limit - 1].id, ""))

    async def delete_user(self, user_id: str) -> None:
        """Calls that run with its tokens are ended. Raises InvalidRequest, NotFound."""
        identity_checks.principal_name("id", user_id)
        with ExitStack() as afterwards:
            async with self._principals.changing() as c:
                # However this ends: a commit that is cancelled is made all the same, and who asks again is
                # told that there is no such user.
                afterwards.callback(
                    self._calls.end, lambda caller: bool(caller.token_id) and caller.id == user_id
                )
                if not await identity_rows.delete_user(c, user_id):
                    raise NotFound(f"there is no user {user_id!r}", field="id")

    async def create_group(self, group_id: str, description: str) -> GroupRecord:
        """Raises InvalidRequest, AlreadyExists."""
        record = GroupRecord(
            id=identity_checks.principal_name("id", group_id),
            description=checks.description(description),
            created_at=self._runtime.clock(),
        )
        async with self._principals.changing() as c:
            if not await identity_rows.insert_group(c, record):
                raise AlreadyExists(f"there is a group {group_id!r} already", field="id")
        return record

    async def list_groups(self, page_size: int, page_token: str) -> tuple[Sequence[GroupRecord], str]:
        """A page, by id, and the token of the next one; a page of large groups is shorter."""
        limit, after = checks.page_size(page_size), self._after("groups", page_token)
        async with self._runtime.database.reading() as c:
            found = await identity_rows.list_groups(c, limit, after, MAX_USERS_OF_PAGE)
            has_more = bool(found) and bool(await identity_rows.list_groups(c, 1, found[-1].id, 0))
        return found, self._runtime.tokens.make("groups", (found[-1].id, "")) if has_more else ""

    async def delete_group(self, group_id: str) -> None:
        """Raises InvalidRequest, NotFound."""
        identity_checks.principal_name("id", group_id)
        async with self._principals.changing() as c:
            if not await identity_rows.delete_group(c, group_id):
                raise NotFound(f"there is no group {group_id!r}", field="id")

    async def set_members(self, group_id: str, add: Iterable[str], remove: Iterable[str]) -> GroupRecord:
        """Raises InvalidRequest, NotFound, LimitExceeded."""
        identity_checks.principal_name("id", group_id)
        added = identity_checks.principal_names("add_user_ids", add)
        removed = identity_checks.principal_names("remove_user_ids", remove)
        if both := sorted(set(added) & set(removed)):
            checks.refuse("remove_user_ids", f"{both[0]!r} cannot be added and taken out at once")
        async with self._principals.changing() as c:
            if not await identity_rows.known_group(c, group_id):
                raise NotFound(f"there is no group {group_id!r}", field="id")
            if missing := await identity_rows.missing_users(c, added):
                raise NotFound(f"there is no user {missing[0]!r}", field="add_user_ids")
            await identity_rows.remove_members(c, group_id, removed)
            await identity_rows.add_members(c, group_id, added)
            group = await identity_rows.get_group(c, group_id)
            assert group is not None
            await _require_bounds(c, group)
        return group

    def _after(self, query: str, page_token: str) -> str:
        marker = self._runtime.tokens.read(query, page_token)
        return str(marker[0]) if marker else ""


async def _require_bounds(c: AsyncConnection, group: GroupRecord) -> None:
    if len(group.user_ids) > identity_checks.MAX_GROUP_USERS:
        raise LimitExceeded(
            f"group {group.id!r} would have {len(group.user_ids)} users, at most "
            f"{identity_checks.MAX_GROUP_USERS} are allowed",
            hint="take users out, or use a second group",
        )
    user_id, groups = await identity_rows.user_in_most_groups(c, group.id)
    if groups > identity_checks.MAX_GROUPS_OF_USER:
        raise LimitExceeded(
            f"user {user_id!r} would be in {groups} groups, at most "
            f"{identity_checks.MAX_GROUPS_OF_USER} are allowed",
            hint="take it out of another group first",
        )

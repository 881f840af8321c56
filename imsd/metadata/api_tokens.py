"""API tokens: their rows. Of a secret only the SHA-256 is kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .identity_records import TokenRecord
from .identity_tables import api_token
from .rows import Marker, beyond, in_batches, to_row


async def insert_token(c: AsyncConnection, record: TokenRecord) -> None:
    await c.execute(insert(api_token).values(to_row(record)))


async def get_token(c: AsyncConnection, token_id: str) -> TokenRecord | None:
    row = (await c.execute(select(api_token).where(api_token.c.id == token_id))).mappings().one_or_none()
    return None if row is None else _record(row)


async def list_tokens(
    c: AsyncConnection, user_id: str, live_at: datetime | None, limit: int, after: Marker | None
) -> list[TokenRecord]:
    """The newest first; ``user_id`` empty: of all users; ``live_at``: only those that are good then.

    ``after``: creation time and id of the last one seen.
    """
    rows = select(api_token)
    if user_id:
        rows = rows.where(api_token.c.user_id == user_id)
    if live_at is not None:
        rows = rows.where(_is_live(live_at))
    if after is not None:
        rows = rows.where(beyond(api_token.c.created_at, api_token.c.id, after, descending=True))
    rows = rows.order_by(api_token.c.created_at.desc(), api_token.c.id.desc()).limit(limit)
    return [_record(row) for row in (await c.execute(rows)).mappings()]


async def count_live_tokens(c: AsyncConnection, user_id: str, now: datetime) -> int:
    rows = select(func.count()).select_from(api_token).where(api_token.c.user_id == user_id, _is_live(now))
    return int((await c.execute(rows)).scalar_one())


async def revoke_token(c: AsyncConnection, token_id: str, now: datetime) -> None:
    """A token that was revoked before keeps its time."""
    change = update(api_token).where(api_token.c.id == token_id, api_token.c.revoked_at.is_(None))
    await c.execute(change.values(revoked_at=now))


async def forget_dead_tokens(c: AsyncConnection, user_id: str, now: datetime, keep: int) -> None:
    """Delete tokens of a user that are good no more, but for the ``keep`` newest."""
    dead = [
        api_token.c.user_id == user_id,
        or_(api_token.c.revoked_at.is_not(None), api_token.c.expires_at <= now),
    ]
    rows = select(api_token.c.id).where(*dead)
    rows = rows.order_by(api_token.c.created_at.desc(), api_token.c.id.desc()).offset(keep)
    old = list((await c.execute(rows)).scalars())
    for ids in in_batches(old):
        await c.execute(delete(api_token).where(api_token.c.id.in_(ids)))


async def note_uses(c: AsyncConnection, used_at: Mapping[str, datetime]) -> None:
    """When tokens were used last, by id; an earlier time than the one there changes nothing."""
    if not used_at:
        return
    at = bindparam("used", type_=api_token.c.last_used_at.type)
    is_later = or_(api_token.c.last_used_at.is_(None), api_token.c.last_used_at < at)
    change = update(api_token).where(api_token.c.id == bindparam("token"), is_later).values(last_used_at=at)
    await c.execute(change, [{"token": token_id, "used": time} for token_id, time in used_at.items()])


def _is_live(now: datetime) -> ColumnElement[bool]:
    return and_(api_token.c.revoked_at.is_(None), api_token.c.expires_at > now)


def _record(row: RowMapping) -> TokenRecord:
    return TokenRecord(**dict(row) | {"secret_hash": bytes(row["secret_hash"])})

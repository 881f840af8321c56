"""The name of this database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .tables import service


async def service_id(c: AsyncConnection, new_id: str, now: datetime) -> str:
    """The id this database was given at its first start; ``new_id`` if this is it."""
    found = (await c.execute(select(service.c.id))).scalar_one_or_none()
    if found is not None:
        return str(found)
    await c.execute(insert(service).values(id=new_id, created_at=now))
    return new_id

"""Idempotency: a request id, repeated, gets what its first request made."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from imsd.contract import InvalidRequest
from imsd.metadata import requests as request_rows

from .runtime import Runtime


@dataclass(frozen=True, slots=True)
class RequestKey:
    """``request_id`` may be empty: no idempotency asked for. ``fingerprint`` is of the whole request."""

    project_id: str
    request_id: str
    fingerprint: str


async def recall(c: AsyncConnection, key: RequestKey) -> str | None:
    """The id of what an earlier request with this key made.

    Raises InvalidRequest (REQUEST_ID_REUSED) when that was a different request.
    """
    if not key.request_id:
        return None
    found = await request_rows.recall_request(c, key.project_id, key.request_id)
    if found is None:
        return None
    fingerprint, resource_id = found
    if fingerprint != key.fingerprint:
        raise InvalidRequest(
            f"request id {key.request_id!r} was used for a different request",
            reason="REQUEST_ID_REUSED",
            field="request_id",
            hint="use a new request id for a new request",
        )
    return resource_id


async def remember(c: AsyncConnection, runtime: Runtime, key: RequestKey, resource_id: str) -> None:
    """Note, in the transaction that makes ``resource_id``, that this key made it."""
    if key.request_id:
        await request_rows.remember_request(
            c, key.project_id, key.request_id, key.fingerprint, resource_id, runtime.clock()
        )

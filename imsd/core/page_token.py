"""Page tokens: opaque to the client, authenticated, and good for one query of one project only.

A token holds the sort value and id of the last entry seen, so that it survives the deletion of that
entry, and a mark of the query, so that a token cannot be carried to another filter or project.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime

from imsd.contract import InvalidRequest

Marker = tuple[str | int | datetime, str]

_MAC_BYTES = 16


class PageTokens:
    """Makes and checks tokens with a secret that all nodes of a service share."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, query: object, marker: Marker) -> str:
        """A token for the page after ``marker`` of ``query`` (anything with a stable `repr`)."""
        value, last_id = marker
        is_time = isinstance(value, datetime)
        body = json.dumps([value.isoformat() if isinstance(value, datetime) else value, is_time, last_id])
        return base64.urlsafe_b64encode(self._mac(query, body.encode()) + body.encode()).decode()

    def read(self, query: object, token: str) -> Marker | None:
        """The marker of a token; None for no token. Raises InvalidRequest (INVALID_PAGE_TOKEN)."""
        if not token:
            return None
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii"))
        except ValueError:
            raw = b""
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not body or not hmac.compare_digest(mac, self._mac(query, body)):
            raise InvalidRequest(
                "the page token does not belong to this query",
                reason="INVALID_PAGE_TOKEN",
                field="page_token",
                hint="repeat the query with the same filter and order, without a page token",
            )
        value, is_time, last_id = json.loads(body)
        return (datetime.fromisoformat(value) if is_time else value), last_id

    def key(self, purpose: str) -> bytes:
        """A key of 32 bytes for another purpose, made of the same secret."""
        return hmac.digest(self._secret, f"key for {purpose}".encode(), "sha256")

    def _mac(self, query: object, body: bytes) -> bytes:
        message = hashlib.sha256(repr(query).encode()).digest() + body
        return hmac.digest(self._secret, message, "sha256")[:_MAC_BYTES]

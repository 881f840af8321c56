"""A keyring: keys with their versions, in memory, and as a text that is sealed before it is written."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from imsd.contract import KEY_ID, KeyDescription, KeyState

VERSION_KEY_BYTES = 32

Keyring = Mapping[str, "StoredKey"]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key: what is told of it, and the bytes of each version, oldest first."""

    id: str
    state: KeyState
    created_at: datetime
    delete_at: datetime | None
    versions: tuple[bytes, ...] = field(repr=False)

    @property
    def description(self) -> KeyDescription:
        return KeyDescription(self.id, self.state, len(self.versions), self.created_at, self.delete_at)

    def is_overdue(self, now: datetime) -> bool:
        """Whether it should have been erased."""
        return self.delete_at is not None and self.delete_at <= now

    def rotated(self) -> StoredKey:
        return replace(self, versions=(*self.versions, os.urandom(VERSION_KEY_BYTES)))


class KeyringMalformed(Exception):
    """A text that is no keyring; ``str()`` says what is wrong, without a byte of a key."""


def new_key(key_id: str, now: datetime) -> StoredKey:
    return StoredKey(key_id, KeyState.ENABLED, now, None, (os.urandom(VERSION_KEY_BYTES),))


def keyring_text(keys: Keyring) -> bytes:
    """The keyring as JSON."""
    return json.dumps({"keys": {key.id: _fields_of(key) for key in keys.values()}}).encode()


def parse_keyring(text: bytes) -> Keyring:
    """Raises KeyringMalformed."""
    try:
        found = json.loads(text)["keys"]
        return {key_id: _key_of(key_id, fields) for key_id, fields in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # Not the error itself: it would quote what it stumbled over.
        raise KeyringMalformed(f"its keys cannot be understood ({type(error).__name__})") from None


def _fields_of(key: StoredKey) -> dict[str, object]:
    return {
        "state": key.state.value,
        "created_at": key.created_at.isoformat(),
        "delete_at": key.delete_at and key.delete_at.isoformat(),
        "versions": [base64.b64encode(version).decode() for version in key.versions],
    }


def _key_of(key_id: str, fields: Mapping[str, object]) -> StoredKey:
    versions, delete_at = fields["versions"], fields["delete_at"]
    if not isinstance(versions, list) or not KEY_ID.match(key_id):
        raise KeyringMalformed("it has a key that cannot be one")
    key = StoredKey(
        key_id,
        KeyState(str(fields["state"])),
        _time_of(fields["created_at"]),
        None if delete_at is None else _time_of(delete_at),
        tuple(_bytes_of(version) for version in versions),
    )
    if not key.versions or (key.state is KeyState.PENDING_DELETION) != (key.delete_at is not None):
        raise KeyringMalformed("it has a key that contradicts itself")
    return key


def _time_of(text: object) -> datetime:
    return datetime.fromisoformat(str(text)).astimezone(UTC)


def _bytes_of(text: object) -> bytes:
    try:
        version = base64.b64decode(str(text), validate=True)
    except binascii.Error:
        version = b""
    if len(version) != VERSION_KEY_BYTES:
        raise KeyringMalformed("it has a version of a key that has not 32 bytes")
    return version

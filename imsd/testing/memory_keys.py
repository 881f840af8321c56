"""A key service in memory: the whole contract, and nothing survives the process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from imsd.contract import (
    DATA_KEY_BYTES,
    InvalidRequest,
    KeyCapabilities,
    KeyDescription,
    KeyService,
    KeyState,
    check_context,
    check_data_key,
    check_key_id,
    check_usable,
    key_exists,
    key_mismatch,
    key_not_found,
)

VERSION_BYTES = 4
NONCE_BYTES = 12
WRAPPED_BYTES = VERSION_BYTES + NONCE_BYTES + DATA_KEY_BYTES + 16


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class MemoryKey:
    """A key: what is told of it, and the bytes of each version."""

    description: KeyDescription
    versions: list[bytes] = field(repr=False)


class MemoryKeys(KeyService):
    """Wraps with AES-256-GCM: version, nonce, ciphertext and tag, with the context as associated data."""

    capabilities = KeyCapabilities(rotate=True, list=True, schedule_deletion=True, rewrap=True)

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._keys: dict[str, MemoryKey] = {}

    async def create(self, key_id: str) -> KeyDescription:
        if check_key_id(key_id) in self._keys:
            raise key_exists(key_id)
        made = KeyDescription(key_id, KeyState.ENABLED, 1, self._clock())
        self._keys[key_id] = MemoryKey(made, [os.urandom(32)])
        return made

    async def describe(self, key_id: str) -> KeyDescription:
        return self._find(key_id).description

    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        check_data_key(data_key)
        check_context(context)
        key = self._usable(key_id)
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(key.versions[-1]).encrypt(nonce, data_key, context)
        return len(key.versions).to_bytes(VERSION_BYTES) + nonce + sealed

    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        check_context(context)
        key = self._usable(key_id)
        version = int.from_bytes(wrapped[:VERSION_BYTES])
        if len(wrapped) != WRAPPED_BYTES or not 1 <= version <= len(key.versions):
            raise key_mismatch(key_id)
        nonce, sealed = wrapped[VERSION_BYTES:][:NONCE_BYTES], wrapped[VERSION_BYTES + NONCE_BYTES :]
        try:
            return AESGCM(key.versions[version - 1]).decrypt(nonce, sealed, context)
        except InvalidTag:
            raise key_mismatch(key_id) from None

    async def set_state(self, key_id: str, state: KeyState) -> KeyDescription:
        if state is KeyState.PENDING_DELETION:
            raise InvalidRequest("a key is only enabled or disabled", field="state")
        return self._change(key_id, state, None)

    async def rotate(self, key_id: str) -> KeyDescription:
        key = self._usable(key_id)
        key.versions.append(os.urandom(32))
        key.description = replace(key.description, version=len(key.versions))
        return key.description

    async def rewrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        return await self.wrap(key_id, await self.unwrap(key_id, wrapped, context), context)

    async def list(self) -> AsyncIterator[KeyDescription]:
        self._erase_overdue()
        for key in sorted(self._keys):
            if key in self._keys:  # not erased meanwhile
                yield self._keys[key].description

    async def schedule_deletion(self, key_id: str, at: datetime) -> KeyDescription:
        return self._change(key_id, KeyState.PENDING_DELETION, at.astimezone(UTC))

    def _change(self, key_id: str, state: KeyState, delete_at: datetime | None) -> KeyDescription:
        key = self._find(key_id)
        key.description = replace(key.description, state=state, delete_at=delete_at)
        return key.description

    def _usable(self, key_id: str) -> MemoryKey:
        key = self._find(key_id)
        check_usable(key.description)
        return key

    def _find(self, key_id: str) -> MemoryKey:
        self._erase_overdue()
        try:
            return self._keys[key_id]
        except KeyError:
            raise key_not_found(key_id) from None

    def _erase_overdue(self) -> None:
        now = self._clock()
        for key_id, key in tuple(self._keys.items()):
            if key.description.delete_at is not None and key.description.delete_at <= now:
                del self._keys[key_id]

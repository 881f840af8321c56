"""The contract of a key service: where the keys are that wrap the data keys of encrypted images.

Vocabulary: a *key* stays inside its key service for ever, has an id, a state and *versions*; a *data key*
encrypts the bytes of one image and is made by the core; it is *wrapped* by a key before it is stored. The
*context* is what a wrapped key belongs to, an image: it is not secret, and without the same context nothing
is unwrapped.

Life of a key::

    create(id) --> enabled <-- set_state --> disabled
                      |                         |
                      '-- schedule_deletion(at) +--> pending_deletion --> at its time erased: no such key
                                                          |
                                                          '-- set_state --> enabled or disabled again

What the core guarantees to a driver: ids of keys match `KEY_ID`, are random and never reused; data keys have
`DATA_KEY_BYTES` bytes; contexts 1 to `MAX_CONTEXT_BYTES`; every method may be cancelled at an await; methods
are called concurrently.

What a driver guarantees to the core:

* **Secrecy**: a key never leaves the key service, neither a key nor a data key is written to a disk
  unwrapped, and no message, log line or representation has a byte of one, of a passphrase or of a token.
* **Binding**: what `wrap` gave is unwrapped by the same key with the same context, and by nothing else: one
  altered bit, another length, another key or another context is DataLoss (KEY_MISMATCH), never other bytes.
* **Durability**: when `create` or `rotate` returns, the key survives a power cut: what it wraps would be lost
  with it.
* **States**: a disabled key and one that is to be deleted wrap and unwrap nothing, for every daemon that uses
  the key service, as soon as the call returns that said so.
* **Versions**: after `rotate`, what older versions wrapped is still unwrapped.
* **Erasure**: from `KeyDescription.delete_at` on there is no such key, and the driver erases it without being
  asked: while it is open, or when it is opened again.
* **Cancellation**: a cancelled call happened whole or not at all; no thread of it goes on.
* **Errors**: only `ImsError` classes. Those of a key are made by the functions below; besides, Unavailable
  (KEY_SERVICE_UNAVAILABLE) when trying again later may help, and PermissionDenied (KEY_SERVICE_DENIED) when
  the key service refuses what the configuration says about who we are. Every method may raise these two.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidRequest, NotFound

# 1 to 64 of a-z, 0-9 and '-', with a letter or digit at both ends.
KEY_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")

# For AES-256.
DATA_KEY_BYTES = 32

MAX_CONTEXT_BYTES = 1024

# What `KeyService.wrap` returns has 1 to so many bytes.
MAX_WRAPPED_BYTES = 4096


class KeyState(StrEnum):
    """What a key is for at the moment: for use, for nothing, or for nothing and soon erased."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    PENDING_DELETION = "pending_deletion"


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """A key. ``version`` is the newest, from 1 on, and only grows; times are UTC.

    ``delete_at``: when it will be erased; None unless it is pending deletion.
    """

    id: str
    state: KeyState
    version: int
    created_at: datetime
    delete_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCapabilities:
    """Which optional methods a key service has. The core emulates or does without the rest.

    Without ``rewrap`` the core unwraps and wraps again, so the data key is in its memory for that time.
    """

    rotate: bool = False
    list: bool = False
    schedule_deletion: bool = False
    rewrap: bool = False


class KeyService(ABC):
    """One opened key service. Five required methods, and four by capability."""

    capabilities: KeyCapabilities = KeyCapabilities()

    @abstractmethod
    async def create(self, key_id: str) -> KeyDescription:
        """Make a key, enabled and at version 1. Raises AlreadyExists.

        After an Unavailable the outcome is unknown: the core asks again, and takes AlreadyExists for a yes.
        """

    @abstractmethod
    async def describe(self, key_id: str) -> KeyDescription:
        """Raises NotFound (KEY_NOT_FOUND)."""

    @abstractmethod
    async def wrap(self, key_id: str, data_key: bytes, context: bytes) -> bytes:
        """``data_key``, encrypted by the newest version and bound to ``context``.

        Raises NotFound (KEY_NOT_FOUND), FailedPrecondition (KEY_DISABLED, KEY_PENDING_DELETION), and
        InvalidRequest for sizes that are not those of the contract (`check_data_key`, `check_context`).
        """

    @abstractmethod
    async def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The data key that `wrap` was given.

        Raises what `wrap` raises, and DataLoss (KEY_MISMATCH) when ``wrapped`` is not what this key wrapped
        for this context, whatever it is and however long.
        """

    @abstractmethod
    async def set_state(self, key_id: str, state: KeyState) -> KeyDescription:
        """Enable or disable a key; either calls a scheduled deletion off. What is so already is no error.

        Raises NotFound (KEY_NOT_FOUND), InvalidRequest for `KeyState.PENDING_DELETION`.
        """

    async def rotate(self, key_id: str) -> KeyDescription:
        """Make a new version, with which `wrap` goes on. Not repeatable: each call makes one.

        Raises NotFound (KEY_NOT_FOUND), FailedPrecondition (KEY_DISABLED, KEY_PENDING_DELETION).
        """
        raise _not_offered("rotate")

    async def rewrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        """``wrapped``, by the newest version; the data key stays inside the key service.

        Raises what `unwrap` raises.
        """
        raise _not_offered("rewrap")

    def list(self) -> AsyncIterator[KeyDescription]:
        """All keys in the order of their ids, those included that are disabled or to be deleted.

        A key made or erased meanwhile may or may not appear; all others appear exactly once.
        """
        raise _not_offered("list")

    async def schedule_deletion(self, key_id: str, at: datetime) -> KeyDescription:
        """Have a key erased at ``at`` (with a time zone; past: now). Asked again, the new time counts.

        Raises NotFound (KEY_NOT_FOUND).
        """
        raise _not_offered("schedule_deletion")


def check_key_id(text: str) -> str:
    """``text`` if it is the id of a key. Raises InvalidRequest."""
    if not KEY_ID.match(text):
        raise InvalidRequest(f"{text[:80]!r} is not an id of a key", field="key_id")
    return text


def check_data_key(data_key: bytes) -> None:
    """Raises InvalidRequest if ``data_key`` has not `DATA_KEY_BYTES` bytes."""
    if len(data_key) != DATA_KEY_BYTES:
        raise InvalidRequest(f"a data key has {DATA_KEY_BYTES} bytes, not {len(data_key)}", field="data_key")


def check_context(context: bytes) -> None:
    """Raises InvalidRequest if ``context`` has not 1 to `MAX_CONTEXT_BYTES` bytes."""
    if not 1 <= len(context) <= MAX_CONTEXT_BYTES:
        raise InvalidRequest(
            f"a context has 1 to {MAX_CONTEXT_BYTES} bytes, not {len(context)}", field="context"
        )


def check_usable(key: KeyDescription) -> None:
    """Raises FailedPrecondition (KEY_DISABLED, KEY_PENDING_DELETION) unless ``key`` is enabled."""
    if key.state is KeyState.DISABLED:
        raise FailedPrecondition(
            f"the key {key.id} is disabled", reason="KEY_DISABLED", hint="enable it, or use another key"
        )
    if key.state is KeyState.PENDING_DELETION:
        when = f" at {key.delete_at:%Y-%m-%d %H:%M:%S} UTC" if key.delete_at else ""
        raise FailedPrecondition(
            f"the key {key.id} will be deleted{when}",
            reason="KEY_PENDING_DELETION",
            hint="enable it again while it is there, or use another key",
        )


def _not_offered(capability: str) -> FailedPrecondition:
    return FailedPrecondition(f"this key service does not offer {capability}")


def key_exists(key_id: str) -> AlreadyExists:
    """The error for an id that is taken."""
    return AlreadyExists(f"there is a key {key_id} already", field="key_id")


def key_not_found(key_id: str) -> NotFound:
    """The error for an id without a key."""
    return NotFound(
        f"the key service has no key {key_id}",
        reason="KEY_NOT_FOUND",
        hint="it was never made there, or it was deleted; a backup of the key service may have it",
        field="key_id",
    )


def key_mismatch(key_id: str) -> DataLoss:
    """The error for bytes that the key did not wrap for the context; it says nothing of either."""
    return DataLoss(
        f"the wrapped data key does not belong to the key {key_id} and this image, or was altered",
        reason="KEY_MISMATCH",
        hint="restore the wrapped data key, or the key service, from a backup",
    )

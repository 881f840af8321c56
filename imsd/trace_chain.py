"""The chain of traces: what a hash covers, what a seal says, and what is wrong with a chain.

proto/README.md writes the forms down, so that anybody can check an export. This module needs nothing of imsd:
the daemon makes chains with it, imsctl checks exported ones.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

SERVICE: Final = "IMS"

# What the first trace of a chain has as the hash of the one before it.
GENESIS: Final = "0" * 64

# The trace that the daemon leaves when it removes old ones, and the detail that says up to which.
REMOVAL: Final = "removeTraces"
REMOVED_UP_TO: Final = "up_to"

# The trace that the daemon leaves when a chain does not end as it left it; the message says how.
DOUBT: Final = "doubtTraces"

# What is no part of the form that a hash covers.
_HASHES: Final = ("hash", "previous_hash")

_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


class TraceOutcome(StrEnum):
    SUCCEEDED = "succeeded"
    DENIED = "denied"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a call changed or was to change: see ``Trace`` of the contract. `chained` gives it its place."""

    id: str
    project_id: str
    time: datetime
    name: str
    resource_type: str
    resource_id: str = ""
    resource_name: str = ""
    outcome: TraceOutcome = TraceOutcome.INTERRUPTED
    reason: str = ""
    message: str = ""
    caller_kind: str
    caller_id: str
    token_id: str = ""
    peer: str = ""
    method: str
    action: str
    call_id: str = ""
    request_id: str = ""
    job_id: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    sequence: int = 0
    previous_hash: str = ""
    hash: str = ""

    def fields(self) -> dict[str, Any]:
        """As it is exported: JSON values, by the names of the contract."""
        return {
            "id": self.id,
            "project_id": self.project_id,
            "sequence": self.sequence,
            "time": time_text(self.time),
            "name": self.name,
            "service": SERVICE,
            "resource_type": self.resource_type,
            "resource_id": self.resource_id,
            "resource_name": self.resource_name,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "message": self.message,
            "caller_kind": self.caller_kind,
            "caller_id": self.caller_id,
            "token_id": self.token_id,
            "peer": self.peer,
            "method": self.method,
            "action": self.action,
            "call_id": self.call_id,
            "request_id": self.request_id,
            "job_id": self.job_id,
            "details": dict(self.details),
            "previous_hash": self.previous_hash,
            "hash": self.hash,
        }

    def chained(self, sequence: int, previous_hash: str) -> Trace:
        """This trace at its place in the chain."""
        placed = replace(self, sequence=sequence, previous_hash=previous_hash)
        return replace(placed, hash=hash_of(placed.fields(), previous_hash))


def time_text(value: datetime) -> str:
    """RFC 3339 in UTC, always with six digits of the second."""
    return value.astimezone(UTC).strftime(_TIME)


def time_of(text: str) -> datetime:
    """The time that `time_text` writes as ``text``. Raises ValueError."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def hash_of(fields: Mapping[str, Any], previous_hash: str) -> str:
    """The hash of an exported trace: of its canonical form and the hash of the trace before it."""
    covered = {name: value for name, value in fields.items() if name not in _HASHES}
    return hashlib.sha256(canonical(covered) + previous_hash.encode()).hexdigest()


def canonical(fields: Mapping[str, Any]) -> bytes:
    """The one way to write ``fields`` as JSON, RFC 8785, for texts, whole numbers and objects of these."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Up to trace ``sequence`` the chain of the project ended in ``hash``. ``mac``: 64 hex digits."""

    project_id: str
    sequence: int
    hash: str
    sealed_at: datetime
    key_id: str
    mac: str


class SealKey:
    """Makes and checks seals. ``id`` names the key and tells nothing of it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.id = hashlib.sha256(b"imsd trace key\0" + secret).hexdigest()[:16]

    def seal(self, project_id: str, sequence: int, hash: str, sealed_at: datetime) -> Seal:
        unsigned = Seal(
            project_id=project_id, sequence=sequence, hash=hash, sealed_at=sealed_at, key_id=self.id, mac=""
        )
        return replace(unsigned, mac=self._mac(unsigned))

    def holds(self, seal: Seal) -> bool:
        """Whether this key made ``seal``, for just this place of just this chain."""
        return hmac.compare_digest(seal.mac.encode(), self._mac(seal).encode())

    def mark(self, project_id: str, sequence: int, hash: str) -> str:
        """What stands at the end of a chain that a daemon with this key wrote; it goes with the next trace.

        It says less than a seal: the chain had such an end once.
        """
        return self._digest({"project_id": project_id, "sequence": sequence, "hash": hash})

    def _mac(self, seal: Seal) -> str:
        return self._digest(
            {
                "project_id": seal.project_id,
                "sequence": seal.sequence,
                "hash": seal.hash,
                "sealed_at": time_text(seal.sealed_at),
            }
        )

    def _digest(self, said: Mapping[str, Any]) -> str:
        return hmac.digest(self._secret, canonical(said), "sha256").hex()

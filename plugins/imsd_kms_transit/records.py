"""What a transit engine knows of a key, and how states are kept in it: an engine has no states for keys.

A key ``abc`` is the transit key ``imsd-abc``, of type aes256-gcm96 and *derived*: the context of a wrapped
data key makes the key that encrypts it, so another context decrypts nothing.

It is **disabled** when its ``min_encryption_version`` is not 0. To disable a key sets that, makes a version,
by which nothing is ever wrapped, and sets ``min_decryption_version`` to it: so the server itself refuses to
decrypt what was wrapped, whoever asks. To enable it sets them back.

What is to be known again then stands in the name of a *marker*, another transit key which encrypts nothing::

    imsd-abc.off.1.1795815481               disabled; min_decryption_version was 1; made at that second
    imsd-abc.del.1.1795815481.1798407481    and to be deleted at that second

A key that is not disabled in this way has no marker, or one that a crash left and that counts for nothing. Of
several markers ``off`` counts before ``del``, and a later deletion before an earlier one: in doubt nothing is
deleted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from imsd.contract import KEY_ID, KeyDescription, KeyState

MARKER = re.compile(
    r"(?P<id>[a-z0-9-]+)\.(?P<kind>off|del)\.(?P<version>\d{1,9})\.(?P<made>\d{1,12})(\.(?P<at>\d{1,12}))?\Z"
)


MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Marker:
    """Times are seconds since 1970; ``delete_at`` is None for a key that is disabled only."""

    key_id: str
    min_version: int
    created_at: int
    delete_at: int | None

    @property
    def suffix(self) -> str:
        """Its name, without the prefix of all."""
        kind, end = ("off", "") if self.delete_at is None else ("del", f".{self.delete_at}")
        return f"{self.key_id}.{kind}.{self.min_version}.{self.created_at}{end}"

    def is_overdue(self, now: datetime) -> bool:
        return self.delete_at is not None and self.delete_at <= now.timestamp()


@dataclass(frozen=True, slots=True)
class TransitKey:
    """A key as the engine tells of it."""

    key_id: str
    newest_version: int
    min_decryption_version: int
    min_encryption_version: int
    oldest_created_at: int
    min_available_version: int
    is_soft_deleted: bool

    @property
    def is_closed(self) -> bool:
        """Whether it was disabled as above; then a marker counts."""
        return self.min_encryption_version > 0

    @property
    def is_enabled(self) -> bool:
        return not self.is_closed and not self.is_soft_deleted

    def described(self, marker: Marker | None) -> KeyDescription:
        """``marker``: the one that counts, of a key that is closed."""
        created_at, delete_at = self.oldest_created_at, None
        state = KeyState.ENABLED if self.is_enabled else KeyState.DISABLED
        if marker is not None and self.is_closed:
            created_at = marker.created_at
            if marker.delete_at is not None:
                state, delete_at = KeyState.PENDING_DELETION, time_of(marker.delete_at)
        return KeyDescription(self.key_id, state, self.newest_version, time_of(created_at), delete_at)


def parse_key(key_id: str, data: Mapping[str, Any]) -> TransitKey | None:
    """None for a key of another type, which is none of ours. Raises MALFORMED for what tells of no key."""
    if data["type"] != "aes256-gcm96" or not data["derived"]:
        return None
    return TransitKey(
        key_id,
        newest_version=int(data["latest_version"]),
        min_decryption_version=int(data["min_decryption_version"]),
        min_encryption_version=int(data["min_encryption_version"]),
        oldest_created_at=min(int(created) for created in data["keys"].values()),
        min_available_version=int(data.get("min_available_version", 0)),
        is_soft_deleted=bool(data.get("soft_deleted")),  # which only OpenBao has
    )


def parse_names(names: Iterable[object], prefix: str) -> tuple[set[str], dict[str, list[Marker]]]:
    """The ids of all keys and the markers of each, in the names of the engine's keys; others are left out."""
    ids: set[str] = set()
    markers: dict[str, list[Marker]] = {}
    for name in names:
        if not isinstance(name, str) or not name.startswith(prefix):
            continue
        rest = name.removeprefix(prefix)
        if KEY_ID.match(rest):
            ids.add(rest)
        elif marker := parse_marker(rest):
            markers.setdefault(marker.key_id, []).append(marker)
    return ids, markers


def parse_marker(suffix: str) -> Marker | None:
    found = MARKER.match(suffix)
    if (
        found is None
        or not KEY_ID.match(found["id"])
        or (found["kind"] == "del") != (found["at"] is not None)
    ):
        return None
    at = None if found["at"] is None else int(found["at"])
    return Marker(found["id"], int(found["version"]), int(found["made"]), at)


def counting(markers: Iterable[Marker]) -> Marker | None:
    """The marker that counts, of a key that is closed."""
    return max(markers, key=_weight, default=None)


def _weight(marker: Marker) -> float:
    return math.inf if marker.delete_at is None else marker.delete_at


def time_of(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def seconds_of(at: datetime) -> int:
    """Never earlier."""
    return math.ceil(at.timestamp())

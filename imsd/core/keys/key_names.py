"""What names of keys may be, and how long deleted ones are kept: as in the hosted service's KMS."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from imsd.contract import NotFound
from imsd.core import checks

# KMS: 1 to 255 characters of these.
NAME: Final = re.compile(r"[A-Za-z0-9:/_-]{1,255}\Z")

# Contract §10.7: the key of a project that named none, made when it is used first. KMS gives no other key a
# name with this end.
DEFAULT_KEY: Final = "ims/default"
OF_DEFAULTS: Final = "/default"

# KMS, "Scheduling the Deletion for a Key": from 7 to 1,096 days.
MIN_PENDING_DAYS: Final = 7
MAX_PENDING_DAYS: Final = 1096


def new_name(value: str) -> str:
    """The name that a caller gives a key. Raises InvalidRequest."""
    if not NAME.match(value):
        checks.refuse(
            "name",
            f"{value[:80]!r} cannot be the name of a key" if value else "name is missing",
            "1 to 255 letters, digits, : / _ or -",
        )
    if value.endswith(OF_DEFAULTS):
        checks.refuse(
            "name",
            f"{value!r} is a name for default keys",
            f"choose another one; {DEFAULT_KEY} is there as soon as it is used",
        )
    return value


def id_or_name(value: str, field: str = "key_id") -> str:
    """What a request calls a key. Raises InvalidRequest."""
    if not NAME.match(value):
        checks.refuse(
            field,
            f"{value[:80]!r} is neither the id nor the name of a key" if value else f"{field} is missing",
            "list the keys with `imsctl key list`",
        )
    return value


def pending_time(days: int) -> timedelta:
    """How long a key that is to be deleted is kept. Raises InvalidRequest."""
    return timedelta(days=checks.number("pending_days", days, MIN_PENDING_DAYS, MAX_PENDING_DAYS))


def no_key(project_id: str, named: str, field: str = "key_id") -> NotFound:
    """The error for what is no key of the project, whether another one has it or not."""
    return NotFound(
        f"project {project_id} has no key {named!r}",
        reason="KEY_NOT_FOUND",
        field=field,
        hint="list the keys with `imsctl key list`, or make one with `imsctl key create`",
    )

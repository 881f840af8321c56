"""What the server answers, and the one table of what it means when that is not what was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imsd.contract import ImsError, PermissionDenied, Unavailable

MAX_TOLD_CHARACTERS = 200

# Statuses of an answer that says yes or no to what was asked; what a no means depends on the question.
ANSWERED = frozenset({200, 204, 400, 404})

UNAVAILABLE, DENIED = (Unavailable, "KEY_SERVICE_UNAVAILABLE"), (PermissionDenied, "KEY_SERVICE_DENIED")

# (condition, reason), what to do. A status that is not here: UNAVAILABLE.
ERRORS: Mapping[int, tuple[tuple[type[ImsError], str], str]] = {
    301: (UNAVAILABLE, "the server sends us elsewhere: put the address of the active node into url"),
    302: (UNAVAILABLE, "the server sends us elsewhere: put the address of the active node into url"),
    307: (UNAVAILABLE, "the server sends us elsewhere: put the address of the active node into url"),
    308: (UNAVAILABLE, "the server sends us elsewhere: put the address of the active node into url"),
    401: (DENIED, "a proxy asks who we are: put the address of the server itself into url"),
    403: (DENIED, "check the token or the AppRole, and its policy: see the README of imsd_kms_transit"),
    405: (DENIED, "check mount: it should be the path of a transit engine"),
    412: (UNAVAILABLE, "try again in a moment"),
    413: (UNAVAILABLE, "check the limits of a proxy before the server"),
    429: (UNAVAILABLE, "raise the rate limit of the server, or try again later"),
    472: (UNAVAILABLE, "put the address of the active node into url"),
    473: (UNAVAILABLE, "put the address of the active node into url"),
    500: (UNAVAILABLE, "look at the log of the server"),
    502: (UNAVAILABLE, "a proxy does not reach the server"),
    503: (UNAVAILABLE, "the server is sealed or starts: unseal it, or try again later"),
    504: (UNAVAILABLE, "a proxy does not reach the server"),
}

# With status 404: nothing is there to be asked.
NO_PLACE = ("no handler for route", "namespace not found")

# The server did nothing, so that asking again repeats nothing.
REFUSED_UNTRIED = frozenset({412, 429, 472, 473, 503})

# Asking again may help.
PASSING = REFUSED_UNTRIED | {500, 502, 504}


@dataclass(frozen=True, slots=True)
class Answer:
    """``data`` may hold a data key or a token: it is not shown."""

    status: int
    errors: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    auth: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_yes(self) -> bool:
        return self.status in (200, 204)

    def says(self, *parts: str) -> bool:
        """Whether an error of it has one of the ``parts``."""
        return any(part in error for error in self.errors for part in parts)


class NoAnswer(Exception):
    """What came is none of the server's answers; ``str()`` says what it is."""


def read_answer(status: int, content: bytes) -> Answer:
    """Raises NoAnswer."""
    if not content.strip():
        return Answer(status)
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise NoAnswer(f"something else than JSON (status {status})") from None
    if not isinstance(body, dict):
        raise NoAnswer(f"something else than a message (status {status})")
    errors = body.get("errors")
    told = tuple(str(error)[:MAX_TOLD_CHARACTERS] for error in errors) if isinstance(errors, list) else ()
    return Answer(status, told, _mapping(body.get("data")), _mapping(body.get("auth")))


def error_of(answer: Answer) -> ImsError:
    """For an answer that is neither what was asked for nor a no that the caller understands."""
    (condition, reason), hint = ERRORS.get(answer.status, (UNAVAILABLE, ""))
    if answer.says(*NO_PLACE):
        (condition, reason), hint = DENIED, "check mount and namespace: there is no such engine"
    words = ": " + "; ".join(" ".join(error.split()) for error in answer.errors[:3]) if answer.errors else ""
    return condition(f"the key service answers {answer.status}{words}", reason=reason, hint=hint)


def unreachable(why: str, hint: str = "check url, the network and the server, then try again") -> Unavailable:
    return Unavailable(f"the key service does not answer: {why}", reason="KEY_SERVICE_UNAVAILABLE", hint=hint)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

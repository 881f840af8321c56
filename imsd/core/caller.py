"""Who calls: set for the time of a call, read wherever the core must know."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

# A role granted in this "project" counts in every project.
EVERY_PROJECT = "*"


class CallerKind(StrEnum):
    LOCAL_ADMINISTRATOR = "local_administrator"
    API_TOKEN = "api_token"
    OIDC = "oidc"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A principal, authenticated.

    ``id``: the user, or what the certificate says. ``roles``: names of granted roles by project, or by
    `EVERY_PROJECT`. ``peer``: from where it called, as gRPC tells it.
    """

    kind: CallerKind
    id: str
    groups: frozenset[str] = frozenset()
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    token_id: str = ""
    peer: str = ""

    @property
    def is_local_administrator(self) -> bool:
        return self.kind is CallerKind.LOCAL_ADMINISTRATOR


# What the daemon does on its own, outside of any call, it does as this one.
THE_DAEMON = Caller(kind=CallerKind.LOCAL_ADMINISTRATOR, id="imsd")

_caller: ContextVar[Caller] = ContextVar("caller", default=THE_DAEMON)


def current_caller() -> Caller:
    """Who makes the call that runs now."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Only for what begins a call, in the task of the call."""
    _caller.set(caller)

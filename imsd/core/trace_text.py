"""What of a request may stand in a trace: texts that fit, and the project whose trace it is."""

from __future__ import annotations

from typing import Final

from . import limits
from .caller import EVERY_PROJECT, Caller

# The chain of what belongs to no project: users, groups, tokens, projects. No project can have this name.
SERVICE_CHAIN: Final = "@service"

MAX_ID: Final = 255
MAX_NAME: Final = 128
MAX_REQUEST_ID: Final = 128
MAX_REASON: Final = 64
MAX_MESSAGE: Final = 500
MAX_DETAILS: Final = 24
MAX_DETAIL: Final = 8192
# Of the values of all details together: a hundred ids of images and ten of projects, say.
MAX_DETAILS_TOGETHER: Final = 12_288

_CUT: Final = "…"


def fitted(text: str, longest: int) -> str:
    """``text`` without what cannot be printed, cut so that its end shows that it was.

    A zero character would be refused by a database, a line feed would make two lines of a listed trace.
    """
    shown = text[: longest + 1]
    if not shown.isprintable():
        shown = "".join(character if character.isprintable() else "\ufffd" for character in shown)
    return shown if len(shown) <= longest else shown[: longest - 1] + _CUT


def fitted_details(details: dict[str, str]) -> dict[str, str]:
    """The first details that fit; one that does not fit whole is cut."""
    left = MAX_DETAILS_TOGETHER
    found = {}
    for name, value in list(details.items())[:MAX_DETAILS]:
        if left > 0:
            found[name] = fitted(value, min(left, MAX_DETAIL))
            left -= len(found[name])
    return found


def chain_of(project_id: str | None, caller: Caller) -> str:
    """Where the trace of a request goes; None: it belongs to no project.

    One that names what can be no project changes none: nobody would look for it there.
    """
    if project_id is None:
        return SERVICE_CHAIN
    if not project_id and caller.is_local_administrator:
        return limits.DEFAULT_PROJECT
    return project_id if limits.PROJECT.match(project_id) else SERVICE_CHAIN


def may_fill(chain: str, caller: Caller) -> bool:
    """Whether a call of ``caller`` that was refused before its work began leaves its trace in ``chain``.

    Only where it has a role, whatever that allows: nobody fills the traces of strangers. All others are in
    the chain of the service.
    """
    is_of_all = caller.is_local_administrator or EVERY_PROJECT in caller.roles
    return is_of_all or chain == SERVICE_CHAIN or chain in caller.roles

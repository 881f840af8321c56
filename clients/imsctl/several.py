"""Doing one thing to several: going on after a failure, and telling of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from ims_client import CallFailed

from .output import print_json, printable
from .session import FAILED, Session, print_failure


async def each_of(
    session: Session, names: Iterable[str], verb: str, act: Callable[[str], Awaitable[object]]
) -> int:
    """Call ``act`` with each name; returns the exit code. ``verb``: what is said of a success."""
    done, failures = [], 0
    for name in names:
        try:
            await act(name)
        except CallFailed as error:
            if error.reason == "DAEMON_UNREACHABLE" or error.code == "UNAUTHENTICATED":
                raise
            failures += 1
            print_failure(error.message, error.hint, error.reason)
            continue
        done.append({"id": name})
        if not session.is_json:
            print(f"{verb} {printable(name)}")
    if session.is_json:
        print_json(done)
    return FAILED if failures else 0

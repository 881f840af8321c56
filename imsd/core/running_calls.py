"""The calls that run, of all but the local administrator: each goes on as long as its caller may have it.

Revoking a token ends its calls at once. Whatever else takes a caller's leave away (a token expires, a role is
withdrawn, a policy is loaded, another daemon does any of that) is found by asking again every few seconds,
which calls that end sooner cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from imsd.contract import ImsError, PermissionDenied, Unauthenticated

from .background import Background
from .caller import Caller

log = structlog.get_logger(__name__)

# A call is asked about when it has run for so long, and then so often.
REVIEW_SECONDS: Final = 5.0


class RunningCall:
    """``may_go_on``: asked while the call runs, with its caller as it is by then; raises what ends it."""

    def __init__(self, caller: Caller, who: Callable[[], Awaitable[Caller]] | None = None) -> None:
        """``who``: authenticates the caller again. Raises Unauthenticated; None: it is never asked."""
        self.caller = caller
        self.may_go_on: Callable[[Caller], Awaitable[None]] | None = None
        self.begun_at = asyncio.get_running_loop().time()
        self.ending = asyncio.timeout(None)
        self._who = who
        self._task = asyncio.current_task()
        self._why: ImsError | None = None

    @property
    def why(self) -> ImsError:
        """What it is ended with."""
        return self._why or _revoked()

    def cause_of(self, error: BaseException) -> BaseException:
        """What ``error`` in its block comes from: `why`, when it is cancelled because it is ended."""
        is_end = isinstance(error, asyncio.CancelledError) and self.ending.expired()
        return self.why if is_end else error

    @property
    def is_of_this_task(self) -> bool:
        return self._task is asyncio.current_task()

    def end(self, why: ImsError) -> None:
        self._why = why
        self.ending.reschedule(asyncio.get_running_loop().time())

    async def review(self) -> None:
        """Raises Unauthenticated or PermissionDenied when the caller may have the call no more."""
        if self._who is not None:
            caller = await self._who()
            if self.may_go_on is not None:
                await self.may_go_on(caller)


class RunningCalls:
    def __init__(self, background: Background, review_seconds: float = REVIEW_SECONDS) -> None:
        self._background = background
        self._review_seconds = review_seconds
        self._running: set[RunningCall] = set()
        self._closing = asyncio.Event()
        self._is_reviewing = False

    @asynccontextmanager
    async def running(
        self, caller: Caller, who: Callable[[], Awaitable[Caller]] | None = None
    ) -> AsyncIterator[RunningCall]:
        """A call of ``caller``; raises out of the block what it is ended with.

        ``who``: as of `RunningCall`. Of the local administrator nothing is ever asked again.
        """
        call = RunningCall(caller, who)
        if caller.is_local_administrator:
            yield call
            return
        if who is not None and not self._is_reviewing:
            self._is_reviewing = True
            self._background.spawn(self._review(), "review of running calls")
        try:
            async with call.ending:
                self._running.add(call)
                try:
                    yield call
                finally:
                    self._running.discard(call)
        except TimeoutError:
            if not call.ending.expired():
                raise
            raise call.why from None

    def end(self, is_meant: Callable[[Caller], bool]) -> None:
        """End all calls of the callers that are meant (TOKEN_REVOKED), but for the one that asks for it."""
        for call in list(self._running):
            if not call.is_of_this_task and is_meant(call.caller):
                self._end(call, _revoked())

    def close(self) -> None:
        """Nothing is asked any more."""
        self._closing.set()

    async def _review(self) -> None:
        """As long as there are calls."""
        structlog.contextvars.clear_contextvars()  # those of the call that began it
        try:
            while await self._pause() and self._running:
                old = asyncio.get_running_loop().time() - self._review_seconds
                for call in [each for each in self._running if each.begun_at <= old]:
                    await self._review_one(call)
        finally:
            self._is_reviewing = False

    async def _pause(self) -> bool:
        """False when it is over."""
        try:
            async with asyncio.timeout(self._review_seconds):
                await self._closing.wait()
        except TimeoutError:
            return True
        return False

    async def _review_one(self, call: RunningCall) -> None:
        try:
            await call.review()
        except (Unauthenticated, PermissionDenied) as why:
            if call in self._running:
                self._end(call, why)
                log.info("a call is ended", caller=call.caller.id, reason=why.reason)
        except ImsError as error:  # it cannot be told now: a provider is away, say
            log.warning("whether a call may go on is not known", caller=call.caller.id, error=error.message)
        except Exception:
            log.exception("whether a call may go on is not known", caller=call.caller.id)

    def _end(self, call: RunningCall, why: ImsError) -> None:
        call.end(why)
        self._running.discard(call)


def _revoked() -> Unauthenticated:
    return Unauthenticated(
        "the token was revoked while the call ran", reason="TOKEN_REVOKED", hint="use another token"
    )

"""The trace of a call: from what it asks for to how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog

from imsd.contract import ImsError, NotFound, PermissionDenied, Unauthenticated
from imsd.core import trace_text
from imsd.core.actions import Operation
from imsd.core.caller import Caller
from imsd.core.running_calls import RunningCall
from imsd.core.runtime import Runtime
from imsd.core.trace_recorder import TraceRecorder, for_service
from imsd.core.trace_text import fitted
from imsd.trace_chain import Trace, TraceOutcome

from .context import PeerGone
from .failure_pace import FailurePace
from .trace_details import details_of

# Requests about users and groups; the project that one names is that of a role, or "*".
_IDENTITY = "imsd.v1.IdentityService/"


class CallTraces:
    """Makes a `CallTrace` for each call that changes something."""

    def __init__(self, runtime: Runtime, recorder: TraceRecorder) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._pace = FailurePace()

    @asynccontextmanager
    async def of(
        self, caller: Caller, method: str, operation: Operation, running: RunningCall | None = None
    ) -> AsyncIterator[CallTrace | None]:
        """The call's trace, None for a call that only reads; written when the block is left, however.

        ``running`` knows why the call is ended while it runs; None: nobody ends it.
        That of a call that failed waits for its caller's turn, see `FailurePace`. Raises what the block
        raises; Unavailable when the trace could not be written.
        """
        if not operation.is_mutation:
            yield None
            return
        trace = CallTrace(self._runtime, self._recorder, caller, method, operation)
        try:
            yield trace
        except BaseException as error:
            cancelled = await self._pace.wait(caller) if trace.is_left else None
            await trace.end(running.cause_of(error) if running else error)
            if cancelled:
                raise cancelled from error
            raise
        await trace.end(None)


class CallTrace:
    def __init__(
        self, runtime: Runtime, recorder: TraceRecorder, caller: Caller, method: str, operation: Operation
    ) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._caller = caller
        self._method = method
        self._operation = operation
        self._request: Any = None
        self._response: Any = None
        self._begun: Trace | None = None
        self._is_left_out = False

    def requested(self, request: Any) -> None:
        """What the call asks for, before anybody has looked at it."""
        self._request = request
        self._is_left_out = not self._operation.changes(request)

    async def begin(self) -> None:
        """The call may do its work.

        Raises NotFound when its project was deleted, Unavailable when it cannot be noted: then it must not.
        """
        if self._is_left_out:
            return
        self._begun = self._asked()
        try:
            self._begun = await self._recorder.begin(self._begun)
        except NotFound:
            self._begun = None
            raise
        except ImsError:
            self._is_left_out = True
            raise

    @property
    def is_left(self) -> bool:
        """Whether the call leaves a trace, as far as it has come."""
        return not self._is_left_out

    def answered(self, response: Any) -> None:
        """What the call says; of several things, the last one counts."""
        self._response = response

    async def end(self, error: BaseException | None) -> None:
        """Write the trace.

        A call that was kept from its work because it could not be noted leaves none, nor does one that was
        only to be validated.
        """
        if self._is_left_out:
            return
        outcome, reason, message = _outcome_of(error)
        asked = self._begun or self._asked()
        ended = replace(
            asked,
            time=self._runtime.clock(),
            outcome=outcome,
            reason=fitted(reason, trace_text.MAX_REASON),
            message=fitted(message, trace_text.MAX_MESSAGE),
        )
        if self._begun is None and not trace_text.may_fill(ended.project_id, self._caller):
            ended = for_service(ended)
        if self._response is not None and (error is None or _tells_how_far(self._response)):
            ended = _with_results(ended, self._operation, self._response)
        await self._recorder.end(ended, has_intent=self._begun is not None)

    def _asked(self) -> Trace:
        caller, operation, request = self._caller, self._operation, self._request
        said = structlog.contextvars.get_contextvars()
        return Trace(
            id=self._runtime.new_id(),
            project_id=trace_text.chain_of(self._project_id(), caller),
            time=self._runtime.clock(),
            name=operation.trace,
            resource_type=operation.resource,
            resource_id=fitted(_resource_id(operation, request), trace_text.MAX_ID),
            resource_name=fitted(_resource_name(operation, request), trace_text.MAX_NAME),
            caller_kind=caller.kind.value,
            caller_id=fitted(caller.id, trace_text.MAX_ID),
            token_id=caller.token_id,
            peer=fitted(caller.peer, trace_text.MAX_ID),
            method=self._method,
            action=operation.action_for(request) if request is not None else operation.actions[0],
            call_id=str(said.get("call_id", "")),
            request_id=fitted(getattr(request, "request_id", ""), trace_text.MAX_REQUEST_ID),
            details=_details(operation, request),
        )

    def _project_id(self) -> str | None:
        """As the request names it, or as it was filled in; None for a call that belongs to no project."""
        given: str | None = getattr(self._request, "project_id", None)
        return None if self._method.startswith(_IDENTITY) and not given else given


def _details(operation: Operation, request: Any) -> dict[str, str]:
    if request is None:
        return {}
    return trace_text.fitted_details(details_of(request, operation.id_field))


def _outcome_of(error: BaseException | None) -> tuple[TraceOutcome, str, str]:
    """Outcome, reason and message. A defect tells nothing of itself: the log does."""
    if error is None:
        return TraceOutcome.SUCCEEDED, "", ""
    if isinstance(error, asyncio.CancelledError | PeerGone):
        return TraceOutcome.FAILED, "CANCELLED", "the call was cut off: what it asked for was done or not"
    if isinstance(error, ImsError):
        is_denied = isinstance(error, PermissionDenied | Unauthenticated) or error.reason == "NOT_OWNER"
        return TraceOutcome.DENIED if is_denied else TraceOutcome.FAILED, error.reason, error.message
    return TraceOutcome.FAILED, "INTERNAL", "an internal error"


def _resource_id(operation: Operation, request: Any) -> str:
    if operation.id_field:
        return str(getattr(request, operation.id_field, ""))
    image_ids: Sequence[str] = getattr(request, "image_ids", ())
    return str(image_ids[0]) if len(image_ids) == 1 else ""


def _resource_name(operation: Operation, request: Any) -> str:
    """Of what the call makes; what is there already is looked up."""
    if operation.id_field:
        return ""
    return str(getattr(request, "name", "") or getattr(request, "file_name", ""))


def _with_results(trace: Trace, operation: Operation, response: Any) -> Trace:
    """With the ids of what was made, and the job that makes it."""
    if response.DESCRIPTOR.name == "Job" and operation.resource != "job":
        return _with_job(trace, operation, response)
    if _tells_how_far(response):
        return replace(trace, details={**trace.details, "committed_offset": str(response.committed_offset)})
    made = getattr(response, "token", response)
    return replace(trace, resource_id=trace.resource_id or str(getattr(made, "id", "")))


def _tells_how_far(response: Any) -> bool:
    """Whether it says what was done, also if the call was cut off after it."""
    return bool(response.DESCRIPTOR.name == "WriteUploadResponse")


def _with_job(trace: Trace, operation: Operation, job: Any) -> Trace:
    trace = replace(trace, job_id=job.id)
    made = [image_id for image_id in job.image_ids if image_id != trace.resource_id]
    if len(made) == 1 and operation.resource == "image" and not trace.resource_id:
        return replace(trace, resource_id=made[0])
    if made and "image_ids" not in trace.details:
        return replace(
            trace, details=trace_text.fitted_details({**trace.details, "image_ids": ",".join(made)})
        )
    return trace

"""The gate that every call passes: who calls, what it may, and the trace that it leaves.

A call is first let in, which says who calls, then admitted with its request, the first message of a stream of
them. Health and reflection stand outside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import structlog
from google.protobuf.message import Message

from imsd.contract import PermissionDenied
from imsd.core.access import Access, Target
from imsd.core.actions import OPERATIONS, Operation
from imsd.core.caller import Caller, set_caller
from imsd.core.identity_services import IdentityServices
from imsd.core.projects import KnownProjects, chosen_project

from .call_places import CallPlaces, StrangerPlaces
from .call_target import needs_of
from .call_trace import CallTrace, CallTraces
from .credentials import credentials_of, is_local

# Their requests name a project as they name a user: they do not work in it.
OF_NO_PROJECT = ("imsd.v1.IdentityService/", "imsd.v1.PolicyService/")


class Admission:
    """One call on its way through the gate. ``method``: as in `OPERATIONS`."""

    def __init__(
        self, caller: Caller, method: str, access: Access, projects: KnownProjects, trace: CallTrace | None
    ) -> None:
        self.caller = caller
        self.method = method
        self.operation = operation_of(method)
        self._access = access
        self._projects = projects
        self._trace = trace
        self._needed: Sequence[tuple[str, Target]] = ()

    async def admit(self, request: Any) -> None:
        """Decide on the request; call it before anything is done.

        A request that names no project gets the only one of its caller. Raises InvalidRequest
        (PROJECT_REQUIRED), PermissionDenied, NotFound (PROJECT_UNKNOWN), Unavailable when what changes
        something cannot be traced.
        """
        if self._trace:
            self._trace.requested(request)
        if is_in_project := _is_in_project(self.method, request):
            request.project_id = chosen_project(self.caller, request.project_id)
        needed = needs_of(self.caller, self.operation, request)
        await self._require(self.caller, needed)
        self._needed = needed
        if is_in_project and self.operation.changes(request):
            await self._projects.note(self.caller, request.project_id)
        if self._trace:
            await self._trace.begin()

    async def review(self, caller: Caller) -> None:
        """Decide once more while the call runs, of its caller as it is by now. Raises PermissionDenied."""
        await self._require(caller, self._needed)

    async def found(self, response: Any) -> None:
        """Decide on the image that the call looked for by a name, as if it had been asked for by its id.

        Call it before the answer leaves. Raises PermissionDenied.
        """
        if self.operation.found_field:
            image_ids = (getattr(response, self.operation.found_field),)
            found = [(action, replace(target, image_ids=image_ids)) for action, target in self._needed]
            await self._require(self.caller, found)

    async def _require(self, caller: Caller, needed: Sequence[tuple[str, Target]]) -> None:
        for action, target in needed:
            await self._access.require(caller, action, target)

    def answered(self, response: Message) -> None:
        """What the call says; of several things, the last one counts."""
        if self._trace:
            self._trace.answered(response)


_admission: ContextVar[Admission] = ContextVar("admission")


def current_admission() -> Admission:
    """Of the call that runs now: for calls that send a stream, which admit their first message themselves."""
    return _admission.get()


class Gate:
    def __init__(self, identity: IdentityServices, access: Access, traces: CallTraces) -> None:
        self._identity = identity
        self._access = access
        self._traces = traces
        self._places = CallPlaces()
        self._strangers = StrangerPlaces()

    @asynccontextmanager
    async def entered(self, method: str, context: Any) -> AsyncIterator[Admission]:
        """Let a call in. Raises Unauthenticated, PermissionDenied, LimitExceeded (too many others run)."""
        async with self._identity.authentication.calling(credentials_of(context)) as call:
            caller = call.caller
            set_caller(caller)
            if not caller.is_local_administrator:
                structlog.contextvars.bind_contextvars(caller=caller.id)
            with self._places.taken(caller):
                async with self._traces.of(caller, method, operation_of(method), call) as trace:
                    admission = Admission(caller, method, self._access, self._identity.projects.known, trace)
                    _admission.set(admission)
                    call.may_go_on = admission.review
                    yield admission

    @asynccontextmanager
    async def outside(self, context: Any) -> AsyncIterator[None]:
        """A call of somebody who need not say who it is. Raises LimitExceeded when others want its place."""
        if is_local(context.peer()):
            yield
            return
        async with self._strangers.taken():
            yield


def _is_in_project(method: str, request: Message) -> bool:
    return not method.startswith(OF_NO_PROJECT) and "project_id" in request.DESCRIPTOR.fields_by_name


def operation_of(method: str) -> Operation:
    """Raises PermissionDenied for a call that no action is named for: nobody may what nobody thought of."""
    operation = OPERATIONS.get(method)
    if operation is None:
        raise PermissionDenied(f"no action stands for {method}", hint="this is a defect of imsd: report it")
    return operation

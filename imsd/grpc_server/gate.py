"""The gate that every call passes: who calls, and what it may.

A call is first let in, which says who calls, then admitted with its request, the first message of a stream of
them. Health and reflection stand outside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from google.protobuf.message import Message

from imsd.contract import PermissionDenied
from imsd.core.access import Access
from imsd.core.actions import OPERATIONS, Operation
from imsd.core.authentication import Authentication
from imsd.core.caller import Caller, set_caller

from .call_target import target_of
from .credentials import credentials_of


class Admission:
    """One call on its way through the gate. ``method``: as in `OPERATIONS`."""

    def __init__(self, caller: Caller, method: str, operation: Operation, access: Access) -> None:
        self.caller = caller
        self.method = method
        self.operation = operation
        self._access = access

    async def admit(self, request: Message) -> None:
        """Decide on the request; call it before anything is done. Raises InvalidRequest, PermissionDenied."""
        action = self.operation.action_for(request)
        target = target_of(self.caller, self.operation, action, request)
        await self._access.require(self.caller, action, target)

    def answered(self, response: Message) -> None:
        """What the call says in the end, when it says one thing."""


_admission: ContextVar[Admission] = ContextVar("admission")


def current_admission() -> Admission:
    """Of the call that runs now: for calls that send a stream, which admit their first message themselves."""
    return _admission.get()


class Gate:
    def __init__(self, authentication: Authentication, access: Access) -> None:
        self._authentication = authentication
        self._access = access

    @asynccontextmanager
    async def entered(self, method: str, context: Any) -> AsyncIterator[Admission]:
        """Let a call in. Raises Unauthenticated, PermissionDenied."""
        caller = await self._authentication.caller(credentials_of(context))
        set_caller(caller)
        admission = Admission(caller, method, operation_of(method), self._access)
        _admission.set(admission)
        yield admission


def operation_of(method: str) -> Operation:
    """Raises PermissionDenied for a call that no action is named for: nobody may what nobody thought of."""
    operation = OPERATIONS.get(method)
    if operation is None:
        raise PermissionDenied(f"no action stands for {method}", hint="this is a defect of imsd: report it")
    return operation

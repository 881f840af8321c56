"""`TraceService`, as methods."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imsd.v1 import trace_pb2 as pb
from imsd.v1.trace_pb2_grpc import TraceServiceStub

from .connection import Connection

PAGE_SIZE = 500

# What has the traces that belong to no project.
SERVICE = "@service"


class TraceCalls:
    """What each call means, and how it may fail, is written in ``proto/imsd/v1/trace.proto``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._project_id = connection.project_id
        self._stub = TraceServiceStub(connection.channel)

    async def list(
        self, filter: pb.TraceFilter | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[pb.Trace]:
        """All traces that fit, newest first, page by page."""
        request = pb.ListTracesRequest(project_id=self._project_id, filter=filter, page_size=page_size)
        while True:
            page = await self._connection.call(self._stub.ListTraces, request)
            for trace in page.traces:
                yield trace
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get(self, trace_id: str) -> pb.Trace:
        request = pb.GetTraceRequest(project_id=self._project_id, trace_id=trace_id)
        trace: pb.Trace = await self._connection.call(self._stub.GetTrace, request)
        return trace

    async def export(
        self, filter: pb.TraceFilter | None = None, after_sequence: int = 0
    ) -> AsyncIterator[pb.Trace | pb.TraceSeal]:
        """All traces that fit, oldest first, each followed by its seal if it has one.

        The seal of the one before the first comes first.
        """
        request = pb.ExportTracesRequest(
            project_id=self._project_id, filter=filter, after_sequence=after_sequence
        )
        async for piece in self._connection.stream(self._stub.ExportTraces, request):
            entries: list[pb.Trace | pb.TraceSeal] = [*piece.traces, *piece.seals]
            entries.sort(key=lambda entry: entry.sequence)  # which keeps a trace before its seal
            for entry in entries:
                yield entry

    async def verify(self) -> pb.VerifyTracesResponse:
        """Have the daemon check the chain of the project."""
        request = pb.VerifyTracesRequest(project_id=self._project_id)
        found: pb.VerifyTracesResponse = await self._connection.call(self._stub.VerifyTraces, request)
        return found

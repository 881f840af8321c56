"""TraceService: a wire message in, one call on the core, a wire message out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from imsd.core import checks
from imsd.core.traces import Traces, trace_project
from imsd.v1 import trace_pb2 as pb
from imsd.v1.trace_pb2_grpc import TraceServiceServicer

from . import convert_trace
from .context import Context
from .pages import page_that_fits

# More than any chain has; a number of SQLite and PostgreSQL.
MAX_SEQUENCE = (1 << 63) - 1


class TraceServicer(TraceServiceServicer):
    """Serves ``imsd.v1.TraceService``; what each call means is written in the .proto file."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def ListTraces(self, request: pb.ListTracesRequest, _: Context) -> pb.ListTracesResponse:
        query = convert_trace.trace_query_from_pb(request.project_id, request.filter)

        async def page(size: int) -> pb.ListTracesResponse:
            found, token = await self._traces.list(query, size, request.page_token)
            return pb.ListTracesResponse(traces=map(convert_trace.trace_to_pb, found), next_page_token=token)

        return await page_that_fits(page, lambda made: made.traces, request.page_size)

    async def GetTrace(self, request: pb.GetTraceRequest, _: Context) -> pb.Trace:
        trace_id = checks.uuid("trace_id", request.trace_id)
        return convert_trace.trace_to_pb(await self._traces.get(trace_project(request.project_id), trace_id))

    async def ExportTraces(
        self, request: pb.ExportTracesRequest, _: Context
    ) -> AsyncIterator[pb.ExportTracesResponse]:
        query = convert_trace.trace_query_from_pb(request.project_id, request.filter)
        after = checks.number("after_sequence", request.after_sequence, 0, MAX_SEQUENCE)
        async for piece in self._traces.export(query, after):
            for message in convert_trace.export_to_pb(piece):
                yield message

    async def VerifyTraces(self, request: pb.VerifyTracesRequest, _: Context) -> pb.VerifyTracesResponse:
        return convert_trace.check_to_pb(await self._traces.verify(trace_project(request.project_id)))

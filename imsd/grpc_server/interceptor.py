"""What surrounds every call: a request id, one log line, errors turned into statuses, draining.

There is one interceptor, so that the line in the log always has the status the client saw.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from imsd import wire
from imsd.contract import ImsError, InvalidRequest, Unavailable
from imsd.v1.bucket_pb2 import GetObjectResponse, PutObjectRequest
from imsd.v1.image_pb2 import DownloadImageResponse
from imsd.v1.upload_pb2 import WriteUploadRequest

from .context import PeerGone
from .error_mapping import defect, status_of
from .gate import Gate
from .read_pace import ReadPace

log = structlog.get_logger(__name__)

# Health and reflection: calls that nobody need say his name for. Health checks come every few seconds and
# would drown the rest of the log.
FOR_ANYBODY = ("/grpc.health.v1.Health/", "/grpc.reflection.")

# So long a call that was let in may take to send its one request.
REQUEST_SECONDS = 60.0

SAME_CONTRACT = "is the client made for this version of imsd?"

# The streams of a file's bytes, which `imsd.wire` reads and writes; all else is protobuf's.
REQUEST_READERS = {
    "/imsd.v1.UploadService/WriteUpload": wire.reader_of(WriteUploadRequest),
    "/imsd.v1.BucketService/PutObject": wire.reader_of(PutObjectRequest),
}
RESPONSE_WRITERS = {
    "/imsd.v1.ImageService/DownloadImage": wire.serialize,
    "/imsd.v1.BucketService/GetObject": wire.serialize,
}


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Wraps each handler; counts the calls that run, so that the daemon can drain them."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False

    def begin_draining(self) -> None:
        """Refuse new calls with UNAVAILABLE; calls that run go on."""
        self._is_draining = True

    async def drained(self) -> None:
        """Wait until no call runs."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        if method.startswith(FOR_ANYBODY):
            return self._for_anybody(handler)
        if handler.response_streaming:
            return self._wrap_streaming(handler, method)
        return self._wrap_unary(handler, method)

    def _wrap_unary(self, handler: Any, method: str) -> grpc.RpcMethodHandler:
        name = method.removeprefix("/")

        async def call(requests: Any, context: Any) -> Any:
            async with self._around(method, context), self._gate.entered(name, context) as admission:
                if handler.request_streaming:
                    response = await handler.stream_unary(requests, context)
                else:
                    request = await only_message(context)
                    await admission.admit(request)
                    response = await handler.unary_unary(request, context)
                await admission.found(response)
                admission.answered(response)
                return response

        return grpc.stream_unary_rpc_method_handler(
            call, REQUEST_READERS.get(method, handler.request_deserializer), handler.response_serializer
        )

    def _wrap_streaming(self, handler: Any, method: str) -> grpc.RpcMethodHandler:
        name = method.removeprefix("/")

        async def call(requests: Any, context: Any) -> None:
            with suppress(PeerGone):
                async with self._around(method, context), self._gate.entered(name, context) as admission:
                    if handler.request_streaming:
                        stream = handler.stream_stream(requests, context)
                    else:
                        request = await only_message(context)
                        await admission.admit(request)
                        stream = handler.unary_stream(request, context)
                    await _send_all(context, stream)

        return grpc.stream_stream_rpc_method_handler(
            call,
            REQUEST_READERS.get(method, handler.request_deserializer),
            RESPONSE_WRITERS.get(method, handler.response_serializer),
        )

    def _for_anybody(self, handler: Any) -> grpc.RpcMethodHandler:
        """Of a call that stands outside the gate; such calls have few places of their own."""

        async def answer(requests: Any, context: Any) -> Any:
            async with self._gate.outside(context):
                if handler.request_streaming:
                    return await _send_all(context, handler.stream_stream(requests, context))
                request = await only_message(context)
                if handler.response_streaming:
                    return await handler.unary_stream(request, context)
                return await handler.unary_unary(request, context)

        async def call(requests: Any, context: Any) -> Any:
            try:
                with suppress(PeerGone):
                    return await answer(requests, context)
            except ImsError as error:
                await context.abort_with_status(status_of(error))

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(call, handler.request_deserializer, handler.response_serializer)

    @asynccontextmanager
    async def _around(self, method: str, context: Any) -> AsyncIterator[None]:
        structlog.contextvars.bind_contextvars(call_id=uuid.uuid4().hex[:12], method=method)
        if not (peer := context.peer()).startswith("unix:"):
            structlog.contextvars.bind_contextvars(peer=peer)
        begin = time.monotonic()
        outcome = "OK"
        self._running += 1
        self._idle.clear()
        try:
            if self._is_draining:
                raise Unavailable("the daemon is stopping", hint="try again in a moment")
            yield
        except (asyncio.CancelledError, PeerGone):
            outcome = "CANCELLED"
            raise
        except ImsError as error:
            outcome = error.reason
            await context.abort_with_status(status_of(error, method))
        except grpc.aio.AbortError:
            outcome = "ABORTED"
            raise
        except Exception:
            outcome = "INTERNAL"
            log.exception("a call failed by a defect")
            await context.abort_with_status(status_of(defect()))
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
            log.info("call", outcome=outcome, milliseconds=round((time.monotonic() - begin) * 1000, 1))
            structlog.contextvars.unbind_contextvars("call_id", "method", "peer", "caller")


async def only_message(context: Any) -> Any:
    """The request of a call that has one.

    gRPC itself would read it before anybody asks who calls: whoever sends none would keep a place until he
    hangs up. So every call is one with a stream of requests here, and reads when it has been let in.
    Raises InvalidRequest, also when nothing came for `REQUEST_SECONDS`; PeerGone.
    """
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            request = await context.read()
    except DecodeError as error:
        raise InvalidRequest("the request is no message of this call", hint=SAME_CONTRACT) from error
    except TimeoutError:
        raise InvalidRequest("the request did not come", hint="send it with the call") from None
    if request is grpc.aio.EOF:
        if context.done():
            raise PeerGone
        raise InvalidRequest("the call ended before its request came", hint=SAME_CONTRACT)
    return request


async def _send_all(context: Any, stream: AsyncGenerator[Any, None]) -> None:
    pace = ReadPace()
    async with aclosing(stream) as responses:
        async for response in responses:
            await _send(context, response, pace)


async def _send(context: Any, response: Any, pace: ReadPace) -> None:
    begin = time.monotonic()
    try:
        async with asyncio.timeout(pace.patience_seconds):
            await context.write(response)
    except TimeoutError:
        raise pace.stalled() from None
    except Exception as error:  # grpc's own, without a public name: the message could not be sent
        raise PeerGone from error
    pace.taken(response.ByteSize(), _file_bytes(response), time.monotonic() - begin)


def _file_bytes(response: Any) -> int:
    """What a message of a file stands for; 0 for any other."""
    if isinstance(response, wire.FileBytes):
        return response.decoded_length
    return response.zero_length if isinstance(response, DownloadImageResponse | GetObjectResponse) else 0

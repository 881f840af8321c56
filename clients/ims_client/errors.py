"""What can go wrong, as exceptions; and the one table from a gRPC failure to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc

from imsd.v1 import job_pb2

from .address import TLS

DOMAIN = "imsd"

# What gRPC reports when the connection broke, was never made, or the daemon dropped the call as it
# stopped; the daemon's own refusals carry an ErrorInfo and are told apart by it. (A call cancelled on
# this side raises asyncio.CancelledError instead.)
_TRANSPORT_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

# Reasons of a status that carries no ErrorInfo: a proxy between, or a daemon of another make.
_REASONS = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_REQUEST",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.ALREADY_EXISTS: "ALREADY_EXISTS",
    grpc.StatusCode.ABORTED: "CONFLICT",
    grpc.StatusCode.FAILED_PRECONDITION: "FAILED_PRECONDITION",
    grpc.StatusCode.PERMISSION_DENIED: "PERMISSION_DENIED",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "LIMIT_EXCEEDED",
    grpc.StatusCode.UNIMPLEMENTED: "UNIMPLEMENTED",
    grpc.StatusCode.DATA_LOSS: "DATA_LOSS",
}


class ClientError(Exception):
    """Something a caller can understand.

    ``reason`` is a name of ``imsd.v1.ErrorReason`` without its prefix, ``message`` one sentence,
    ``hint`` says what to do and may be empty.
    """

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason
        self.message = message
        self.hint = hint


class CallFailed(ClientError):
    """A call was refused or did not get through.

    ``field`` names the request field at fault, or is empty; ``code`` is the name of the gRPC status,
    ``img_code`` what the hosted service calls the same condition, or empty.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        hint: str = "",
        *,
        field: str = "",
        code: str = "",
        img_code: str = "",
    ) -> None:
        super().__init__(reason, message, hint)
        self.field = field
        self.code = code
        self.img_code = img_code

    @property
    def is_transient(self) -> bool:
        """Whether the same call may succeed a moment later."""
        return self.reason in ("DAEMON_UNREACHABLE", "UNAVAILABLE", "STORE_UNAVAILABLE")


class LocalFileFailed(ClientError):
    """A local file cannot be read or written (LOCAL_FILE)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("LOCAL_FILE", message, hint)


def nothing_to_send(name: str) -> ClientError:
    """The failure of an upload of ``name``, which holds no byte (IMAGE_EMPTY)."""
    return ClientError("IMAGE_EMPTY", f"{name} is empty", "send a file that holds a disk")


def damaged_download(why: str) -> CallFailed:
    """The failure of a download whose messages contradict each other (DATA_LOSS)."""
    return CallFailed("DATA_LOSS", f"the download was damaged on its way: {why}", "start it again")


def cannot_read(path: Path, error: OSError) -> LocalFileFailed:
    """The failure for ``path``, which the system does not let us read."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, FileNotFoundError):
        hint = "check the path"
    elif isinstance(error, PermissionError):
        hint = "choose a file that you may read"
    else:
        hint = "check the file and the disk it is on"
    return LocalFileFailed(f"cannot read {path}: {cause}", hint)


class JobFailed(ClientError):
    """A job ended in FAIL; the texts are those of ``job.error``."""

    def __init__(self, job: job_pb2.Job) -> None:
        super().__init__(
            job.error.reason or "INTERNAL", job.error.message or "the job failed", job.error.hint
        )
        self.job = job


class JobCancelled(ClientError):
    """A job ended in CANCELLED."""

    def __init__(self, job: job_pb2.Job) -> None:
        super().__init__("CANCELLED", f"job {job.id} was cancelled")
        self.job = job


def call_failed(error: grpc.aio.AioRpcError, address: str) -> CallFailed:
    """The exception for a failed call on a channel to ``address``."""
    code, text = error.code(), error.details() or ""
    if details := _error_details(error):
        return CallFailed(
            details.reason,
            text,
            details.metadata.get("hint", ""),
            field=details.metadata.get("field", ""),
            code=code.name,
            img_code=details.metadata.get("img_code", ""),
        )
    if code in _TRANSPORT_CODES:
        return daemon_unreachable(address, text)
    reason = _REASONS.get(code, "INTERNAL")
    return CallFailed(reason, text or f"the call failed with {code.name}", code=code.name)


def daemon_unreachable(address: str, detail: str = "") -> CallFailed:
    """Nothing answers at ``address``, or the connection to it broke."""
    hint = "start it with `imsd serve`, or name another address with --address or IMSD_ADDRESS"
    if "Tls handshake failed" in detail or "Hostname Verification" in detail:
        message, hint = _no_tls(address, detail)
    elif "Socket closed" in detail and not address.startswith("unix:"):
        message = f"the daemon at {address} ends the connection"
        if address.startswith(TLS):
            hint = "it may ask for a client certificate that it trusts: give one with --cert and --key"
        else:
            hint = f"it may speak TLS only: try tls://{address}"
    elif "ermission denied" in detail:
        path = address.removeprefix("unix:")
        message = f"the daemon's socket {path} may not be used by this user"
        hint = "join the group that owns the socket, or run the command as root"
    else:
        message = f"no imsd daemon answers at {address}"
    return CallFailed("DAEMON_UNREACHABLE", message, hint, code="UNAVAILABLE")


def _no_tls(address: str, detail: str) -> tuple[str, str]:
    """What is wrong, and what to do."""
    if "WRONG_VERSION_NUMBER" in detail:
        return f"the daemon at {address} does not speak TLS", f"try {address.removeprefix(TLS)}"
    if "ostname" in detail:
        return f"the certificate of {address} is of another name", "use the name that its certificate has"
    if "CERTIFICATE_VERIFY_FAILED" in detail or "certificate" in detail:
        hint = "name the authority that it comes from with --ca-file or IMSD_CA_FILE"
        return f"the certificate of {address} is not trusted", hint
    return (
        f"TLS with {address} fails: {detail.partition('last error: ')[2][:200]}",
        "look at the daemon's log",
    )


def _error_details(error: grpc.aio.AioRpcError) -> Any | None:
    """The google.rpc.ErrorInfo of the failure, or None."""
    # Imported here: the modules take 60 ms, and most calls succeed.
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the message in the trailer contradicts the status
        return None
    for detail in status.details if status else ():
        found = error_details_pb2.ErrorInfo()
        if detail.Unpack(found) and found.domain == DOMAIN:
            return found
    return None

"""The errors of imsd: twelve conditions, each with a wire-stable reason.

A class says how a caller should react and maps to one gRPC status; `reason` says exactly what
happened and is a name of ``imsd.v1.ErrorReason``. Only these texts reach a client; any other
exception is a defect, reported as INTERNAL and logged once with its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class ImsError(Exception):
    """Something a caller can understand.

    ``message`` is one sentence, ``hint`` says what to do, ``field`` names the request field at fault.
    """

    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.hint = hint
        self.field = field


class InvalidRequest(ImsError):
    """A field of the request is missing, malformed or out of range."""

    default_reason = "INVALID_REQUEST"


class NotFound(ImsError):
    """There is no such thing, or the caller may not know of it."""

    default_reason = "NOT_FOUND"


class AlreadyExists(ImsError):
    """The name or id is taken."""

    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(ImsError):
    """The resource is in a state that does not allow the call."""

    default_reason = "FAILED_PRECONDITION"


class Conflict(ImsError):
    """Somebody else changed or took over the resource; look again, then retry."""

    default_reason = "CONFLICT"


class ImageRefused(ImsError):
    """The bytes of an image are malformed, unsafe or not supported."""

    default_reason = "IMAGE_MALFORMED"


class LimitExceeded(ImsError):
    """A limit, a quota or the room of a store is used up."""

    default_reason = "LIMIT_EXCEEDED"


class PermissionDenied(ImsError):
    """The caller is known and may not."""

    default_reason = "PERMISSION_DENIED"


class Unauthenticated(ImsError):
    """The caller did not say who it is."""

    default_reason = "UNAUTHENTICATED"


class Unavailable(ImsError):
    """Not now: a driver is out of reach, or the daemon starts or stops. Retrying is right."""

    default_reason = "UNAVAILABLE"


class DataLoss(ImsError):
    """A stored byte is missing or altered."""

    default_reason = "DATA_LOSS"


class Cancelled(ImsError):
    """The work was cancelled on request."""

    default_reason = "CANCELLED"

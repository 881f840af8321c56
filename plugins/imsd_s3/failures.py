"""What an S3 service, or the way to it, says, in the words of the contract: one table for every call.

A `Failure` is what one attempt ended with; it is retried or becomes an error of imsd.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from imsd.contract import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    ImsError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unavailable,
)

_KEY_HINT: Final = "the access key or its secret is wrong, disabled or expired: check the file of keys"
_RIGHT_HINT: Final = "allow the access key to list, read, write and delete objects of the bucket"
_ROOM_HINT: Final = "free some room, or give the store more"
_TIME_HINT: Final = (
    "the clocks of this machine and of the service differ: synchronize them (timedatectl, chrony)"
)
_REGION_HINT: Final = "check endpoint, s3_region and path_style"

# Codes of an attempt that no service sent.
NO_NAME: Final = "no-such-host"
NO_CONNECTION: Final = "no-connection"
NO_TRUST: Final = "not-trusted"
STALLED: Final = "stalled"
CUT: Final = "cut-short"
NO_S3: Final = "no-s3-service"
REPLACED: Final = "replaced"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code, or a status, is for imsd."""

    error: type[ImsError]
    reason: str
    hint: str = ""
    is_worth_retrying: bool = False


_LATER: Final = Meaning(
    Unavailable, "STORE_UNAVAILABLE", "the service is busy or in trouble: try again later", True
)
_DENIED: Final = Meaning(FailedPrecondition, "STORE_DENIED", _KEY_HINT)
_FULL: Final = Meaning(LimitExceeded, "CAPACITY_EXHAUSTED", _ROOM_HINT)
_LOST: Final = Meaning(DataLoss, "DATA_LOSS", "the object was cut short by something else than this store")
_ELSEWHERE: Final = Meaning(Unavailable, "STORE_UNAVAILABLE", _REGION_HINT)


def _way(hint: str, *, is_worth_retrying: bool = True) -> Meaning:
    return Meaning(Unavailable, "STORE_UNAVAILABLE", hint, is_worth_retrying)


BY_CODE: Final[dict[str, Meaning]] = {
    "InvalidAccessKeyId": _DENIED,
    "SignatureDoesNotMatch": _DENIED,
    "InvalidToken": _DENIED,
    "ExpiredToken": _DENIED,
    "TokenRefreshRequired": _DENIED,
    "AccountProblem": _DENIED,
    "AccessDenied": Meaning(FailedPrecondition, "STORE_DENIED", _RIGHT_HINT),
    "AllAccessDisabled": Meaning(FailedPrecondition, "STORE_DENIED", _RIGHT_HINT),
    "RequestTimeTooSkewed": _way(_TIME_HINT, is_worth_retrying=False),
    "NoSuchBucket": _way("make the bucket, or correct `bucket`", is_worth_retrying=False),
    "NoSuchKey": Meaning(NotFound, "NOT_FOUND"),
    "NoSuchUpload": _way(
        "a rule of the bucket may have removed the upload: see stale uploads", is_worth_retrying=False
    ),
    "PreconditionFailed": Meaning(AlreadyExists, "ALREADY_EXISTS"),
    "InvalidRange": _LOST,
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "XMinioStorageFull": _FULL,
    "EntityTooLarge": _FULL,
    "PermanentRedirect": _ELSEWHERE,
    "TemporaryRedirect": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "NotImplemented": _way(
        "the service lacks what is asked of it: see put_if_absent", is_worth_retrying=False
    ),
    "ConditionalRequestConflict": _LATER,
    "OperationAborted": _LATER,
    "RequestTimeout": _LATER,
    "IncompleteBody": _LATER,
    "BadDigest": _LATER,
    "InternalError": _LATER,
    "ServiceUnavailable": _LATER,
    "SlowDown": _LATER,
    "Throttling": _LATER,
    "RequestLimitExceeded": _LATER,
    NO_NAME: _way("the name of the host in `endpoint` is not known: correct it, or see to the DNS"),
    NO_CONNECTION: _way("nothing answers at `endpoint`: check host, port, and that the service runs"),
    NO_TRUST: _way("set ca_file to the authority that signed its certificate", is_worth_retrying=False),
    STALLED: _way("the service is stuck, or stall_seconds too short"),
    CUT: _way("the connection to the service broke: try again later"),
    NO_S3: _way("what answers at `endpoint` is no S3 service", is_worth_retrying=False),
    REPLACED: _way("another program writes this object: try again when it has finished"),
}

# Where the code is not in the table, or there is none: answers to HEAD have no body.
BY_STATUS: Final[dict[int, Meaning]] = {
    301: _ELSEWHERE,
    307: _ELSEWHERE,
    401: _DENIED,
    403: BY_CODE["AccessDenied"],
    404: BY_CODE["NoSuchKey"],
    408: _LATER,
    409: _LATER,
    412: BY_CODE["PreconditionFailed"],
    416: _LOST,
    429: _LATER,
    500: _LATER,
    502: _LATER,
    503: _LATER,
    504: _LATER,
    507: _FULL,
}

_OTHERWISE: Final = Meaning(Unavailable, "STORE_UNAVAILABLE", "look into the log of the service")

# A key that may read and not write.
_READ_ONLY: Final = Meaning(FailedPrecondition, "STORE_READ_ONLY", _RIGHT_HINT)

_MAX_WORDS: Final = 200


class Failure(Exception):
    """One attempt failed. ``code``: of S3, or one of this module; ``words``: for people, without secrets."""

    def __init__(self, code: str, words: str, status: int = 0) -> None:
        super().__init__(f"{code}: {words}")
        self.code = code
        self.words = words
        self.status = status

    @property
    def meaning(self) -> Meaning:
        return BY_CODE.get(self.code) or BY_STATUS.get(self.status, _OTHERWISE)

    @property
    def is_about_keys(self) -> bool:
        """Whether another key may help.

        Some services say AccessDenied of a key that they do not know any more, and an answer to HEAD does
        not say why it is 403, or 400 when a key has expired.
        """
        return self.meaning is _DENIED or self.status == 403 or (self.status == 400 and not self.code)

    def as_error(self, subject: str, *, is_write: bool) -> ImsError:
        """The error of imsd; ``subject`` names the blob, or what else was at work."""
        meaning = self.meaning
        if is_write and meaning is BY_CODE["AccessDenied"]:
            meaning = _READ_ONLY
        said = self.words if self.code in _OWN_CODES else f"the service says {self._title()}"
        return meaning.error(f"{subject}: {said}", reason=meaning.reason, hint=meaning.hint)

    def as_wrong_bucket(self, bucket: str) -> InvalidRequest:
        """When the store is opened: the configuration is wrong."""
        hint = BY_CODE["NoSuchBucket"].hint
        return InvalidRequest(
            f"there is no bucket {bucket!r}", reason="INVALID_CONFIGURATION", field="bucket", hint=hint
        )

    def _title(self) -> str:
        name = self.code or (f"status {self.status}")
        return f"{name} ({self.words})" if self.words else name


_OWN_CODES: Final = frozenset({NO_NAME, NO_CONNECTION, NO_TRUST, STALLED, CUT, NO_S3, REPLACED})


def failure_of(status: int, body: str) -> Failure:
    """What an answer that is no success says."""
    code = re.search(r"<Code>([A-Za-z0-9.]{1,80})</Code>", body)
    words = re.search(r"<Message>([^<]*)</Message>", body)
    return Failure(code[1] if code else "", plain(words[1] if words else ""), status)


def plain(words: str) -> str:
    """A sentence of a stranger, cut and without what would break a line."""
    text = "".join(letter if letter.isprintable() else " " for letter in words).strip().rstrip(".")
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"

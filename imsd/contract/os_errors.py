"""Errors of the operating system in the words of the contract: one table for every driver.

What is in neither table means that the store is out of reach, and trying again later may help.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    ImsError,
    LimitExceeded,
    NotFound,
    Unavailable,
)

OsErrors = Mapping[int, tuple[type[ImsError], str]]

READING: OsErrors = {
    errno.ENOENT: (NotFound, "NOT_FOUND"),
    errno.ENOTDIR: (NotFound, "NOT_FOUND"),
    errno.EISDIR: (NotFound, "NOT_FOUND"),
    errno.ELOOP: (NotFound, "NOT_FOUND"),  # a symbolic link where O_NOFOLLOW wants a file
    errno.EIO: (DataLoss, "DATA_LOSS"),
    errno.EBADMSG: (DataLoss, "DATA_LOSS"),  # a checksum of the file system does not fit
    errno.EUCLEAN: (DataLoss, "DATA_LOSS"),  # the file system's own structures are damaged
}

WRITING: OsErrors = {
    errno.EEXIST: (AlreadyExists, "ALREADY_EXISTS"),
    errno.ENOTDIR: (FailedPrecondition, "FAILED_PRECONDITION"),  # a blob where a folder should be
    errno.ENOSPC: (LimitExceeded, "CAPACITY_EXHAUSTED"),
    errno.EDQUOT: (LimitExceeded, "CAPACITY_EXHAUSTED"),
    errno.EFBIG: (LimitExceeded, "CAPACITY_EXHAUSTED"),
    errno.EROFS: (FailedPrecondition, "STORE_READ_ONLY"),
    errno.EACCES: (FailedPrecondition, "STORE_READ_ONLY"),
    errno.EPERM: (FailedPrecondition, "STORE_READ_ONLY"),
}

HINTS = {
    "FAILED_PRECONDITION": "a file or a link has the name of a folder on the way: choose another name",
    "CAPACITY_EXHAUSTED": "free some room, or give the store more",
    "STORE_READ_ONLY": "check the owner and mode of the directory, and how it is mounted",
    "DATA_LOSS": "look at the kernel's log: the disk or its file system is failing",
    "STORE_UNAVAILABLE": "check the disk and the daemon's log, then try again",
}
# Of what is no fault of a disk.
NOT_ALLOWED = "let the user of the daemon read it: check owner and mode, of the folders above it too"


@contextmanager
def translate_os_errors(subject: str, table: OsErrors) -> Iterator[None]:
    """Turn an `OSError` of the block into its `ImsError`; ``subject`` names what was at work.

    The message carries the system's words, never a path.
    """
    try:
        yield
    except OSError as error:
        found, reason = table.get(error.errno or 0, (Unavailable, "STORE_UNAVAILABLE"))
        words = os.strerror(error.errno) if error.errno else str(error)
        is_denied = reason == "STORE_UNAVAILABLE" and error.errno in (errno.EACCES, errno.EPERM)
        hint = NOT_ALLOWED if is_denied else HINTS.get(reason, "")
        raise found(f"{subject}: {words}", reason=reason, hint=hint) from error
